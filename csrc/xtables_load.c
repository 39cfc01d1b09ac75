/*
 * A table's earlier bytes put in place of what it holds now, so that the next commit brings them back; and bytes handed
 * out for keeping.
 */
#include <errno.h>

#include "xtables_table.h"

void nfk_table_layout(nfk_table *table, struct nfk_layout *layout)
{
    *layout = (struct nfk_layout){.entries = table->image.entries, .size = table->image.size,
                                  .number = table->image.number, .valid_hooks = table->image.valid_hooks};
    memcpy(layout->hook_entry, table->image.hook_entry, sizeof(layout->hook_entry));
    memcpy(layout->underflow, table->image.underflow, sizeof(layout->underflow));
}

static void image_of(const nfk_table *table, const struct nfk_layout *layout, struct nfk_image *image)
{
    *image = (struct nfk_image){.family = table->family, .size = layout->size, .number = layout->number,
                                .valid_hooks = layout->valid_hooks};
    memcpy(image->hook_entry, layout->hook_entry, sizeof(image->hook_entry));
    memcpy(image->underflow, layout->underflow, sizeof(image->underflow));
}

/* The image that a layout tells of, its bytes copied to the table's memory. */
static int copy_image(nfk_table *table, const struct nfk_layout *layout, struct nfk_image *image)
{
    image_of(table, layout, image);
    if (layout->valid_hooks != table->image.valid_hooks)
        return EINVAL;
    image->entries = nfk_table_memory(table, layout->size);
    if (!image->entries)
        return ENOMEM;
    memcpy(image->entries, layout->entries, layout->size);
    return 0;
}

int nfk_table_is(nfk_table *table, const struct nfk_layout *layout)
{
    struct nfk_image image;
    int error = copy_image(table, layout, &image);

    if (error == ENOMEM)
        return -ENOMEM;
    return !error && nfk_image_check(&image) == 0 && nfk_image_same(&table->image, &image);
}

/* Packets of the counters that are lower than they were: what these were, and what they are. */
struct fallen {
    uint64_t then, now;
};

/* Of a table's rules, and of its policies: iptables has those begin anew whatever it does, and carries over the others. */
struct treatment {
    struct fallen rules, policies;
};

typedef void (*pair_work)(int family, struct rule *then, const struct rule *now, struct fallen *fallen, void *context);

/* Rules of then that are there now as well, in the same order; `now` is NULL for the others. */
static void pair_chain(int family, struct chain *then, const struct chain *now, pair_work work,
                       struct treatment *treatment, void *context)
{
    size_t next = 0;

    for (size_t i = 0; i < then->count; i++) {
        size_t found = next;

        while (found < now->count && (!now->rules[found].was || then->rules[i].size != now->rules[found].size
                                      || !nfk_rule_same(family, &then->rules[i], &now->rules[found])))
            found++;
        work(family, &then->rules[i], found < now->count ? &now->rules[found] : NULL, &treatment->rules, context);
        if (found < now->count)
            next = found + 1;
    }
    if (then->hook >= 0)
        work(family, &then->policy, &now->policy, &treatment->policies, context);
}

static void pair_tables(nfk_table *then, const nfk_table *now, pair_work work, struct treatment *treatment,
                        void *context)
{
    static const struct chain none;

    for (size_t i = 0; i < then->chain_count; i++) {
        const struct chain *same = nfk_chain_find(now, then->chains[i]->name);

        pair_chain(then->family, then->chains[i], same ? same : &none, work, treatment, context);
    }
}

static void weigh(int family, struct rule *then, const struct rule *now, struct fallen *fallen, void *context)
{
    uint64_t earlier = nfk_counters(family, then->bytes)->pcnt, current;

    (void)context;
    if (!now || !now->was)
        return;
    current = nfk_counters(family, now->bytes)->pcnt;
    if (current >= earlier)
        return;
    fallen->then += earlier;
    fallen->now += current;
}

/*
 * What a counter that is lower than it was lacks.  Somebody has had it begin anew: then all that was counted before is to
 * be added to what has passed since; or has restored an earlier save with its counters: then it lacks what was counted
 * behind the save, and to add more would count packets twice.
 *
 * One counter does not tell which it was: 1 where 2 was may be either.  But whoever did it did it to all that are lower,
 * and of all their packets a new beginning leaves the few since, an earlier save nearly all but the few between.  So
 * they have begun anew if less than half is left.  Sums of packets, and no votes of the rules: a rule that hardly any
 * packet meets may lose all between a save and its restore, and weighs as little as it tells.  Counters that are not
 * lower are no witnesses: a rule deleted and made again begins anew beside others that are carried over, and any that
 * was 0 cannot fall.  Where this is wrong, in a table so young that half of its packets are newer than the replace, or
 * with a save so old, a counter is off by no more than it shows now; and that way or the other, by equally much.
 */
static struct xt_counters lacking(struct xt_counters then, struct xt_counters now, const struct fallen *fallen)
{
    if (now.pcnt >= then.pcnt)
        return (struct xt_counters){0};
    if (fallen->now < fallen->then - fallen->now)
        return then;
    return (struct xt_counters){then.pcnt - now.pcnt, then.bcnt > now.bcnt ? then.bcnt - now.bcnt : 0};
}

/* Counters go on from where they are, with what they lack. */
static void go_on(int family, struct rule *then, const struct rule *now, struct fallen *fallen, void *context)
{
    struct xt_counters counted = *nfk_counters(family, then->bytes);

    (void)context;
    then->extra = counted;
    if (!now)
        return;
    then->was = now->was;
    *nfk_counters(family, then->bytes) = *nfk_counters(family, now->bytes);
    then->extra = lacking(counted, *nfk_counters(family, now->bytes), fallen);
}

int nfk_table_load(nfk_table *table, const struct nfk_layout *layout)
{
    nfk_table now = *table;
    struct treatment treatment = {0};
    struct nfk_image image;
    int error = copy_image(table, layout, &image);

    if (error)
        return error;
    now.memory = table->memory;
    table->chains = table->by_name = NULL;
    table->first_rules = NULL;
    table->chain_count = table->chain_room = 0;
    error = nfk_table_take_apart(table, &image, false);
    if (error) {
        nfk_table_drop_chains(table);
        *table = now;
        return error;
    }
    pair_tables(table, &now, weigh, &treatment, NULL);
    pair_tables(table, &now, go_on, &treatment, NULL);
    nfk_table_drop_chains(&now);
    return 0;
}

struct missing {
    uint64_t *packets, *bytes;
    int64_t rules;
};

/* What a rule had counted and has not any more: whoever replaced the table did not carry it over. */
static void note_missing(int family, struct rule *then, const struct rule *now, struct fallen *fallen, void *context)
{
    struct missing *missing = context;
    struct xt_counters added;

    if (!now || !now->was)
        return;
    added = lacking(*nfk_counters(family, then->bytes), *nfk_counters(family, now->bytes), fallen);
    if (!added.pcnt)
        return;
    missing->packets[now->was - 1] = added.pcnt;
    missing->bytes[now->was - 1] = added.bcnt;
    missing->rules++;
}

int64_t nfk_table_recount(nfk_table *table, const struct nfk_layout *before)
{
    nfk_table then = {.family = table->family, .fd = -1};
    uint32_t number = table->image.number;
    struct treatment treatment = {0};
    struct missing missing = {calloc(number, sizeof(uint64_t)), calloc(number, sizeof(uint64_t)), 0};
    struct nfk_image image;
    int error = copy_image(table, before, &image);

    if (!error && (!missing.packets || !missing.bytes))
        error = ENOMEM;
    if (!error)
        error = nfk_table_take_apart(&then, &image, false);
    if (!error) {
        pair_tables(&then, table, weigh, &treatment, NULL);
        pair_tables(&then, table, note_missing, &treatment, &missing);
        if (missing.rules)
            error = nfk_table_count(table, missing.packets, missing.bytes, number);
    }
    nfk_table_drop_chains(&then);
    free(missing.packets);
    free(missing.bytes);
    return error ? -error : missing.rules;
}
