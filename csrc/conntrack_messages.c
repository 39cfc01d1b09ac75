/* The ctnetlink requests that list entries, take one down, build it anew and make it whole again. What the kernel makes
 * of each attribute is in net/netfilter/nf_conntrack_netlink.c (ctnetlink_new_conntrack and what it calls). */
#include "conntrack.h"

static size_t message_open(struct buffer *out, uint16_t kind, uint16_t flags, uint32_t sequence, uint8_t family)
{
    size_t at = out->length;
    struct nlmsghdr header = {.nlmsg_type = (uint16_t)(NFNL_SUBSYS_CTNETLINK << 8 | kind),
                              .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags), .nlmsg_seq = sequence};
    struct nfgenmsg generic = {.nfgen_family = family, .version = NFNETLINK_V0};
    uint8_t *p = buffer_extend(out, sizeof(header) + sizeof(generic));
    if (p) {
        memcpy(p, &header, sizeof(header));
        memcpy(p + sizeof(header), &generic, sizeof(generic));
    }
    return at;
}

static void message_close(struct buffer *out, size_t at)
{
    uint32_t length = (uint32_t)(out->length - at);
    if (!out->failed)
        memcpy(out->data + at, &length, sizeof(length));    /* nlmsg_len comes first */
}

static uint8_t *put(struct buffer *out, unsigned type, const void *data, size_t length)
{
    struct nlattr header = {.nla_len = (uint16_t)(NLA_HDRLEN + length), .nla_type = (uint16_t)type};
    uint8_t *p = buffer_extend(out, NLA_ALIGN(NLA_HDRLEN + length));
    if (!p)
        return NULL;
    memcpy(p, &header, sizeof(header));
    if (length)
        memcpy(p + NLA_HDRLEN, data, length);
    memset(p + NLA_HDRLEN + length, 0, NLA_ALIGN(length) - length);
    return p + NLA_HDRLEN;
}

static void put_be32(struct buffer *out, unsigned type, uint32_t value)
{
    put(out, type, (uint8_t[]){(uint8_t)(value >> 24), (uint8_t)(value >> 16), (uint8_t)(value >> 8), (uint8_t)value}, 4);
}

static void put_be16(struct buffer *out, unsigned type, uint16_t value)
{
    put(out, type, (uint8_t[]){(uint8_t)(value >> 8), (uint8_t)value}, 2);
}

static void put_same(struct buffer *out, const struct entry *entry, enum ctattr_type type, unsigned nested)
{
    struct attribute a = entry->attributes[type];
    if (a.data)
        put(out, type | nested, a.data, a.length);
}

static size_t nest_open(struct buffer *out, unsigned type)
{
    size_t at = out->length;
    put(out, type | NLA_F_NESTED, NULL, 0);
    return at;
}

static void nest_close(struct buffer *out, size_t at)
{
    uint16_t length = (uint16_t)(out->length - at);
    if (!out->failed)
        memcpy(out->data + at, &length, sizeof(length));    /* nla_len comes first */
}

static void put_identity(struct buffer *out, const struct entry *entry)
{
    put_same(out, entry, CTA_TUPLE_ORIG, NLA_F_NESTED);     /* with its CTA_TUPLE_ZONE, if it has one */
    put_same(out, entry, CTA_ZONE, 0);
}

/* All entries of a family or, with `source`, those from that host, and if one service is given to that service only.
 * Kernels before 5.8 pass over CTA_FILTER and send all of them (ctnetlink_alloc_filter). */
void message_dump(struct buffer *out, uint32_t sequence, uint8_t family, const uint8_t *source,
                  const nfk_service *service)
{
    enum { SOURCE = 1 << 0, PROTOCOL = 1 << 3, DESTINATION_PORT = 1 << 5 };     /* net/netfilter/nf_internals.h */
    size_t at = message_open(out, IPCTNL_MSG_CT_GET, NLM_F_DUMP, sequence, family), nest;
    uint32_t flags = SOURCE;
    if (source) {
        size_t tuple = nest_open(out, CTA_TUPLE_ORIG);
        nest = nest_open(out, CTA_TUPLE_IP);
        put(out, family == AF_INET ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, source, address_length(family));
        nest_close(out, nest);
        if (service) {
            flags |= PROTOCOL;
            nest = nest_open(out, CTA_TUPLE_PROTO);
            put(out, CTA_PROTO_NUM, &service->protocol, 1);
            if (service->low == service->high && (service->protocol == NFK_TCP || service->protocol == NFK_UDP)) {
                flags |= DESTINATION_PORT;
                put_be16(out, CTA_PROTO_DST_PORT, service->low);
            }
            nest_close(out, nest);
        }
        nest_close(out, tuple);
        nest = nest_open(out, CTA_FILTER);
        put(out, CTA_FILTER_ORIG_FLAGS, &flags, sizeof(flags));
        nest_close(out, nest);
    }
    message_close(out, at);
}

void message_get(struct buffer *out, uint32_t sequence, uint8_t family, const struct entry *entry)
{
    size_t at = message_open(out, IPCTNL_MSG_CT_GET, 0, sequence, family);
    put_identity(out, entry);
    message_close(out, at);
}

void message_delete(struct buffer *out, uint32_t sequence, uint8_t family, const struct entry *entry,
                    enum ctattr_type by, bool only_this_id)
{
    size_t at = message_open(out, IPCTNL_MSG_CT_DELETE, 0, sequence, family);
    put_same(out, entry, by, NLA_F_NESTED);
    put_same(out, entry, CTA_ZONE, 0);
    if (only_this_id)
        put_same(out, entry, CTA_ID, 0);
    message_close(out, at);
}

/* The reply tuple as it would be without NAT: handed the translated one, the kernel sets no NAT bits at all. */
static void put_plain_reply(struct buffer *out, uint8_t family, const struct entry *entry)
{
    const struct tuple *o = &entry->original;
    struct attribute parts[CTA_TUPLE_MAX + 1];
    size_t tuple = nest_open(out, CTA_TUPLE_REPLY), part = nest_open(out, CTA_TUPLE_IP);
    put(out, family == AF_INET ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, o->destination, address_length(family));
    put(out, family == AF_INET ? CTA_IP_V4_DST : CTA_IP_V6_DST, o->source, address_length(family));
    nest_close(out, part);
    part = nest_open(out, CTA_TUPLE_PROTO);
    put(out, CTA_PROTO_NUM, &o->protocol, 1);
    put_be16(out, CTA_PROTO_SRC_PORT, o->destination_port);
    put_be16(out, CTA_PROTO_DST_PORT, o->source_port);
    nest_close(out, part);
    attributes_parse(entry->attributes[CTA_TUPLE_REPLY].data, entry->attributes[CTA_TUPLE_REPLY].length, parts,
                     CTA_TUPLE_MAX + 1);
    if (parts[CTA_TUPLE_ZONE].data)
        put(out, CTA_TUPLE_ZONE, parts[CTA_TUPLE_ZONE].data, parts[CTA_TUPLE_ZONE].length);
    nest_close(out, tuple);
}

static void put_nat(struct buffer *out, unsigned type, uint8_t family, const uint8_t *address, uint16_t port)
{
    size_t nat = nest_open(out, type), part;
    put(out, family == AF_INET ? CTA_NAT_V4_MINIP : CTA_NAT_V6_MINIP, address, address_length(family));
    put(out, family == AF_INET ? CTA_NAT_V4_MAXIP : CTA_NAT_V6_MAXIP, address, address_length(family));
    part = nest_open(out, CTA_NAT_PROTO);
    put_be16(out, CTA_PROTONAT_PORT_MIN, port);
    put_be16(out, CTA_PROTONAT_PORT_MAX, port);
    nest_close(out, part);
    nest_close(out, nat);
}

/* State, window scale and flags; BE_LIBERAL because the kernel takes no sequence numbers from us, so the new entry
 * cannot check windows. With `bare` only BE_LIBERAL is touched. */
static void put_tcp(struct buffer *out, const struct entry *entry, bool bare)
{
    struct attribute info[CTA_PROTOINFO_MAX + 1], tcp[CTA_PROTOINFO_TCP_MAX + 1];
    if (entry->original.protocol != NFK_TCP || !entry->attributes[CTA_PROTOINFO].data)
        return;
    attributes_parse(entry->attributes[CTA_PROTOINFO].data, entry->attributes[CTA_PROTOINFO].length, info,
                     CTA_PROTOINFO_MAX + 1);
    attributes_parse(info[CTA_PROTOINFO_TCP].data, info[CTA_PROTOINFO_TCP].length, tcp, CTA_PROTOINFO_TCP_MAX + 1);
    size_t protoinfo = nest_open(out, CTA_PROTOINFO), nest = nest_open(out, CTA_PROTOINFO_TCP);
    if (!bare) {
        put(out, CTA_PROTOINFO_TCP_STATE, &entry->state, 1);
        for (unsigned k = CTA_PROTOINFO_TCP_WSCALE_ORIGINAL; k <= CTA_PROTOINFO_TCP_WSCALE_REPLY; k++)
            if (tcp[k].length == 1)
                put(out, k, tcp[k].data, 1);
    }
    for (unsigned k = CTA_PROTOINFO_TCP_FLAGS_ORIGINAL; k <= CTA_PROTOINFO_TCP_FLAGS_REPLY; k++) {
        uint8_t flags = bare ? 0 : attribute_u8(tcp[k], 0);
        /* struct nf_ct_tcp_flags: value, mask */
        put(out, k, (uint8_t[]){(uint8_t)(flags | NFK_BE_LIBERAL), (uint8_t)(flags | NFK_BE_LIBERAL)}, 2);
    }
    nest_close(out, nest);
    nest_close(out, protoinfo);
}

void message_create(struct buffer *out, uint32_t sequence, uint8_t family, const struct entry *entry, int level)
{
    const struct tuple *o = &entry->original, *r = &entry->reply;
    size_t length = address_length(family);
    bool moved = memcmp(o->source, r->destination, length) || memcmp(o->destination, r->source, length) ||
                 o->source_port != r->destination_port || o->destination_port != r->source_port;
    size_t at = message_open(out, IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_EXCL, sequence, family);
    put_identity(out, entry);
    put_plain_reply(out, family, entry);
    /* Without CONFIRMED the kernel answers EBUSY; without SEEN_REPLY the next packet is ctstate NEW; without
     * ASSURED nf_conncount counts it. */
    put_be32(out, CTA_STATUS, IPS_CONFIRMED);
    put_be32(out, CTA_TIMEOUT, entry->timeout ? entry->timeout : 1);
    put_tcp(out, entry, false);
    put_same(out, entry, CTA_MARK, 0);
    if (moved || entry->status & IPS_NAT_DONE_MASK) {
        /* Both, also where nothing was moved: a binding to itself keeps the opening packet out of the nat table. */
        put_nat(out, CTA_NAT_DST, family, r->source, r->source_port);
        put_nat(out, CTA_NAT_SRC, family, r->destination, r->destination_port);
    }
    if (level == CREATE_ALL) {
        put_same(out, entry, CTA_HELP, NLA_F_NESTED);
        put_same(out, entry, CTA_TUPLE_MASTER, NLA_F_NESTED);
    }
    if (level < CREATE_BARE) {
        put_same(out, entry, CTA_LABELS, 0);
        put_same(out, entry, CTA_SEQ_ADJ_ORIG, NLA_F_NESTED);
        put_same(out, entry, CTA_SEQ_ADJ_REPLY, NLA_F_NESTED);
        put_same(out, entry, CTA_SYNPROXY, NLA_F_NESTED);
    }
    message_close(out, at);
}

void message_update(struct buffer *out, uint32_t sequence, uint8_t family, const struct entry *entry,
                    unsigned what, uint32_t status)
{
    size_t at = message_open(out, IPCTNL_MSG_CT_NEW, 0, sequence, family);
    put_identity(out, entry);
    if (what & UPDATE_TIMEOUT)
        put_be32(out, CTA_TIMEOUT, entry->timeout ? entry->timeout : 1);
    if (what & UPDATE_STATUS)
        put_be32(out, CTA_STATUS, status);
    if (what & (UPDATE_STATE | UPDATE_LIBERAL))
        put_tcp(out, entry, !(what & UPDATE_STATE));
    if (what & UPDATE_MARKS) {
        /* Some kernels leave a mark of zero out of their answers; those without marks take no notice. */
        put_be32(out, CTA_MARK, attribute_be32(entry->attributes[CTA_MARK], 0));
        put_same(out, entry, CTA_LABELS, 0);
    }
    message_close(out, at);
}

/* Only the last message of a batch asks for an answer; errors are always answered. */
void message_expect_ack(struct buffer *out, size_t last)
{
    if (!out->failed && out->length > last)
        ((struct nlmsghdr *)(out->data + last))->nlmsg_flags |= NLM_F_ACK;
}
