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
    struct nfk_image image;          /* the kernel's bytes when the table was opened */
    bool policy_set[NF_INET_NUMHOOKS]; /* by hook: the policy's counters are to begin anew */
};

/* Calls the family's variant of a libiptc function; the two differ in the entry's type only. */
#define CALL(table, name, ...) \
    ((table)->family == AF_INET6 ? ip6tc_##name(__VA_ARGS__) : iptc_##name(__VA_ARGS__))

/* The table as the kernel has it now, in malloc'ed memory. */
int nfk_read_kernel(const nfk_table *table, struct nfk_image *image);
/* Notes that the counters of a base chain's policy are not to be carried over; nothing for a user chain. */
void nfk_forget_policy_counters(nfk_table *table, const char *chain);

/* The verdict, chain or extension that a rule ends in; "" for none. */
const char *nfk_target_name(nfk_table *table, const void *entry);

#endif
