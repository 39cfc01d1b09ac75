/*
 * Finds the few rules of a table that matter to keeping state, so that Python never walks tens of thousands of them.
 */
#include <errno.h>

#include "xtables_table.h"

/* The names to look for, by their first eight bytes, which tell nearly all names apart. */
struct names {
    const char *const *names;
    size_t count;
    uint64_t filter; /* a bit for each wanted beginning */
};

static uint64_t beginning(const char *name)
{
    uint64_t first;

    memcpy(&first, name, sizeof(first));
    return 1ull << ((first * 0x9e3779b97f4a7c15ull) >> 58);
}

static struct names names_of(const char *const *names, size_t count)
{
    struct names wanted = {names, count, 0};

    for (size_t i = 0; i < count; i++) {
        char padded[XT_EXTENSION_MAXNAMELEN] = "";

        strncpy(padded, names[i], sizeof(padded) - 1);
        wanted.filter |= beginning(padded);
    }
    return wanted;
}

static bool named(const char *name, const struct names *wanted)
{
    if (!(beginning(name) & wanted->filter))
        return false;
    for (size_t i = 0; i < wanted->count; i++)
        if (strcmp(name, wanted->names[i]) == 0)
            return true;
    return false;
}

static bool is_wanted(int family, const unsigned char *entry, const struct names *wanted)
{
    size_t at = nfk_head_size(family), end = nfk_target_offset(family, entry);

    while (at < end) {
        const struct xt_entry_match *match = (const void *)(entry + at);

        if (named(match->u.user.name, wanted))
            return true;
        at += match->u.match_size;
    }
    return named(nfk_target(family, entry)->u.user.name, wanted);
}

static int remember(struct nfk_hit **hits, size_t *found, size_t *room, struct nfk_hit hit)
{
    if (*found == *room) {
        size_t more = *room ? *room * 2 : 64;
        struct nfk_hit *grown = realloc(*hits, more * sizeof(*grown));

        if (!grown)
            return ENOMEM;
        *hits = grown;
        *room = more;
    }
    (*hits)[(*found)++] = hit;
    return 0;
}

int nfk_table_scan(nfk_table *table, const char *const *names, size_t count, int jumps, struct nfk_hit **hits,
                   size_t *found)
{
    struct names wanted = names_of(names, count);
    size_t room = 0;

    *hits = NULL;
    *found = 0;
    for (size_t i = 0; i < table->chain_count; i++)
        for (size_t k = 0; k < table->chains[i]->count; k++) {
            const struct rule *rule = &table->chains[i]->rules[k];
            struct nfk_hit hit = {.chain = i, .position = k + 1, .rule = rule, .size = rule->size};

            if (!(jumps && rule->ending == TO_CHAIN) && !is_wanted(table->family, rule->bytes, &wanted))
                continue;
            if (remember(hits, found, &room, hit)) {
                free(*hits);
                return ENOMEM;
            }
        }
    return 0;
}

int nfk_table_has(nfk_table *table, const char *const *names, size_t count)
{
    struct names wanted = names_of(names, count);

    for (size_t i = 0; i < table->chain_count; i++)
        for (size_t k = 0; k < table->chains[i]->count; k++)
            if (is_wanted(table->family, table->chains[i]->rules[k].bytes, &wanted))
                return 1;
    return 0;
}

void nfk_hits_free(struct nfk_hit *hits)
{
    free(hits);
}
