/* Netlink bytes in and out: the growing buffer, attribute tables, and one exchange that sends a whole batch and reads
 * until its last message was answered. */
#include "netlink.h"
#include <limits.h>
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

int netlink_open(int protocol)
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
    return answer.error > 0 || answer.error == INT_MIN ? EBADMSG : -answer.error;
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
    enum { ROOM = 1 << 14, AT_ONCE = 48 };                      /* the kernel makes dump messages no larger than ROOM */
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    struct mmsghdr messages[AT_ONCE] = {0};
    struct iovec parts[AT_ONCE];
    ssize_t sent;
    int error = 0, wait = channel->answered ? MSG_DONTWAIT : MSG_WAITFORONE;
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
        int got = recvmmsg(channel->fd, messages, AT_ONCE, wait, NULL);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN && channel->answered)
            break;
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
