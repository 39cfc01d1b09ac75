/* The inside of the legacy world: the kernel's tables, libxtables, and where the parts of an entry lie in either family. */
#ifndef NFK_XTABLES_H
#define NFK_XTABLES_H

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <net/if.h>
#include <netinet/in.h>

#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <xtables.h>

#define NFK_JUMP 255

#include "probe.h"
#include "xtables_api.h"

static inline size_t nfk_head_size(int family)
{
    return family == AF_INET6 ? sizeof(struct ip6t_entry) : sizeof(struct ipt_entry);
}

static inline uint16_t nfk_target_offset(int family, const void *entry)
{
    return family == AF_INET6 ? ((const struct ip6t_entry *)entry)->target_offset
                              : ((const struct ipt_entry *)entry)->target_offset;
}

static inline uint16_t nfk_next_offset(int family, const void *entry)
{
    return family == AF_INET6 ? ((const struct ip6t_entry *)entry)->next_offset
                              : ((const struct ipt_entry *)entry)->next_offset;
}

static inline struct xt_counters *nfk_counters(int family, void *entry)
{
    return family == AF_INET6 ? &((struct ip6t_entry *)entry)->counters : &((struct ipt_entry *)entry)->counters;
}

static inline struct xt_entry_target *nfk_target(int family, const void *entry)
{
    return (struct xt_entry_target *)((char *)entry + nfk_target_offset(family, entry));
}

/* Whether a target's header stands for a verdict, a jump or nothing: it has a standard target's size and no data. */
static inline bool nfk_is_standard(const struct xt_entry_target *target)
{
    return target->u.target_size == XT_ALIGN(sizeof(struct xt_standard_target))
        && (target->u.user.revision == NFK_JUMP || target->u.user.name[0] == '\0'
            || strcmp(target->u.user.name, "ACCEPT") == 0 || strcmp(target->u.user.name, "DROP") == 0
            || strcmp(target->u.user.name, "QUEUE") == 0 || strcmp(target->u.user.name, "RETURN") == 0);
}

/* What stands before a user chain and at the end of a table. */
static inline bool nfk_is_error(const struct xt_entry_target *target)
{
    return strcmp(target->u.user.name, XT_ERROR_TARGET) == 0;
}

#endif
