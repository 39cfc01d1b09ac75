/*
 * What a table is in the kernel: reading its bytes, telling whether they changed, and writing the table anew with all
 * counters.  libiptc lets the counters of policies begin anew at every commit (__iptcc_p_del_policy() maps them as
 * zeroed), so these are added again here: it has by then added what came between its reading and the replace.
 */
#include <errno.h>
#include <sys/socket.h>

#include "xtables_table.h"

/* The counters of the policies as libiptc read them, each at its entry's place in the new table. */
struct policies {
    struct xt_counters_info *counters;
    size_t used; /* places up to the last policy */
};

static const char *const hook_names[NF_INET_NUMHOOKS] = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"};

int nfk_read_kernel(const nfk_table *table, struct nfk_image *image)
{
    bool v6 = table->family == AF_INET6;
    int level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
    struct ipt_getinfo info;
    struct ipt_get_entries *entries;
    socklen_t size;
    int error;

    /* struct ip6t_getinfo and ip6t_get_entries have the same layout (linux/netfilter_ipv6/ip6_tables.h). */
    for (int attempt = 0; attempt < 8; attempt++) {
        memset(&info, 0, sizeof(info));
        strcpy(info.name, table->name);
        size = sizeof(info);
        if (getsockopt(table->fd, level, v6 ? IP6T_SO_GET_INFO : IPT_SO_GET_INFO, &info, &size) < 0)
            return errno;
        entries = calloc(1, sizeof(*entries) + info.size);
        if (!entries)
            return ENOMEM;
        strcpy(entries->name, table->name);
        entries->size = info.size;
        size = sizeof(*entries) + info.size;
        if (getsockopt(table->fd, level, v6 ? IP6T_SO_GET_ENTRIES : IPT_SO_GET_ENTRIES, entries, &size) == 0) {
            image->entries = entries;
            image->size = info.size;
            return 0;
        }
        error = errno;
        free(entries);
        if (error != EAGAIN) /* EAGAIN: it changed its size between the two calls */
            return error;
    }
    return EAGAIN;
}

static bool same_but_for_counters(int family, const struct nfk_image *left, const struct nfk_image *right)
{
    size_t counters = family == AF_INET6 ? offsetof(struct ip6t_entry, counters) : offsetof(struct ipt_entry, counters);
    size_t head = nfk_head_size(family), at = 0, next;

    if (left->size != right->size)
        return false;
    while (at < left->size) {
        const unsigned char *a = (const unsigned char *)left->entries->entrytable + at;
        const unsigned char *b = (const unsigned char *)right->entries->entrytable + at;

        if (left->size - at < head)
            return false;
        next = nfk_next_offset(family, a);
        if (next < head || next > left->size - at || memcmp(a, b, counters) != 0
            || memcmp(a + head, b + head, next - head) != 0)
            return false;
        at += next;
    }
    return true;
}

static int hook_of(const char *chain)
{
    for (int hook = 0; hook < NF_INET_NUMHOOKS; hook++)
        if (strcmp(hook_names[hook], chain) == 0)
            return hook;
    return -1;
}

void nfk_forget_policy_counters(nfk_table *table, const char *chain)
{
    int hook = hook_of(chain);

    if (hook >= 0)
        table->policy_set[hook] = true;
}

static size_t count_rules(nfk_table *table, const char *chain)
{
    size_t rules = 0;

    for (const void *entry = nfk_rule_first(table, chain); entry; entry = nfk_rule_next(table, entry))
        rules++;
    return rules;
}

/* libiptc writes the base chains first, in order, each as its rules and then its policy. */
static bool policies_gather(nfk_table *table, struct policies *kept)
{
    size_t at = 0, places = 0;

    for (const char *chain = nfk_chain_first(table); chain && hook_of(chain) >= 0; chain = nfk_chain_next(table))
        places += count_rules(table, chain) + 1;
    kept->counters = calloc(1, sizeof(*kept->counters) + places * sizeof(struct xt_counters));
    if (!kept->counters)
        return false;
    for (const char *chain = nfk_chain_first(table); chain && hook_of(chain) >= 0; chain = nfk_chain_next(table)) {
        uint64_t packets = 0, bytes = 0;

        at += count_rules(table, chain) + 1;
        nfk_chain_policy(table, chain, &packets, &bytes);
        if (table->policy_set[hook_of(chain)] || !packets)
            continue;
        kept->counters->counters[at - 1].pcnt = packets;
        kept->counters->counters[at - 1].bcnt = bytes;
        kept->used = at;
    }
    return true;
}

static int policies_put_back(nfk_table *table, struct policies *kept)
{
    bool v6 = table->family == AF_INET6;
    int level = v6 ? IPPROTO_IPV6 : IPPROTO_IP;
    struct xt_counters_info *all;
    struct ipt_getinfo info = {0};
    socklen_t size = sizeof(info);
    int error = 0;

    if (!kept->used)
        return 0;
    strcpy(info.name, table->name);
    if (getsockopt(table->fd, level, v6 ? IP6T_SO_GET_INFO : IPT_SO_GET_INFO, &info, &size) < 0)
        return errno;
    /* The kernel wants a place for every entry there is. */
    size = sizeof(*all) + info.num_entries * sizeof(struct xt_counters);
    all = calloc(1, size);
    if (!all)
        return ENOMEM;
    strcpy(all->name, table->name);
    all->num_counters = info.num_entries;
    memcpy(all->counters, kept->counters->counters,
           (kept->used < info.num_entries ? kept->used : info.num_entries) * sizeof(struct xt_counters));
    if (setsockopt(table->fd, level, v6 ? IP6T_SO_SET_ADD_COUNTERS : IPT_SO_SET_ADD_COUNTERS, all, size) < 0)
        error = errno;
    free(all);
    return error;
}

int nfk_table_unchanged(nfk_table *table)
{
    struct nfk_image now = {0};
    int error = nfk_read_kernel(table, &now), same;

    if (error)
        return -error;
    same = same_but_for_counters(table->family, &table->image, &now);
    free(now.entries);
    return same;
}

int nfk_table_commit(nfk_table *table, int *applied)
{
    struct policies kept = {0};
    int error;

    *applied = 0;
    errno = 0;
    if (!policies_gather(table, &kept))
        return ENOMEM;
    if (CALL(table, commit, table->handle)) {
        *applied = 1;
        error = policies_put_back(table, &kept);
        free(kept.counters);
        return error;
    }
    error = errno ? errno : EIO;
    free(kept.counters);
    /* libiptc replaces the table and then adds the counters; which of the two failed shows in the kernel only. */
    *applied = nfk_table_unchanged(table) == 0;
    errno = error;
    return error;
}
