/*
 * Finds the few rules of a table that matter to keeping state, so that Python never walks tens of thousands of them.
 */
#include <errno.h>

#include "xtables_table.h"

static bool named(const char *name, const char *const *names, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (strcmp(name, names[i]) == 0)
            return true;
    return false;
}

static bool wanted(int family, const unsigned char *entry, const char *const *names, size_t count)
{
    size_t at = nfk_head_size(family), end = nfk_target_offset(family, entry);

    while (at < end) {
        const struct xt_entry_match *match = (const void *)(entry + at);

        if (named(match->u.user.name, names, count))
            return true;
        at += match->u.match_size;
    }
    return named(nfk_target(family, entry)->u.user.name, names, count);
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

int nfk_table_scan(nfk_table *table, const char *const *names, size_t count, struct nfk_hit **hits, size_t *found)
{
    size_t room = 0;
    uint32_t chain_index = 0;

    *hits = NULL;
    *found = 0;
    for (const char *chain = nfk_chain_first(table); chain; chain = nfk_chain_next(table), chain_index++) {
        uint32_t position = 0;

        for (const void *entry = nfk_rule_first(table, chain); entry; entry = nfk_rule_next(table, entry)) {
            struct nfk_hit hit = {.chain = chain_index, .position = ++position, .entry = entry};

            /* Only a standard target can be a jump; its name is not in the entry then. */
            hit.jump = !nfk_target(table->family, entry)->u.user.name[0]
                    && nfk_chain_exists(table, nfk_target_name(table, entry));
            if (!hit.jump && !wanted(table->family, entry, names, count))
                continue;
            if (remember(hits, found, &room, hit)) {
                free(*hits);
                return ENOMEM;
            }
        }
    }
    return 0;
}

void nfk_hits_free(struct nfk_hit *hits)
{
    free(hits);
}
