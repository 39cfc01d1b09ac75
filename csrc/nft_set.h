/* What the C files of the nft world share. Not seen by Python. */
#ifndef NFK_NFT_SET_H
#define NFK_NFT_SET_H

#include "netlink.h"
#include <arpa/inet.h>            /* before linux/netfilter.h, which then leaves its own in_addr out */
#include <linux/netfilter.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nf_tables.h>
#include "nft_api.h"

struct nfk_nft {
    struct channel channel;
    struct buffer out;                          /* the batch under construction; its memory is kept */
    uint32_t sequence;                          /* of the next message */
};

struct nfk_set {
    struct nfk_nft *nft;
    uint8_t family;
    size_t key_bytes, head_length;
    uint8_t head[];                             /* the attributes that name table and set */
};

/* Appends a message with the set's name; returns the offset of its header. The caller appends attributes, then calls
 * message_end. */
size_t message_begin(struct nfk_set *set, unsigned type, unsigned flags, bool head);
void message_end(struct buffer *out, size_t at);
size_t nest_begin(struct buffer *out, unsigned type);
void nest_end(struct buffer *out, size_t at);
void attribute_put(struct buffer *out, unsigned type, const void *data, size_t length);
#endif
