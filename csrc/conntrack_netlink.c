/* Conntrack entries out of ctnetlink's attributes. */
#include "conntrack.h"

static uint16_t attribute_be16(struct attribute a)
{
    return a.length < 2 ? 0 : (uint16_t)(a.data[0] << 8 | a.data[1]);
}

bool tuple_parse(struct attribute attribute, uint8_t family, struct tuple *tuple)
{
    struct attribute parts[CTA_TUPLE_MAX + 1], ip[CTA_IP_MAX + 1], protocol[CTA_PROTO_MAX + 1];
    size_t length = address_length(family);
    attributes_parse(attribute.data, attribute.length, parts, CTA_TUPLE_MAX + 1);
    attributes_parse(parts[CTA_TUPLE_IP].data, parts[CTA_TUPLE_IP].length, ip, CTA_IP_MAX + 1);
    attributes_parse(parts[CTA_TUPLE_PROTO].data, parts[CTA_TUPLE_PROTO].length, protocol, CTA_PROTO_MAX + 1);
    struct attribute source = ip[family == AF_INET ? CTA_IP_V4_SRC : CTA_IP_V6_SRC];
    struct attribute destination = ip[family == AF_INET ? CTA_IP_V4_DST : CTA_IP_V6_DST];
    if (source.length != length || destination.length != length || protocol[CTA_PROTO_NUM].length < 1)
        return false;
    memset(tuple, 0, sizeof(*tuple));
    memcpy(tuple->source, source.data, length);
    memcpy(tuple->destination, destination.data, length);
    tuple->protocol = protocol[CTA_PROTO_NUM].data[0];
    tuple->source_port = attribute_be16(protocol[CTA_PROTO_SRC_PORT]);
    tuple->destination_port = attribute_be16(protocol[CTA_PROTO_DST_PORT]);
    return true;
}

bool entry_parse(const uint8_t *data, size_t length, uint8_t family, struct entry *entry)
{
    struct attribute *a = entry->attributes;
    attributes_parse(data, length, a, CTA_MAX + 1);
    if (!tuple_parse(a[CTA_TUPLE_ORIG], family, &entry->original) ||
        !tuple_parse(a[CTA_TUPLE_REPLY], family, &entry->reply))
        return false;
    entry->status = attribute_be32(a[CTA_STATUS], 0);
    entry->timeout = attribute_be32(a[CTA_TIMEOUT], 0);
    entry->id = attribute_be32(a[CTA_ID], 0);
    entry->state = 0;
    if (entry->original.protocol == NFK_TCP && a[CTA_PROTOINFO].data) {
        struct attribute info[CTA_PROTOINFO_MAX + 1], tcp[CTA_PROTOINFO_TCP_MAX + 1];
        attributes_parse(a[CTA_PROTOINFO].data, a[CTA_PROTOINFO].length, info, CTA_PROTOINFO_MAX + 1);
        attributes_parse(info[CTA_PROTOINFO_TCP].data, info[CTA_PROTOINFO_TCP].length, tcp, CTA_PROTOINFO_TCP_MAX + 1);
        entry->state = attribute_u8(tcp[CTA_PROTOINFO_TCP_STATE], 0);
    }
    return true;
}

bool flow_entry(const struct nfk_flows *flows, const struct flow *flow, struct entry *entry)
{
    return entry_parse(flows->arena.data + flow->attributes, flow->length, flows->family, entry);
}

int nfk_netlink_open(int protocol) { return netlink_open(protocol); }
