/* Netlink for every world: a growing buffer, attribute tables, a socket, and one exchange of a batch for its answers.
 * Every length is checked against what was received. */
#ifndef NFK_NETLINK_H
#define NFK_NETLINK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE             /* recvmmsg */
#endif

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <linux/netlink.h>

/* A growing byte buffer. `failed` latches, so that a caller checks once after building a whole batch. */
struct buffer { uint8_t *data; size_t length, room; bool failed; };
uint8_t *buffer_extend(struct buffer *buffer, size_t length);
void buffer_free(struct buffer *buffer);

/* One attribute, pointing into somebody else's bytes; data NULL: absent. */
struct attribute { const uint8_t *data; uint16_t length; };
void attributes_parse(const void *data, size_t length, struct attribute *table, size_t size);
uint32_t attribute_be32(struct attribute attribute, uint32_t otherwise);
uint8_t attribute_u8(struct attribute attribute, uint8_t otherwise);

/* A socket, which is the caller's, and memory to receive into, which whoever holds this frees. */
struct channel {
    int fd;
    uint8_t *received;
    bool answered;              /* all answers are there when the send returns: nothing is waited for */
};

typedef int (*message_handler)(void *context, const struct nlmsghdr *message);
int netlink_exchange(struct channel *channel, const void *data, size_t length, uint32_t last,
                     message_handler handler, void *context);
int netlink_error(const struct nlmsghdr *message);

int netlink_open(int protocol);                 /* a bound socket with large buffers, or -errno */
#endif
