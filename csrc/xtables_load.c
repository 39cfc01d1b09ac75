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

/*
 * Counters go on from where they are if they have grown since; if they are lower, a replace without counters lies
 * between, and what was counted before is added.
 */
static void go_on(int family, struct rule *rule, const struct rule *now)
{
    struct xt_counters then = *nfk_counters(family, rule->bytes);

    rule->extra = then;
    if (!now)
        return;
    rule->was = now->was;
    *nfk_counters(family, rule->bytes) = *nfk_counters(family, now->bytes);
    if (nfk_counters(family, now->bytes)->pcnt >= then.pcnt)
        rule->extra = (struct xt_counters){0};
}

/* Rules of the kernel's chain that are in the loaded one as well, in the same order. */
static void match_chain(int family, struct chain *loaded, const struct chain *now)
{
    size_t next = 0;

    for (size_t i = 0; i < loaded->count; i++) {
        size_t found = next;

        while (found < now->count && (!now->rules[found].was || loaded->rules[i].size != now->rules[found].size
                                      || !nfk_rule_same(family, &loaded->rules[i], &now->rules[found])))
            found++;
        go_on(family, &loaded->rules[i], found < now->count ? &now->rules[found] : NULL);
        if (found < now->count)
            next = found + 1;
    }
    if (loaded->hook >= 0)
        go_on(family, &loaded->policy, &now->policy);
}

int nfk_table_load(nfk_table *table, const struct nfk_layout *layout)
{
    nfk_table now = *table;
    struct nfk_image image = {.family = table->family, .size = layout->size, .number = layout->number,
                              .valid_hooks = layout->valid_hooks};
    int error;

    if (layout->valid_hooks != table->image.valid_hooks)
        return EINVAL;
    memcpy(image.hook_entry, layout->hook_entry, sizeof(image.hook_entry));
    memcpy(image.underflow, layout->underflow, sizeof(image.underflow));
    image.entries = nfk_table_memory(table, layout->size);
    if (!image.entries)
        return ENOMEM;
    memcpy(image.entries, layout->entries, layout->size);
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
    for (size_t i = 0; i < table->chain_count; i++) {
        const struct chain *same = nfk_chain_find(&now, table->chains[i]->name);
        static const struct chain none;

        match_chain(table->family, table->chains[i], same ? same : &none);
    }
    nfk_table_drop_chains(&now);
    return 0;
}
