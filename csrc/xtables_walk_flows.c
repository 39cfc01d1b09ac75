/*
 * What a limit on connections will answer.  Behind a replace its list is empty, and the flows that are to be counted
 * there are known: as long as those of one key that can reach the rule are no more than the limit allows, no opening
 * packet of theirs can exceed it, in whatever order they are sent (connlimit_mt() in net/netfilter/xt_connlimit.c).
 * A flow of another kind that live packets have counted in the meantime would have exceeded the limit before as well.
 */
#include <errno.h>

#include "xtables_walk.h"

#include <linux/netfilter/xt_connlimit.h>

/* The flows of one key at one match. */
struct tally {
    const struct xt_entry_match *match; /* NULL: an empty place */
    uint8_t key[16];
    uint32_t flows;
    uint32_t last; /* 1 + the index of the probe that was counted last: one may come on several ways */
};

static struct tally *place_of(struct tally *tallies, size_t room, const struct xt_entry_match *match,
                              const uint8_t *key)
{
    uint64_t words[2], hash;
    size_t at;

    memcpy(words, key, sizeof(words));
    hash = ((uint64_t)(uintptr_t)match ^ words[0] * 0x9e3779b97f4a7c15ull ^ words[1]) * 0xff51afd7ed558ccdull;
    for (at = (hash >> 32) & (room - 1); tallies[at].match; at = (at + 1) & (room - 1))
        if (tallies[at].match == match && memcmp(tallies[at].key, key, sizeof(tallies[at].key)) == 0)
            break;
    return &tallies[at];
}

static bool grow(struct nfk_walk *walk)
{
    size_t room = walk->tallies_room ? walk->tallies_room * 2 : 1024;
    struct tally *grown = calloc(room, sizeof(*grown));

    if (!grown)
        return false;
    for (size_t i = 0; i < walk->tallies_room; i++)
        if (walk->tallies[i].match)
            *place_of(grown, room, walk->tallies[i].match, walk->tallies[i].key) = walk->tallies[i];
    free(walk->tallies);
    walk->tallies = grown;
    walk->tallies_room = room;
    return true;
}

static void key_of(const struct view *view, const struct xt_connlimit_info *info, uint8_t *key)
{
    const uint8_t *address = info->flags & XT_CONNLIMIT_DADDR ? view->destination : view->source;
    const uint8_t *mask = (const void *)&info->mask;
    size_t size = view->probe->family == AF_INET6 ? 16 : 4;

    memset(key, 0, 16);
    for (size_t i = 0; i < size; i++)
        key[i] = address[i] & mask[i];
}

enum answer walk_connlimit(struct run *run, const struct walk_table *table, const struct xt_entry_match *match)
{
    const struct xt_connlimit_info *info = (const void *)match->data;
    struct nfk_walk *walk = run->walk;
    struct tally *tally;
    uint8_t key[16];

    if (!table->watched || walk->tallying == NO_TALLY)
        return MAYBE;
    key_of(&run->view, info, key);
    if (walk->tallying == TALLIED) {
        tally = place_of(walk->tallies, walk->tallies_room, match, key);
        if (!tally->match || tally->flows > info->limit)
            return MAYBE;
        return answer_of(info->flags & XT_CONNLIMIT_INVERT);
    }
    if (2 * walk->n_tallies >= walk->tallies_room && !grow(walk)) {
        walk->tally_failed = true;
        return MAYBE;
    }
    tally = place_of(walk->tallies, walk->tallies_room, match, key);
    if (!tally->match) {
        tally->match = match;
        memcpy(tally->key, key, sizeof(key));
        walk->n_tallies++;
    }
    if (tally->last != run->number) {
        tally->last = run->number;
        tally->flows++;
    }
    return MAYBE;
}

int nfk_walk_tally(nfk_walk *walk, const struct nfk_probe *probes, size_t count)
{
    struct nfk_walked *out = calloc(count ? count : 1, sizeof(*out));
    int error;

    if (!out)
        return ENOMEM;
    walk_forget_tally(walk);
    walk->tallying = TALLYING;
    error = nfk_walk_flows(walk, probes, count, NULL, out);
    if (!error && walk->tally_failed)
        error = ENOMEM;
    walk->tallying = error || !walk->n_tallies ? NO_TALLY : TALLIED;
    free(out);
    return error;
}

void walk_forget_tally(struct nfk_walk *walk)
{
    free(walk->tallies);
    walk->tallies = NULL;
    walk->n_tallies = walk->tallies_room = 0;
    walk->tally_failed = false;
    walk->tallying = NO_TALLY;
}
