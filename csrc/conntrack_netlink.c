/* Netlink bytes in and out: the growing buffer, attribute tables, conntrack entries, and one exchange that sends a
 * whole batch and reads until its last message was answered. Every length is checked against what was received. */
#include "conntrack.h"
#include <sys/time.h>
#include <unistd.h>

uint8_t *buffer_extend(struct buffer *buffer, size_t length)
{
    if (buffer->failed)
        return NULL;
    if (buffer->room - buffer->length < length) {
        size_t room = buffer->room ? buffer->room : 65536;
        while (room - buffer->length < length)
            room *= 2;
        uint8_t *data = realloc(buffer->data, room);
        if (!data) {
            buffer->failed = true;
            return NULL;
        }
        buffer->data = data;
        buffer->room = room;
    }
    uint8_t *at = buffer->data + buffer->length;
    buffer->length += length;
    return at;
}

void buffer_free(struct buffer *buffer)
{
    free(buffer->data);
    *buffer = (struct buffer){0};
}

void attributes_parse(const void *data, size_t length, struct attribute *table, size_t size)
{
    const uint8_t *at = data;
    memset(table, 0, size * sizeof(*table));
    while (length >= NLA_HDRLEN) {
        struct nlattr header;
        memcpy(&header, at, sizeof(header));
        if (header.nla_len < NLA_HDRLEN || header.nla_len > length)
            return;
        unsigned type = header.nla_type & NLA_TYPE_MASK;
        if (type < size)
            table[type] = (struct attribute){at + NLA_HDRLEN, (uint16_t)(header.nla_len - NLA_HDRLEN)};
        size_t step = NLA_ALIGN((size_t)header.nla_len);
        if (step >= length)
            return;
        at += step;
        length -= step;
    }
}

uint32_t attribute_be32(struct attribute a, uint32_t otherwise)
{
    return a.length < 4 ? otherwise
                        : (uint32_t)a.data[0] << 24 | (uint32_t)a.data[1] << 16 | (uint32_t)a.data[2] << 8 | a.data[3];
}

uint8_t attribute_u8(struct attribute a, uint8_t otherwise) { return a.length < 1 ? otherwise : a.data[0]; }

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

int nfk_netlink_open(int protocol)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    struct sockaddr_nl any = {.nl_family = AF_NETLINK};
    int size = 16 << 20, one = 1;
    /* The kernel never blocks for long; the limit only keeps a lost answer from hanging the caller for ever. */
    struct timeval limit = {.tv_sec = 10};
    if (fd < 0)
        return -errno;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size)))
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    if (setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)))
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&any, sizeof(any))) {
        int error = -errno;
        close(fd);
        return error;
    }
    return fd;
}

int netlink_error(const struct nlmsghdr *message)
{
    struct nlmsgerr answer;
    if (message->nlmsg_len < NLMSG_LENGTH(sizeof(int)))
        return EBADMSG;
    memcpy(&answer.error, NLMSG_DATA(message), sizeof(answer.error));
    return -answer.error;
}

/* Walks the messages of one datagram; true once the one that ends the exchange was among them. */
static bool take_datagram(uint8_t *at, size_t left, uint32_t last, message_handler handler, void *context, int *error)
{
    bool ended = false;
    while (left >= sizeof(struct nlmsghdr)) {
        struct nlmsghdr *message = (struct nlmsghdr *)at;       /* malloc and NLMSG_ALIGN keep it aligned */
        if (message->nlmsg_len < sizeof(*message) || message->nlmsg_len > left)
            break;
        ended = ended || (message->nlmsg_seq == last &&
                          (message->nlmsg_type == NLMSG_ERROR || message->nlmsg_type == NLMSG_DONE));
        if (handler && !*error)
            *error = handler(context, message);
        size_t step = NLMSG_ALIGN(message->nlmsg_len);
        if (step >= left)
            break;
        at += step;
        left -= step;
    }
    return ended;
}

/* Sends `data` at once and gives every answer to `handler` until the one to sequence `last` came: its NLMSG_ERROR
 * (which is the ACK, too) or the end of its dump. -errno if the exchange itself broke or a handler said so.
 * An answer comes in its own datagram, so they are received by the dozen, into memory that the channel keeps. */
int netlink_exchange(struct channel *channel, const void *data, size_t length, uint32_t last,
                     message_handler handler, void *context)
{
    enum { ROOM = 1 << 14, AT_ONCE = 32 };                      /* the kernel makes dump messages no larger than ROOM */
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct mmsghdr messages[AT_ONCE] = {0};
    struct iovec parts[AT_ONCE];
    ssize_t sent;
    int error = 0;
    if (!channel->received && !(channel->received = malloc((size_t)ROOM * AT_ONCE)))
        return -ENOMEM;
    do
        sent = sendto(channel->fd, data, length, 0, (struct sockaddr *)&kernel, sizeof(kernel));
    while (sent < 0 && errno == EINTR);
    if (sent < 0)
        return -errno;
    for (size_t i = 0; i < AT_ONCE; i++) {
        parts[i] = (struct iovec){channel->received + i * ROOM, ROOM};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &parts[i], .msg_iovlen = 1};
    }
    for (bool more = true; more;) {
        int got = recvmmsg(channel->fd, messages, AT_ONCE, MSG_WAITFORONE, NULL);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            error = errno == EAGAIN ? -ETIMEDOUT : -errno;
            break;
        }
        for (int i = 0; i < got; i++)
            if (take_datagram(channel->received + (size_t)i * ROOM, messages[i].msg_len, last, handler, context,
                              &error))
                more = false;
    }
    return error;
}
