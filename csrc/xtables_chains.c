/*
 * An image taken apart into chains and rules, and the changes to whole chains.
 */
#include <errno.h>
#include <unistd.h>

#include "xtables_block.h"
#include "xtables_table.h"

static const char *const hook_names[NF_INET_NUMHOOKS] = {"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"};

void *nfk_table_memory(nfk_table *table, size_t size)
{
    struct piece *piece = calloc(1, sizeof(*piece) + size);

    if (!piece)
        return NULL;
    piece->next = table->memory;
    table->memory = piece;
    return piece->bytes;
}

static void free_chain(struct chain *chain)
{
    if (chain->own)
        free(chain->rules);
    free(chain);
}

void nfk_table_drop_chains(nfk_table *table)
{
    for (size_t i = 0; i < table->chain_count; i++)
        free_chain(table->chains[i]);
    free(table->chains);
    free(table->by_name);
    nfk_block_free(table->first_rules);
    table->first_rules = NULL;
    table->chains = table->by_name = NULL;
    table->chain_count = table->chain_room = 0;
}

/* The place of a name among the sorted ones. */
static size_t place_of(const nfk_table *table, const char *name)
{
    size_t low = 0, high = table->chain_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (strcmp(table->by_name[middle]->name, name) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct chain *nfk_chain_find(const nfk_table *table, const char *name)
{
    size_t at = place_of(table, name);

    return at < table->chain_count && strcmp(table->by_name[at]->name, name) == 0 ? table->by_name[at] : NULL;
}

/* Base chains stay in front; a user chain goes before the first one with a greater name, as libiptc has them. */
static size_t place_in_table(const nfk_table *table, const struct chain *chain)
{
    size_t at = table->chain_count;

    if (chain->hook >= 0)
        return at;
    while (at > 0 && table->chains[at - 1]->hook < 0 && strcmp(chain->name, table->chains[at - 1]->name) < 0)
        at--;
    return at;
}

static void insert_pointer(struct chain **list, size_t count, size_t at, struct chain *chain)
{
    memmove(list + at + 1, list + at, (count - at) * sizeof(*list));
    list[at] = chain;
}

int nfk_chain_add(nfk_table *table, struct chain *chain)
{
    if (table->chain_count == table->chain_room) {
        size_t room = table->chain_room ? table->chain_room * 2 : 16;
        struct chain **grown = realloc(table->chains, room * sizeof(*grown));

        if (!grown)
            return ENOMEM;
        table->chains = grown;
        grown = realloc(table->by_name, room * sizeof(*grown));
        if (!grown)
            return ENOMEM;
        table->by_name = grown;
        table->chain_room = room;
    }
    insert_pointer(table->by_name, table->chain_count, place_of(table, chain->name), chain);
    insert_pointer(table->chains, table->chain_count, place_in_table(table, chain), chain);
    table->chain_count++;
    return 0;
}

static void unlink_chain(nfk_table *table, struct chain *chain)
{
    size_t at = place_of(table, chain->name), index = 0;

    memmove(table->by_name + at, table->by_name + at + 1, (table->chain_count - at - 1) * sizeof(*table->by_name));
    while (table->chains[index] != chain)
        index++;
    memmove(table->chains + index, table->chains + index + 1,
            (table->chain_count - index - 1) * sizeof(*table->chains));
    table->chain_count--;
}

static struct chain *new_chain(const char *name, int hook)
{
    struct chain *chain = calloc(1, sizeof(*chain));

    if (chain) {
        strcpy(chain->name, name);
        chain->hook = hook;
    }
    return chain;
}

/* A rule of the image as the table has it; a jump's chain is still to be found. */
static struct rule read_rule(const struct nfk_image *image, size_t at, uint32_t was)
{
    unsigned char *bytes = image->entries + at;
    struct xt_entry_target *target = nfk_target(image->family, bytes);
    struct rule rule = {.bytes = bytes, .size = nfk_next_offset(image->family, bytes), .was = was};

    if (target->u.user.name[0]) {
        rule.ending = TO_EXTENSION;
        return rule;
    }
    rule.verdict = ((struct xt_standard_target *)target)->verdict;
    rule.ending = rule.verdict < 0 ? TO_VERDICT : (size_t)rule.verdict == at + rule.size ? TO_NEXT : TO_CHAIN;
    return rule;
}

int nfk_chain_make_room(struct chain *chain)
{
    size_t room = chain->room ? chain->room * 2 : 8;
    struct rule *grown;

    if (chain->count < chain->room)
        return 0;
    grown = realloc(chain->own ? chain->rules : NULL, room * sizeof(*grown));
    if (!grown)
        return ENOMEM;
    if (!chain->own && chain->count)
        memcpy(grown, chain->rules, chain->count * sizeof(*grown));
    chain->rules = grown;
    chain->own = true;
    chain->room = room;
    return 0;
}

static int begin_chain(nfk_table *table, const char *name, int hook, size_t start, struct rule *rules,
                       struct chain **chain)
{
    int error;

    if (nfk_chain_find(table, name))
        return EINVAL;
    *chain = new_chain(name, hook);
    if (!*chain)
        return ENOMEM;
    (*chain)->start = start;
    (*chain)->rules = rules;
    error = nfk_chain_add(table, *chain);
    if (error)
        free_chain(*chain);
    return error;
}

/* A user chain ends in an unconditional RETURN, which is no rule of its own. */
static int end_chain(struct chain *chain)
{
    if (!chain || chain->hook >= 0)
        return 0;
    if (!chain->count || chain->rules[chain->count - 1].ending != TO_VERDICT)
        return EINVAL;
    chain->count--;
    chain->room = chain->count;
    return 0;
}

static int read_chains(nfk_table *table, const struct nfk_image *image, bool kernel)
{
    struct rule *next_rule = table->first_rules;
    struct chain *chain = NULL;
    uint32_t index = 0;
    int error = 0, hook = -1;

    for (size_t at = 0; at < image->size && !error; index++) {
        const struct xt_entry_target *target = nfk_target(image->family, image->entries + at);
        size_t next = at + nfk_next_offset(image->family, image->entries + at);
        struct rule rule = read_rule(image, at, kernel ? index + 1 : 0);

        for (int each = 0; each < NF_INET_NUMHOOKS; each++)
            if (image->valid_hooks >> each & 1 && image->hook_entry[each] == at) {
                error = begin_chain(table, hook_names[each], hook = each, at, next_rule, &chain);
                if (error)
                    return error;
            }
        if (hook >= 0 && image->underflow[hook] == at) {
            if (rule.ending != TO_VERDICT)
                return EINVAL;
            chain->policy = rule;
            chain = NULL;
            hook = -1;
        } else if (hook < 0 && nfk_is_error(target)) {
            error = end_chain(chain);
            chain = NULL;
            if (!error && next < image->size)
                error = begin_chain(table, ((const struct xt_error_target *)target)->errorname, -1, next, next_rule,
                                    &chain);
        } else if (chain) {
            *next_rule++ = rule;
            chain->room = ++chain->count;
        } else {
            error = EINVAL;
        }
        at = next;
    }
    return error ? error : chain ? EINVAL : 0;
}

static int by_start(const void *left, const void *right)
{
    const struct chain *one = *(struct chain *const *)left, *other = *(struct chain *const *)right;

    return one->start < other->start ? -1 : one->start > other->start;
}

/* Every jump goes to the first rule of a user chain. */
static int find_jumps(nfk_table *table)
{
    struct chain **sorted = malloc((table->chain_count + 1) * sizeof(*sorted));
    int error = 0;

    if (!sorted)
        return ENOMEM;
    memcpy(sorted, table->chains, table->chain_count * sizeof(*sorted));
    qsort(sorted, table->chain_count, sizeof(*sorted), by_start);
    for (size_t i = 0; i < table->chain_count; i++)
        for (size_t k = 0; k < table->chains[i]->count; k++) {
            struct rule *rule = &table->chains[i]->rules[k];
            struct chain wanted, *key = &wanted, **found;

            if (rule->ending != TO_CHAIN)
                continue;
            wanted.start = (uint32_t)rule->verdict;
            found = bsearch(&key, sorted, table->chain_count, sizeof(*sorted), by_start);
            if (!found || (*found)->hook >= 0) {
                error = EINVAL;
                break;
            }
            rule->jump = *found;
            rule->jump->references++;
        }
    free(sorted);
    return error;
}

int nfk_table_take_apart(nfk_table *table, struct nfk_image *image, bool kernel)
{
    int error = nfk_image_check(image);

    if (error)
        return error;
    table->first_rules = nfk_block(image->number * sizeof(*table->first_rules));
    if (!table->first_rules)
        return ENOMEM;
    error = read_chains(table, image, kernel);
    return error ? error : find_jumps(table);
}

const char *nfk_chain_name(nfk_table *table, size_t index)
{
    return index < table->chain_count ? table->chains[index]->name : NULL;
}

int nfk_chain_exists(nfk_table *table, const char *name)
{
    return nfk_chain_find(table, name) != NULL;
}

const char *nfk_chain_policy(nfk_table *table, const char *name, uint64_t *packets, uint64_t *bytes)
{
    const struct chain *chain = nfk_chain_find(table, name);
    struct xt_counters counted;

    if (!chain || chain->hook < 0)
        return NULL;
    counted = nfk_rule_counted(table->family, &chain->policy);
    *packets = counted.pcnt;
    *bytes = counted.bcnt;
    return chain->policy.verdict == -NF_ACCEPT - 1 ? "ACCEPT" : chain->policy.verdict == -NF_DROP - 1 ? "DROP" : "QUEUE";
}

int nfk_chain_flush(nfk_table *table, const char *name)
{
    struct chain *chain = nfk_chain_find(table, name);

    if (!chain)
        return ENOENT;
    for (size_t i = 0; i < chain->count; i++)
        if (chain->rules[i].ending == TO_CHAIN)
            chain->rules[i].jump->references--;
    chain->count = 0;
    return 0;
}

int nfk_chain_zero(nfk_table *table, const char *name)
{
    struct chain *chain = nfk_chain_find(table, name);

    if (!chain)
        return ENOENT;
    for (size_t i = 0; i < chain->count; i++)
        nfk_rule_zero(table->family, &chain->rules[i]);
    if (chain->hook >= 0)
        nfk_rule_zero(table->family, &chain->policy);
    return 0;
}

int nfk_chain_create(nfk_table *table, const char *name)
{
    struct chain *chain;
    int error;

    if (strlen(name) > LONGEST_CHAIN)
        return EINVAL;
    if (nfk_chain_find(table, name))
        return EEXIST;
    chain = new_chain(name, -1);
    if (!chain)
        return ENOMEM;
    error = nfk_chain_add(table, chain);
    if (error)
        free_chain(chain);
    return error;
}

int nfk_chain_delete(nfk_table *table, const char *name)
{
    struct chain *chain = nfk_chain_find(table, name);

    if (!chain)
        return ENOENT;
    if (chain->hook >= 0)
        return EINVAL;
    if (chain->references)
        return EMLINK;
    if (chain->count)
        return ENOTEMPTY;
    unlink_chain(table, chain);
    free_chain(chain);
    return 0;
}

int nfk_chain_rename(nfk_table *table, const char *name, const char *to)
{
    struct chain *chain = nfk_chain_find(table, name);

    if (nfk_chain_find(table, to))
        return EEXIST;
    if (!chain || chain->hook >= 0)
        return ENOENT;
    if (strlen(to) > LONGEST_CHAIN)
        return EINVAL;
    unlink_chain(table, chain); /* its place goes by its name */
    strcpy(chain->name, to);
    return nfk_chain_add(table, chain);
}

int nfk_chain_set_policy(nfk_table *table, const char *name, const char *policy)
{
    struct chain *chain = nfk_chain_find(table, name);
    bool accept = strcmp(policy, "ACCEPT") == 0;

    if (!chain || chain->hook < 0)
        return ENOENT;
    if (!accept && strcmp(policy, "DROP") != 0)
        return EINVAL;
    chain->policy.verdict = accept ? -NF_ACCEPT - 1 : -NF_DROP - 1;
    nfk_rule_zero(table->family, &chain->policy); /* as iptables -P does */
    return 0;
}
