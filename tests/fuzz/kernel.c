/*
 * A kernel that says anything: takes the place of sendto(), recvmmsg() and recv() of the code under test (linked with
 * --wrap), and hands out what the fuzzer made up.
 */

#define _GNU_SOURCE /* struct mmsghdr */
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/netlink.h>

#include "fuzz.h"

static const uint8_t *answers;
static size_t left;
static uint32_t awaited;      /* the sequence of the last message sent */
static unsigned int datagrams; /* that this exchange still brings */

ssize_t __wrap_sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size);
int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout);

void fuzz_answers(const uint8_t *data, size_t size)
{
    answers = data;
    left = size;
    datagrams = 0;
}

ssize_t __wrap_sendto(int fd, const void *data, size_t length, int flags, const struct sockaddr *to, socklen_t size)
{
    const uint8_t *at = data;

    (void)fd, (void)flags, (void)to, (void)size;
    for (size_t rest = length; rest >= sizeof(struct nlmsghdr);) {
        struct nlmsghdr header;

        memcpy(&header, at, sizeof(header));
        /* What is sent is well-formed, whatever came in before. */
        if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > rest)
            __builtin_trap();
        awaited = header.nlmsg_seq;
        if (NLMSG_ALIGN(header.nlmsg_len) >= rest)
            break;
        at += NLMSG_ALIGN(header.nlmsg_len);
        rest -= NLMSG_ALIGN(header.nlmsg_len);
    }
    datagrams = left ? *answers : 0;
    if (left) {
        answers++;
        left--;
    }
    return length;
}

static size_t end_of_dump(uint8_t *into)
{
    struct nlmsghdr header = {.nlmsg_len = NLMSG_LENGTH(sizeof(int)), .nlmsg_type = NLMSG_DONE, .nlmsg_seq = awaited};
    int none = 0;

    memcpy(into, &header, sizeof(header));
    memcpy(into + NLMSG_HDRLEN, &none, sizeof(none));
    return header.nlmsg_len;
}

static size_t next_datagram(uint8_t *into, size_t room)
{
    uint16_t length = 0;

    if (!datagrams || left < sizeof(length)) {
        datagrams = 0;
        return end_of_dump(into);
    }
    datagrams--;
    memcpy(&length, answers, sizeof(length));
    answers += sizeof(length);
    left -= sizeof(length);
    if (length > left)
        length = left;
    if (length > room)
        length = room;
    memcpy(into, answers, length);
    answers += length;
    left -= length;
    for (size_t at = 0; at + sizeof(struct nlmsghdr) <= length;) {
        struct nlmsghdr header;

        memcpy(&header, into + at, sizeof(header));
        if (header.nlmsg_seq == FUZZ_SEQUENCE)
            memcpy(into + at + offsetof(struct nlmsghdr, nlmsg_seq), &awaited, sizeof(awaited));
        if (header.nlmsg_len < sizeof(header) || header.nlmsg_len > length - at)
            break;
        at += NLMSG_ALIGN(header.nlmsg_len);
    }
    return length;
}

int __wrap_recvmmsg(int fd, struct mmsghdr *messages, unsigned int count, int flags, struct timespec *timeout)
{
    unsigned int given = 0;
    int ended = 0;

    (void)fd, (void)flags, (void)timeout;
    while (given < count && !ended) {
        const struct iovec *part = messages[given].msg_hdr.msg_iov;

        ended = !datagrams;
        messages[given++].msg_len = next_datagram(part->iov_base, part->iov_len);
    }
    return given;
}
