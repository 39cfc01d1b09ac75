/* One opening packet as rules see it: made by the conntrack world, walked through images of tables by the legacy one.
 * The cffi builders of both read this file (lines that begin with # dropped). All numbers are in host order. */
#ifndef NFK_PROBE_H
#define NFK_PROBE_H

/* Addresses are those that the packet enters with; nat_* what NAT makes of them, the same where there is none. */
struct nfk_probe {
    uint8_t family;         /* AF_INET, AF_INET6 */
    uint8_t protocol;       /* TCP or UDP */
    uint8_t from_here;      /* it starts at OUTPUT; one to this host itself goes on by lo */
    uint8_t sunk_at;        /* NF_INET_*: the hook where it is dropped, right behind the watched table; 255: no packet */
    uint8_t is_reply;       /* of the direction of replies; in a list it stands behind the other one of its flow */
    uint8_t states;         /* what its ctstate may be: bits 1 << (ctinfo % IP_CT_IS_REPLY + 1), as in xt_conntrack.h */
    uint8_t ttl, tos;       /* IPv6: hop limit, traffic class */
    uint8_t tcp_flags;      /* byte 13 of the TCP header */
    uint8_t source_type, destination_type, nat_source_type, nat_destination_type;    /* RTN_*; 0: not known */
    uint8_t reserved;
    uint16_t length;        /* skb->len: from the IP header on */
    uint16_t source_port, destination_port, nat_source_port, nat_destination_port;
    uint32_t ct_mark;
    uint32_t status, status_known;      /* IPS_* of its entry, and which of these bits are known */
    uint8_t source[16], destination[16], nat_source[16], nat_destination[16];
    uint8_t in_name[16], out_name[16];  /* of a packet that comes from outside, or goes there; 0: not known */
};
#endif
