/*
 * One table, read and written through libiptc, for either family.  Beside libiptc's copy it keeps the kernel's bytes
 * of the moment of reading, because libiptc itself cannot tell whether another program replaced the table meanwhile.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "xtables_table.h"

nfk_table *nfk_table_open(int family, const char *name, int *error)
{
    nfk_table *table = calloc(1, sizeof(*table));

    *error = ENOMEM;
    if (!table)
        return NULL;
    table->family = family;
    table->fd = -1;
    if (strlen(name) >= sizeof(table->name)) {
        *error = ENOENT;
        goto failed;
    }
    strcpy(table->name, name);
    table->fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    if (table->fd < 0) {
        *error = errno;
        goto failed;
    }
    *error = nfk_read_kernel(table, &table->image);
    if (*error)
        goto failed;
    table->handle = CALL(table, init, name);
    if (!table->handle) {
        *error = errno;
        goto failed;
    }
    return table;
failed:
    nfk_table_close(table);
    return NULL;
}

void nfk_table_close(nfk_table *table)
{
    if (!table)
        return;
    if (table->handle)
        CALL(table, free, table->handle);
    if (table->fd >= 0)
        close(table->fd);
    free(table->image.entries);
    free(table);
}

const char *nfk_table_strerror(nfk_table *table, int error)
{
    return CALL(table, strerror, error);
}

const char *nfk_chain_first(nfk_table *table)
{
    return CALL(table, first_chain, table->handle);
}

const char *nfk_chain_next(nfk_table *table)
{
    return CALL(table, next_chain, table->handle);
}

int nfk_chain_exists(nfk_table *table, const char *chain)
{
    return CALL(table, is_chain, chain, table->handle);
}

int nfk_chain_builtin(nfk_table *table, const char *chain)
{
    return CALL(table, builtin, chain, table->handle);
}

const char *nfk_chain_policy(nfk_table *table, const char *chain, uint64_t *packets, uint64_t *bytes)
{
    struct xt_counters counters = {0};
    const char *policy;

    if (!nfk_chain_builtin(table, chain))
        return NULL;
    policy = CALL(table, get_policy, chain, &counters, table->handle);
    *packets = counters.pcnt;
    *bytes = counters.bcnt;
    return policy;
}

const void *nfk_rule_first(nfk_table *table, const char *chain)
{
    return table->family == AF_INET6 ? (const void *)ip6tc_first_rule(chain, table->handle)
                                     : (const void *)iptc_first_rule(chain, table->handle);
}

const void *nfk_rule_next(nfk_table *table, const void *entry)
{
    return table->family == AF_INET6 ? (const void *)ip6tc_next_rule(entry, table->handle)
                                     : (const void *)iptc_next_rule(entry, table->handle);
}

size_t nfk_rule_size(nfk_table *table, const void *entry)
{
    return nfk_next_offset(table->family, entry);
}

const char *nfk_target_name(nfk_table *table, const void *entry)
{
    return table->family == AF_INET6 ? ip6tc_get_target(entry, table->handle)
                                     : iptc_get_target(entry, table->handle);
}

/* The kernel fills a name up to its NUL only: what follows is whatever libiptc's buffer held. */
static void clean_name(char *name)
{
    size_t length = strnlen(name, XT_EXTENSION_MAXNAMELEN);

    memset(name + length, 0, XT_EXTENSION_MAXNAMELEN - length);
}

void nfk_rule_copy(nfk_table *table, const void *entry, void *into, uint64_t *packets, uint64_t *bytes)
{
    size_t size = nfk_rule_size(table, entry);
    struct xt_counters *counters = nfk_counters(table->family, into);
    struct xt_entry_target *target;
    const char *name;

    memcpy(into, entry, size);
    *packets = counters->pcnt;
    *bytes = counters->bcnt;
    memset(counters, 0, sizeof(*counters));
    if (table->family == AF_INET6) {
        ((struct ip6t_entry *)into)->nfcache = 0;
        ((struct ip6t_entry *)into)->comefrom = 0;
    } else {
        ((struct ipt_entry *)into)->nfcache = 0;
        ((struct ipt_entry *)into)->comefrom = 0;
    }
    for (size_t at = nfk_head_size(table->family); at < nfk_target_offset(table->family, into);) {
        struct xt_entry_match *match = (void *)((char *)into + at);

        clean_name(match->u.user.name);
        at += match->u.match_size;
    }
    target = nfk_target(table->family, into);
    clean_name(target->u.user.name);
    if (target->u.user.name[0])
        return;
    /* A standard target: the number inside is an offset into the old table, its name is what it means. */
    name = nfk_target_name(table, entry);
    memset(target->data, 0, target->u.target_size - sizeof(*target));
    strncpy(target->u.user.name, name, sizeof(target->u.user.name) - 1);
    target->u.user.revision = nfk_chain_exists(table, name) ? NFK_JUMP : 0;
}

/*
 * An entry as libiptc takes it, in malloc'ed memory: it looks the name up among the chains, then takes it for an
 * extension. A jump to a chain that is not there is refused here (ENOENT), where the kernel would only say EINVAL.
 */
static int for_libiptc(nfk_table *table, const void *entry, size_t length, uint64_t packets, uint64_t bytes,
                       void **prepared)
{
    struct xt_entry_target *target = nfk_target(table->family, entry);
    size_t start = nfk_target_offset(table->family, entry), standard = XT_ALIGN(sizeof(struct xt_standard_target));
    bool chain = nfk_chain_exists(table, target->u.user.name);
    struct xt_counters *counters;

    if (target->u.user.revision == NFK_JUMP && nfk_is_standard(target) && !chain)
        return ENOENT;
    *prepared = calloc(1, length > start + standard ? length : start + standard);
    if (!*prepared)
        return ENOMEM;
    memcpy(*prepared, entry, length);
    target = nfk_target(table->family, *prepared);
    if (chain && !nfk_is_standard(target)) {
        /* A chain named like an extension wins, as with iptables. */
        memset(target->data, 0, length - start - sizeof(*target));
        target->u.target_size = standard;
        if (table->family == AF_INET6)
            ((struct ip6t_entry *)*prepared)->next_offset = start + standard;
        else
            ((struct ipt_entry *)*prepared)->next_offset = start + standard;
    }
    if (chain || nfk_is_standard(target))
        target->u.user.revision = 0;
    counters = nfk_counters(table->family, *prepared);
    counters->pcnt = packets;
    counters->bcnt = bytes;
    return 0;
}

/* libiptc's own idiom: 1 is success, 0 is failure with errno. */
static int result(int done)
{
    return done ? 0 : errno ? errno : EIO;
}

#define WITH_ENTRY(table, entry, length, packets, bytes, call4, call6)                        \
    do {                                                                                      \
        void *prepared = NULL;                                                                \
        int error = for_libiptc(table, entry, length, packets, bytes, &prepared);             \
                                                                                              \
        if (!error) {                                                                         \
            errno = 0;                                                                        \
            error = result((table)->family == AF_INET6 ? (call6) : (call4));                  \
        }                                                                                     \
        free(prepared);                                                                       \
        return error;                                                                         \
    } while (0)

int nfk_rule_append(nfk_table *table, const char *chain, const void *entry, size_t length,
                    uint64_t packets, uint64_t bytes)
{
    WITH_ENTRY(table, entry, length, packets, bytes, iptc_append_entry(chain, prepared, table->handle),
               ip6tc_append_entry(chain, prepared, table->handle));
}

int nfk_rule_insert(nfk_table *table, const char *chain, unsigned int index, const void *entry, size_t length,
                    uint64_t packets, uint64_t bytes)
{
    WITH_ENTRY(table, entry, length, packets, bytes, iptc_insert_entry(chain, prepared, index, table->handle),
               ip6tc_insert_entry(chain, prepared, index, table->handle));
}

int nfk_rule_replace(nfk_table *table, const char *chain, unsigned int index, const void *entry, size_t length,
                     uint64_t packets, uint64_t bytes)
{
    WITH_ENTRY(table, entry, length, packets, bytes, iptc_replace_entry(chain, prepared, index, table->handle),
               ip6tc_replace_entry(chain, prepared, index, table->handle));
}

int nfk_rule_delete(nfk_table *table, const char *chain, const void *entry, size_t length)
{
    unsigned char *mask;
    int error;
    void *prepared = NULL;

    error = for_libiptc(table, entry, length, 0, 0, &prepared);
    if (error)
        return error;
    length = nfk_next_offset(table->family, prepared);
    mask = malloc(length);
    if (!mask) {
        free(prepared);
        return ENOMEM;
    }
    /* Kernel-private bytes are zero on both sides, so everything compares. */
    memset(mask, 0xff, length);
    errno = 0;
    error = result(table->family == AF_INET6 ? ip6tc_delete_entry(chain, prepared, mask, table->handle)
                                             : iptc_delete_entry(chain, prepared, mask, table->handle));
    free(mask);
    free(prepared);
    return error;
}

int nfk_rule_delete_at(nfk_table *table, const char *chain, unsigned int index)
{
    errno = 0;
    return result(CALL(table, delete_num_entry, chain, index, table->handle));
}

int nfk_chain_flush(nfk_table *table, const char *chain)
{
    errno = 0;
    return result(CALL(table, flush_entries, chain, table->handle));
}

int nfk_chain_zero(nfk_table *table, const char *chain)
{
    nfk_forget_policy_counters(table, chain);
    errno = 0;
    return result(CALL(table, zero_entries, chain, table->handle));
}

int nfk_chain_create(nfk_table *table, const char *chain)
{
    errno = 0;
    return result(CALL(table, create_chain, chain, table->handle));
}

int nfk_chain_delete(nfk_table *table, const char *chain)
{
    errno = 0;
    return result(CALL(table, delete_chain, chain, table->handle));
}

int nfk_chain_rename(nfk_table *table, const char *chain, const char *name)
{
    errno = 0;
    return result(CALL(table, rename_chain, chain, name, table->handle));
}

int nfk_chain_set_policy(nfk_table *table, const char *chain, const char *policy)
{
    nfk_forget_policy_counters(table, chain); /* as iptables -P does */
    errno = 0;
    return result(CALL(table, set_policy, chain, policy, NULL, table->handle));
}
