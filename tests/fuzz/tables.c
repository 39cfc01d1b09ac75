/*
 * Tables from a kernel that says anything: taken apart, every rule copied, printed and found again, changed, written,
 * put back and loaded.  What is written is looked at as if it came from a kernel again.
 */
#include <errno.h>
#include <sys/socket.h>

#include "fuzz.h"
#include "xtables_image.h"

/* An input: this, and the entries behind it. */
struct header {
    uint8_t v6, what;
    uint16_t spoilt; /* which byte of a rule that a caller hands over */
    uint32_t number, valid_hooks, hook_entry[NF_INET_NUMHOOKS], underflow[NF_INET_NUMHOOKS];
};

/* What the kernel has. */
static struct header info;
static const uint8_t *entries;
static size_t entries_size;

int __wrap_socket(int domain, int type, int protocol);
int __wrap_getsockopt(int fd, int level, int option, void *into, socklen_t *size);
int __wrap_setsockopt(int fd, int level, int option, const void *data, socklen_t size);
int __wrap_close(int fd);

int __wrap_socket(int domain, int type, int protocol)
{
    (void)domain, (void)type, (void)protocol;
    return 1 << 20;
}

int __wrap_close(int fd)
{
    (void)fd;
    return 0;
}

/* The options' numbers are those of IPv4 for both families. */
int __wrap_getsockopt(int fd, int level, int option, void *into, socklen_t *size)
{
    (void)fd, (void)level, (void)size;
    if (option == IPT_SO_GET_INFO) {
        struct ipt_getinfo *out = into;

        out->valid_hooks = info.valid_hooks;
        out->num_entries = info.number;
        out->size = entries_size;
        memcpy(out->hook_entry, info.hook_entry, sizeof(out->hook_entry));
        memcpy(out->underflow, info.underflow, sizeof(out->underflow));
    } else if (option == IPT_SO_GET_ENTRIES) {
        memcpy(((struct ipt_get_entries *)into)->entrytable, entries, entries_size);
    }
    return 0;
}

static void look_at_written(int family, const struct ipt_replace *replace)
{
    struct nfk_image image = {.family = family, .size = replace->size, .number = replace->num_entries,
                              .valid_hooks = replace->valid_hooks, .entries = malloc(replace->size)};

    memcpy(image.entries, replace->entries, replace->size);
    memcpy(image.hook_entry, replace->hook_entry, sizeof(image.hook_entry));
    memcpy(image.underflow, replace->underflow, sizeof(image.underflow));
    if (nfk_image_check(&image))
        __builtin_trap();
    free(image.entries);
}

int __wrap_setsockopt(int fd, int level, int option, const void *data, socklen_t size)
{
    (void)fd;
    if (option == IPT_SO_SET_REPLACE) {
        const struct ipt_replace *replace = data;

        if (size != sizeof(*replace) + replace->size)
            __builtin_trap();
        look_at_written(level == IPPROTO_IPV6 ? AF_INET6 : AF_INET, replace);
        memset(replace->counters, 1, replace->num_counters * sizeof(*replace->counters));
    } else if (option == IPT_SO_SET_ADD_COUNTERS) {
        const struct xt_counters_info *counters = data;

        if (size != sizeof(*counters) + counters->num_counters * sizeof(*counters->counters))
            __builtin_trap();
    }
    return 0;
}

/* Names of extensions in the seeds, and these with their revision and data, as hashes. */
static uint64_t names[1 << 12], extensions[1 << 12];

static uint64_t hash(const void *data, size_t size)
{
    const uint8_t *bytes = data;
    uint64_t value = 0xcbf29ce484222325u;

    for (size_t i = 0; i < size; i++)
        value = (value ^ bytes[i]) * 0x100000001b3u;
    return value | 1;
}

/* Whether a hash is in the set; a seed's is from now on. */
static bool is_in(uint64_t *set, uint64_t value)
{
    size_t at = value >> 52;

    while (set[at] && set[at] != value)
        at = (at + 1) & 0xfff;
    if (!set[at] && fuzz_is_seed)
        set[at] = value;
    return set[at] == value;
}

/* The kernel checks what is in an extension's data before it takes a rule, and libxtables believes it: no other data of
 * an extension that it knows are printed. Struct xt_entry_match and xt_entry_target are alike. */
static bool is_printable(const struct xt_entry_match *extension)
{
    bool name = is_in(names, hash(extension->u.user.name, strlen(extension->u.user.name)));
    bool whole = is_in(extensions, hash(extension, extension->u.match_size));

    return whole || !name;
}

/* Whether it can be printed, and then prints it. */
static bool format(int family, const void *entry, size_t size)
{
    size_t at = nfk_head_size(family), target = nfk_target_offset(family, entry);
    struct nfk_text text;
    bool printable = is_printable((const void *)((const char *)entry + target));

    for (const struct xt_entry_match *match; at < target; at += match->u.match_size) {
        match = (const void *)((const char *)entry + at);
        printable &= is_printable(match);
    }
    if (!printable)
        return false;
    nfk_rule_format(family, entry, size, &text);
    nfk_text_free(&text);
    return true;
}

/* A rule that somebody has made up, from one that is spoilt here: whatever is taken can be read again. */
static void hand_over(nfk_table *table, int family, const char *chain, unsigned char *entry, size_t size)
{
    struct nfk_text text;
    uint64_t packets, bytes;
    size_t taken;
    int error;

    entry[info.spoilt % size] ^= info.what;
    nfk_rule_find(table, chain, entry, size, &error);
    error = nfk_rule_insert(table, chain, 0, entry, size, 1, 2);
    if (!error) {
        const void *rule = nfk_rule_at(table, chain, 0, &taken);
        unsigned char *copy = malloc(taken);

        nfk_rule_copy(table, rule, copy, &packets, &bytes);
        if (!nfk_is_entry(family, copy, taken) || nfk_rule_find(table, chain, copy, taken, &error))
            __builtin_trap();
        free(copy);
        nfk_rule_delete_at(table, chain, 0);
    } else if (!nfk_is_entry(family, entry, size)) {
        nfk_rule_format(family, entry, size, &text);
        if (!text.failed || error != EBADMSG)
            __builtin_trap();
    }
}

static bool look_at_rule(nfk_table *table, int family, const char *chain, size_t index)
{
    size_t size;
    uint64_t packets, bytes;
    int error;
    const void *rule = nfk_rule_at(table, chain, index, &size);
    unsigned char *copy = malloc(size);

    nfk_rule_copy(table, rule, copy, &packets, &bytes);
    bool printable = format(family, copy, size);

    /* The same, or one before it that is the same. */
    if (nfk_rule_find(table, chain, copy, size, &error) > (int64_t)index)
        __builtin_trap();
    if (info.what & 1 && !nfk_rule_insert(table, chain, index & 1 ? -1 : 0, copy, size, 1, 2))
        nfk_rule_delete_at(table, chain, index & 1 ? (size_t)nfk_chain_rules(table, chain) - 1 : 0);
    if (info.what & 2)
        nfk_rule_rewrite(table, chain, index, copy, size);
    hand_over(table, family, chain, copy, size);
    free(copy);
    return printable;
}

static void look(nfk_table *table, int family)
{
    static const char *const names[] = {"recent", "connlimit", "LOG"};
    struct nfk_hit *hits;
    const char *chain;
    struct nfk_text text;
    uint64_t packets, bytes;
    size_t found;
    bool printable = true;

    for (size_t i = 0; (chain = nfk_chain_name(table, i)); i++) {
        nfk_chain_policy(table, chain, &packets, &bytes);
        for (int64_t k = 0; k < nfk_chain_rules(table, chain); k++)
            printable &= look_at_rule(table, family, chain, k);
    }
    if (printable) {
        nfk_table_format(table, &text);
        nfk_text_free(&text);
    }
    nfk_table_has(table, names, 3);
    if (!nfk_table_scan(table, names, 3, 1, &hits, &found))
        nfk_hits_free(hits);
}

static void change(nfk_table *table)
{
    const char *last = NULL, *each;

    for (size_t i = 0; (each = nfk_chain_name(table, i)); i++)
        last = each;
    nfk_chain_create(table, "made");
    if (last) {
        char name[64];

        strcpy(name, last);
        nfk_chain_zero(table, name);
        nfk_rule_delete_at(table, name, 0);
        nfk_chain_rename(table, name, "renamed");
        nfk_chain_flush(table, "renamed");
        nfk_chain_delete(table, "renamed");
    }
    nfk_chain_set_policy(table, "INPUT", "DROP");
}

static void write_and_revert(nfk_table *table, int family)
{
    struct nfk_layout layout;

    if (nfk_table_commit(table) <= 0)
        nfk_table_revert(table);
    if (nfk_table_unchanged(table) != 1)
        __builtin_trap();
    nfk_table_layout(table, &layout);
    if (nfk_table_load(table, &layout))
        __builtin_trap();
    look(table, family);
}

void fuzz_one(const uint8_t *data, size_t size)
{
    nfk_table *table;
    int family;

    if (size < sizeof(info))
        return;
    memcpy(&info, data, sizeof(info));
    entries = data + sizeof(info);
    entries_size = size - sizeof(info);
    family = info.v6 & 1 ? AF_INET6 : AF_INET;
    table = nfk_table_open(family, "filter");
    if (!table)
        return;
    look(table, family);
    if (info.what & 4)
        change(table);
    write_and_revert(table, family);
    nfk_table_close(table);
}
