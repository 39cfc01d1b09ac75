/*
 * A table written: its chains laid out as the kernel wants them, one replace, and the counters of everything that was
 * there before.  The kernel hands out the old counters when the last CPU has left the old rules, and the new ones start
 * at zero (xt_replace_table() in net/netfilter/x_tables.c), so that adding them up loses no packet and counts none twice.
 */
#include <errno.h>
#include <sys/socket.h>

#include "xtables_block.h"
#include "xtables_table.h"

/* struct ip6t_replace has the same layout (linux/netfilter_ipv6/ip6_tables.h). */
struct written {
    struct ipt_replace *replace;
    size_t size;
    struct rule **rules; /* by entry; NULL: not one of ours to count */
};

static size_t error_size(int family)
{
    return nfk_head_size(family) + XT_ALIGN(sizeof(struct xt_error_target));
}

static size_t standard_size(int family)
{
    return nfk_head_size(family) + XT_ALIGN(sizeof(struct xt_standard_target));
}

/* Says where every chain will lie; the number of bytes, and of entries. */
static size_t lay_out(nfk_table *table, uint32_t *entries)
{
    size_t at = 0;

    *entries = 1; /* the one that ends the table */
    for (size_t i = 0; i < table->chain_count; i++) {
        struct chain *chain = table->chains[i];

        if (chain->hook < 0)
            at += error_size(table->family);
        chain->start = at;
        for (size_t k = 0; k < chain->count; k++)
            at += chain->rules[k].size;
        at += standard_size(table->family);
        *entries += chain->count + (chain->hook < 0 ? 2 : 1);
    }
    return at + error_size(table->family);
}

static void write_head(int family, unsigned char *into, size_t target_size)
{
    size_t head = nfk_head_size(family);

    memset(into, 0, head + target_size);
    if (family == AF_INET6) {
        ((struct ip6t_entry *)into)->target_offset = head;
        ((struct ip6t_entry *)into)->next_offset = head + target_size;
    } else {
        ((struct ipt_entry *)into)->target_offset = head;
        ((struct ipt_entry *)into)->next_offset = head + target_size;
    }
    nfk_target(family, into)->u.target_size = target_size;
}

static size_t write_error(int family, unsigned char *into, const char *name)
{
    struct xt_error_target *target;

    write_head(family, into, XT_ALIGN(sizeof(*target)));
    target = (struct xt_error_target *)nfk_target(family, into);
    strcpy(target->target.u.user.name, XT_ERROR_TARGET);
    strcpy(target->errorname, name);
    return error_size(family);
}

/* The end of a chain: a base chain's policy, or RETURN. */
static size_t write_end(int family, unsigned char *into, int32_t verdict)
{
    write_head(family, into, XT_ALIGN(sizeof(struct xt_standard_target)));
    ((struct xt_standard_target *)nfk_target(family, into))->verdict = verdict;
    return standard_size(family);
}

static size_t write_rule(int family, unsigned char *base, size_t at, const struct rule *rule)
{
    unsigned char *into = base + at;
    struct xt_standard_target *target;

    memcpy(into, rule->bytes, rule->size);
    memset(nfk_counters(family, into), 0, sizeof(struct xt_counters));
    if (rule->ending == TO_EXTENSION)
        return rule->size;
    target = (struct xt_standard_target *)nfk_target(family, into);
    target->verdict = rule->ending == TO_VERDICT ? rule->verdict
                    : rule->ending == TO_CHAIN   ? (int32_t)rule->jump->start
                                                 : (int32_t)(at + rule->size);
    return rule->size;
}

static void write_chains(nfk_table *table, struct written *out)
{
    unsigned char *base = (unsigned char *)out->replace->entries;
    uint32_t entry = 0;
    size_t at = 0;

    for (size_t i = 0; i < table->chain_count; i++) {
        struct chain *chain = table->chains[i];

        if (chain->hook < 0) {
            at += write_error(table->family, base + at, chain->name);
            entry++;
        } else {
            out->replace->hook_entry[chain->hook] = at;
        }
        for (size_t k = 0; k < chain->count; k++) {
            at += write_rule(table->family, base, at, &chain->rules[k]);
            out->rules[entry++] = &chain->rules[k];
        }
        if (chain->hook >= 0) {
            out->replace->underflow[chain->hook] = at;
            out->rules[entry] = &chain->policy;
        }
        at += write_end(table->family, base + at, chain->hook >= 0 ? chain->policy.verdict : XT_RETURN);
        entry++;
    }
    write_error(table->family, base + at, XT_ERROR_TARGET);
}

static void written_free(struct written *out)
{
    nfk_block_free(out->replace);
    nfk_block_free(out->rules);
}

static int write_out(nfk_table *table, struct written *out)
{
    uint32_t entries;
    size_t size = lay_out(table, &entries);

    if (size > INT32_MAX)
        return E2BIG;
    out->size = sizeof(*out->replace) + size;
    out->replace = nfk_block(out->size);
    out->rules = nfk_block_zeroed(entries * sizeof(*out->rules));
    if (!out->replace || !out->rules)
        return ENOMEM;
    memset(out->replace, 0, sizeof(*out->replace));
    strcpy(out->replace->name, table->name);
    out->replace->valid_hooks = table->image.valid_hooks;
    out->replace->num_entries = entries;
    out->replace->size = size;
    write_chains(table, out);
    return 0;
}

static int set_option(const nfk_table *table, int option4, int option6, const void *data, size_t size)
{
    bool v6 = table->family == AF_INET6;

    if (setsockopt(table->fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? option6 : option4, data, size) < 0)
        return errno;
    return 0;
}

/* What each rule goes on from, by entry. */
static void carry(const nfk_table *table, const struct written *out, struct xt_counters *counters)
{
    for (uint32_t i = 0; i < out->replace->num_entries; i++) {
        const struct rule *rule = out->rules[i];

        if (!rule)
            continue;
        counters[i] = rule->extra;
        if (rule->was) {
            counters[i].pcnt += table->replaced[rule->was - 1].pcnt;
            counters[i].bcnt += table->replaced[rule->was - 1].bcnt;
        }
    }
}

/* Counters for so many entries, all zero. */
static struct xt_counters_info *new_counters(const nfk_table *table, uint32_t number)
{
    struct xt_counters_info *info = nfk_block_zeroed(sizeof(*info) + number * sizeof(*info->counters));

    if (info) {
        strcpy(info->name, table->name);
        info->num_counters = number;
    }
    return info;
}

static int add_counters(const nfk_table *table, const struct xt_counters_info *info)
{
    return set_option(table, IPT_SO_SET_ADD_COUNTERS, IP6T_SO_SET_ADD_COUNTERS, info,
                      sizeof(*info) + info->num_counters * sizeof(*info->counters));
}

/* One replace and its counters. `old`: entries in the kernel now; their last counters go to table->replaced. */
static int replace(nfk_table *table, struct written *out, uint32_t old, int *applied)
{
    struct xt_counters_info *info = new_counters(table, out->replace->num_entries);
    int error = 0;

    table->replaced = nfk_block_zeroed(old * sizeof(*table->replaced));
    if (!info || !table->replaced)
        error = ENOMEM;
    if (!error) {
        out->replace->num_counters = old;
        out->replace->counters = table->replaced;
        error = set_option(table, IPT_SO_SET_REPLACE, IP6T_SO_SET_REPLACE, out->replace, out->size);
        *applied = !error;
    }
    if (!error) {
        carry(table, out, info->counters);
        error = add_counters(table, info);
    }
    nfk_block_free(info);
    return error;
}

int nfk_table_planned(nfk_table *table, struct nfk_layout *layout)
{
    struct written out = {0};
    int error = write_out(table, &out);
    unsigned char *entries = error ? NULL : nfk_table_memory(table, out.replace->size);

    if (!error && !entries)
        error = ENOMEM;
    if (!error) {
        memcpy(entries, out.replace->entries, out.replace->size);
        *layout = (struct nfk_layout){.entries = entries, .size = out.replace->size,
                                      .number = out.replace->num_entries, .valid_hooks = out.replace->valid_hooks};
        memcpy(layout->hook_entry, out.replace->hook_entry, sizeof(layout->hook_entry));
        memcpy(layout->underflow, out.replace->underflow, sizeof(layout->underflow));
    }
    written_free(&out);
    return error;
}

int nfk_table_commit(nfk_table *table)
{
    struct written out = {0};
    int error = write_out(table, &out), applied = 0;

    if (!error)
        error = replace(table, &out, table->image.number, &applied);
    table->written = applied ? out.replace->num_entries : 0;
    written_free(&out);
    return applied ? -error : error;
}

/* The image again: what its entries had counted in the end, and what has been counted for them since. */
static void carry_back(const nfk_table *table, struct rule **rules, const struct xt_counters *since,
                       struct xt_counters *counters)
{
    memcpy(counters, table->replaced, table->image.number * sizeof(*counters));
    for (uint32_t i = 0; i < table->written; i++) {
        const struct rule *rule = rules[i];

        if (!rule || !rule->was)
            continue;
        counters[rule->was - 1].pcnt = since[i].pcnt - rule->extra.pcnt;
        counters[rule->was - 1].bcnt = since[i].bcnt - rule->extra.bcnt;
    }
}

int nfk_table_revert(nfk_table *table)
{
    const struct nfk_image *image = &table->image;
    struct written new = {0};
    struct ipt_replace *old = calloc(1, sizeof(*old) + image->size);
    struct xt_counters *since = calloc(table->written + 1, sizeof(*since));
    struct xt_counters_info *info = new_counters(table, image->number);
    int error = table->written ? write_out(table, &new) : EINVAL; /* once more, to know whose counter is where */

    if (!error && (!old || !since || !info))
        error = ENOMEM;
    if (!error) {
        strcpy(old->name, table->name);
        old->valid_hooks = image->valid_hooks;
        old->num_entries = image->number;
        old->size = image->size;
        old->num_counters = table->written;
        old->counters = since;
        memcpy(old->hook_entry, image->hook_entry, sizeof(old->hook_entry));
        memcpy(old->underflow, image->underflow, sizeof(old->underflow));
        memcpy(old->entries, image->entries, image->size);
        error = set_option(table, IPT_SO_SET_REPLACE, IP6T_SO_SET_REPLACE, old, sizeof(*old) + image->size);
    }
    if (!error) {
        carry_back(table, new.rules, since, info->counters);
        error = add_counters(table, info);
    }
    written_free(&new);
    free(old);
    free(since);
    nfk_block_free(info);
    return error;
}

int nfk_table_unchanged(nfk_table *table)
{
    struct nfk_image now = {0};
    int error = nfk_image_read(table->family, table->fd, table->name, &now), same;

    if (error)
        return -error;
    same = nfk_image_check(&now) == 0 && nfk_image_same(&table->image, &now);
    nfk_image_free(&now);
    return same;
}

int nfk_table_count(nfk_table *table, const uint64_t *packets, const uint64_t *bytes, uint32_t number)
{
    struct xt_counters_info *info = new_counters(table, number);
    int error;

    if (!info)
        return ENOMEM;
    for (uint32_t i = 0; i < number; i++)
        info->counters[i] = (struct xt_counters){packets[i], bytes[i]};
    error = add_counters(table, info);
    nfk_block_free(info);
    return error;
}
