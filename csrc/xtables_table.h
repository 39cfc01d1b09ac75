/* The inside of an open table, shared by the files that walk it. */
#ifndef NFK_XTABLES_TABLE_H
#define NFK_XTABLES_TABLE_H

#include "xtables_world.h"

struct nfk_image {
    struct ipt_get_entries *entries;
    size_t size;
};

struct nfk_table {
    int family;
    int fd;
    char name[XT_TABLE_MAXNAMELEN];
    struct xtc_handle *handle;
    struct nfk_image image; /* the kernel's bytes when the table was opened */
};

/* The verdict, chain or extension that a rule ends in; "" for none. */
const char *nfk_target_name(nfk_table *table, const void *entry);

#endif
