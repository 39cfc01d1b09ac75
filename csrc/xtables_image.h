/* A table's bytes as the kernel hands them out: struct ipt_get_entries or ip6t_get_entries with what GET_INFO says. */
#ifndef NFK_XTABLES_IMAGE_H
#define NFK_XTABLES_IMAGE_H

#include "xtables_world.h"

struct nfk_image {
    int family;
    unsigned char *block;   /* what was allocated; the entries lie in it */
    unsigned char *entries;
    uint32_t size, number;  /* bytes and entries */
    uint32_t valid_hooks;
    uint32_t hook_entry[NF_INET_NUMHOOKS], underflow[NF_INET_NUMHOOKS];
};

/* The table as the kernel has it now. 0 or a positive errno. */
int nfk_image_read(int family, int fd, const char *name, struct nfk_image *image);
/* Whether these bytes are one entry: every length in it stays inside of it, and every name ends. Cleans what lies behind
 * the ends of names. */
bool nfk_is_entry(int family, unsigned char *bytes, size_t length);
/* EINVAL unless every length in it stays inside of it, every name ends, every verdict has a name, and hooks and
 * underflows are entries. Cleans what lies behind the ends of names; images must have gone through this before they are
 * compared or walked. */
int nfk_image_check(struct nfk_image *image);
bool nfk_image_same(const struct nfk_image *left, const struct nfk_image *right);
void nfk_image_free(struct nfk_image *image);

#endif
