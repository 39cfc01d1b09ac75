/* What the C files of the conntrack world share: netlink buffers, conntrack entries, flows. Not seen by Python. */
#ifndef NFK_CONNTRACK_H
#define NFK_CONNTRACK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE             /* pipe2, in6_pktinfo */
#endif

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/netlink.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include "netlink.h"
#include "probe.h"
#include "conntrack_api.h"

#define NFK_HOOKS 5
#define NFK_PASSAGE(direction, hook) (1u << ((direction) * NFK_HOOKS + (hook)))
#define NFK_UNKNOWN (-1)        /* ifindex: no route */
#define NFK_LOCAL 0             /* ifindex: this host */
#define NFK_MAX_BATCH 1024
#define NFK_TCP 6
#define NFK_UDP 17
/* enum tcp_conntrack (linux/netfilter/nf_conntrack_tcp.h), spelt out: that header does not compile alone. */
enum { NFK_TCP_NONE = 0, NFK_TCP_SYN_SENT = 1, NFK_TCP_TIME_WAIT = 7, NFK_TCP_CLOSE = 8, NFK_TCP_SYN_SENT2 = 9 };
enum { NFK_BE_LIBERAL = 0x08 };

enum { NFK_PREROUTING, NFK_INPUT, NFK_FORWARD, NFK_OUTPUT, NFK_POSTROUTING };

/* One direction of a flow; addresses zero-padded to 16 bytes, ports in host order. */
struct tuple { uint8_t source[16], destination[16]; uint16_t source_port, destination_port; uint8_t protocol; };

/* A conntrack entry as the kernel reported it; the attributes point into the message it was parsed from. */
struct entry {
    struct attribute attributes[CTA_MAX + 1];
    struct tuple original, reply;
    uint32_t status, timeout, id;
    uint8_t state;                              /* TCP; 0 for the others */
};
bool tuple_parse(struct attribute attribute, uint8_t family, struct tuple *tuple);
bool entry_parse(const uint8_t *attributes, size_t length, uint8_t family, struct entry *entry);
static inline size_t address_length(uint8_t family) { return family == AF_INET ? 4 : 16; }
static inline bool entry_closed(const struct entry *e)      /* as nf_conncount.c already_closed() */
{
    return e->original.protocol == NFK_TCP && (e->state == NFK_TCP_TIME_WAIT || e->state == NFK_TCP_CLOSE);
}

struct flow {
    struct tuple original, reply;
    size_t attributes;                          /* offset of its attributes in the arena */
    uint32_t length, status;
    int32_t original_sender, reply_sender;      /* ifindex behind which the sender is, or NFK_LOCAL, NFK_UNKNOWN */
    uint16_t passages;
    bool helped;
    uint8_t left_out;                           /* the caller wants it neither rebuilt nor sent */
    uint32_t sent[2];                           /* packets really sent, by direction, second turns included */
};
struct nfk_flows {
    struct flow *flows; size_t count, room;
    struct buffer arena;
    uint8_t family;
    struct channel ctnetlink;
};
int farthest_hook(unsigned hooks, bool from_here);
bool flow_entry(const struct nfk_flows *flows, const struct flow *flow, struct entry *entry);

/* conntrack_messages.c: each appends one ctnetlink request. */
void message_dump(struct buffer *out, uint32_t sequence, uint8_t family, const uint8_t *source,
                  const nfk_service *service);
void message_get(struct buffer *out, uint32_t sequence, uint8_t family, const struct entry *entry);
void message_delete(struct buffer *out, uint32_t sequence, uint8_t family, const struct entry *entry,
                    enum ctattr_type by, bool only_this_id);
enum { CREATE_ALL, CREATE_WITHOUT_HELPER, CREATE_BARE };
void message_create(struct buffer *out, uint32_t sequence, uint8_t family, const struct entry *entry, int level);
enum { UPDATE_TIMEOUT = 1, UPDATE_STATUS = 2, UPDATE_STATE = 4, UPDATE_MARKS = 8, UPDATE_LIBERAL = 16 };
void message_update(struct buffer *out, uint32_t sequence, uint8_t family, const struct entry *entry,
                    unsigned what, uint32_t status);
void message_expect_ack(struct buffer *out, size_t last);

/* conntrack_match.c */
struct packet_view {
    const uint8_t *source, *destination, *in_name, *out_name;   /* names: 16 bytes, NULL when unknown */
    uint16_t source_port, destination_port;
    uint8_t protocol;
};
bool condition_holds(const nfk_condition *c, const nfk_ports *ports, size_t address, const struct packet_view *p,
                     bool with_interfaces);

/* conntrack_routes.c: where an address is, asked once each. */
struct route { uint8_t address[16]; int32_t ifindex; bool used; uint8_t name[16]; };
struct routes { struct route *table; size_t room, count; uint8_t family; struct channel channel; };
int routes_open(struct routes *routes, int fd, uint8_t family);
int routes_want(struct routes *routes, const uint8_t address[16]);
int routes_resolve(struct routes *routes);
const struct route *routes_find(const struct routes *routes, const uint8_t address[16]);
void routes_close(struct routes *routes);

/* conntrack_guard.c */
struct guardian;
struct guardian *guardian_start(size_t room, int ctnetlink, int *error);
int guardian_take(struct guardian *guardian, const struct buffer *messages);   /* NULL: nothing left to complete */
void guardian_stop(struct guardian *guardian);
int guardian_pid(const struct guardian *guardian);

/* conntrack_packets.c */
enum { NFK_FRAME_HEAD = 14 };           /* room that packet_send wants before the packet */
int packet_send(const nfk_tap *tap, int raw, uint8_t family, uint8_t *packet, size_t length,
                const struct tuple *tuple, int32_t scope);
#endif
