/*
 * An image of a table made ready to be walked.  Nothing in it is believed: what net/ipv4/netfilter/ip_tables.c
 * translate_table() and mark_source_chains() refuse is refused here, too, so that the walk need not look again.
 */
#include <errno.h>

#include "xtables_walk.h"

static int find_rule(const struct walk_table *table, uint32_t at, uint32_t *index)
{
    size_t low = 0, high = table->n_rules;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (table->rules[middle].at < at)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == table->n_rules || table->rules[low].at != at)
        return EINVAL;
    *index = low;
    return 0;
}

/* Goes over all entries; with `fill` the arrays have room and are filled. */
static int go_over(struct walk_table *table, bool fill)
{
    size_t head = nfk_head_size(table->family), rules = 0, matches = 0;

    for (size_t at = 0; at < table->size; rules++) {
        const unsigned char *entry = table->image + at;
        size_t left = table->size - at, next, target_at;
        const struct xt_entry_target *target;

        if (left < head + sizeof(*target))
            return EINVAL;
        next = nfk_next_offset(table->family, entry);
        target_at = nfk_target_offset(table->family, entry);
        if (next > left || next % XT_ALIGN(1) || target_at < head || target_at % XT_ALIGN(1)
            || target_at + sizeof(*target) > next)
            return EINVAL;
        if (fill)
            table->rules[rules] = (struct walk_rule){.at = at, .match = matches, .told = MAYBE};
        for (size_t offset = head; offset < target_at; matches++) {
            const struct xt_entry_match *match = (const void *)(entry + offset);

            if (target_at - offset < sizeof(*match) || match->u.match_size < sizeof(*match)
                || match->u.match_size > target_at - offset || match->u.match_size % XT_ALIGN(1)
                || !memchr(match->u.user.name, 0, sizeof(match->u.user.name)))
                return EINVAL;
            if (fill)
                table->matches[matches] = (struct walk_match){
                    match_kind_of(match->u.user.name, match->u.user.revision, match->u.match_size - sizeof(*match)),
                    match};
            offset += match->u.match_size;
        }
        target = (const void *)(entry + target_at);
        if (target->u.target_size < sizeof(*target) || target->u.target_size > next - target_at
            || !memchr(target->u.user.name, 0, sizeof(target->u.user.name)))
            return EINVAL;
        at += next;
    }
    if (fill)
        table->rules[rules] = (struct walk_rule){.at = table->size, .match = matches};
    table->n_rules = rules;
    table->n_matches = matches;
    return 0;
}

static int read_verdict(struct walk_table *table, struct walk_rule *rule)
{
    const struct xt_entry_target *target = walk_target(table, rule);
    const struct xt_standard_target *standard = (const void *)target;
    bool is_goto;

    if (strcmp(target->u.user.name, XT_ERROR_TARGET) == 0) {
        rule->verdict = VERDICT_DROP;
        table->deepest++;
        return 0;
    }
    if (target->u.user.name[0]) {
        rule->verdict = VERDICT_TARGET;
        rule->target = target_kind_of(target->u.user.name, target->u.user.revision,
                                      target->u.target_size - sizeof(*target));
        return 0;
    }
    if (target->u.target_size < sizeof(*standard))
        return EINVAL;
    switch (standard->verdict) {
    case -NF_ACCEPT - 1:
        rule->verdict = VERDICT_ACCEPT;
        return 0;
    case -NF_DROP - 1:
        rule->verdict = VERDICT_DROP;
        return 0;
    case -NF_QUEUE - 1:
        rule->verdict = VERDICT_QUEUE;
        return 0;
    case XT_RETURN:
        rule->verdict = VERDICT_RETURN;
        return 0;
    }
    if (standard->verdict < 0 || find_rule(table, standard->verdict, &rule->to))
        return EINVAL;
    is_goto = table->family == AF_INET6
                  ? ((const struct ip6t_entry *)(table->image + rule->at))->ipv6.flags & IP6T_F_GOTO
                  : ((const struct ipt_entry *)(table->image + rule->at))->ip.flags & IPT_F_GOTO;
    /* A jump to the next rule takes no place in the stack. */
    rule->verdict = is_goto || rule + 1 == &table->rules[rule->to] ? VERDICT_GOTO : VERDICT_JUMP;
    return 0;
}

static void make_key(struct walk_table *table, size_t index)
{
    const unsigned char *entry = table->image + table->rules[index].at;

    if (table->family == AF_INET6) {
        const struct ip6t_ip6 *ip = &((const struct ip6t_entry *)entry)->ipv6;

        for (size_t half = 0; half < 2 && !(ip->invflags & IP6T_INV_SRCIP); half++) {
            memcpy(&table->keys[2 * index + half].mask, (const char *)&ip->smsk + 8 * half, 8);
            memcpy(&table->keys[2 * index + half].want, (const char *)&ip->src + 8 * half, 8);
        }
    } else {
        const struct ipt_ip *ip = &((const struct ipt_entry *)entry)->ip;
        uint32_t mask[2] = {ip->smsk.s_addr, ip->dmsk.s_addr}, want[2] = {ip->src.s_addr, ip->dst.s_addr};

        if (ip->invflags & IPT_INV_SRCIP)
            mask[0] = want[0] = 0;
        if (ip->invflags & IPT_INV_DSTIP)
            mask[1] = want[1] = 0;
        memcpy(&table->keys[index].mask, mask, sizeof(mask));
        memcpy(&table->keys[index].want, want, sizeof(want));
    }
}

static bool unconditional(const struct walk_table *table, const struct walk_rule *rule)
{
    static const struct ipt_ip any4;
    static const struct ip6t_ip6 any6;
    const unsigned char *entry = table->image + rule->at;

    if (rule[1].match != rule->match)
        return false;
    return table->family == AF_INET6 ? !memcmp(entry, &any6, sizeof(any6)) : !memcmp(entry, &any4, sizeof(any4));
}

/* As check_underflow(): so a RETURN from a base chain ends it. */
static bool is_policy(const struct walk_table *table, const struct walk_rule *rule)
{
    return unconditional(table, rule) && (rule->verdict == VERDICT_ACCEPT || rule->verdict == VERDICT_DROP)
        && !walk_target(table, rule)->u.user.name[0];
}

/* Whether a packet may go from a rule to the one below it. */
static bool falls_through(const struct walk_table *table, const struct walk_rule *rule)
{
    if (rule->verdict == VERDICT_JUMP || rule->verdict == VERDICT_TARGET)
        return true;
    return !unconditional(table, rule);
}

/* A depth-first search from every base chain: 0, ELOOP, or EINVAL where a rule falls out of the image. */
static int check_ways(const struct walk_table *table)
{
    enum { WHITE, GREY, SIDE, BLACK };
    uint8_t *colour = calloc(table->n_rules, 1);
    uint32_t *path = calloc(table->n_rules, sizeof(*path));
    int error = colour && path ? 0 : ENOMEM;

    for (int hook = 0; hook < NF_INET_NUMHOOKS && !error; hook++) {
        size_t depth = 0;

        for (int root = 0; root < 2 && !error; root++) {
            uint32_t from = root ? table->underflow[hook] : table->start[hook];

            if (!(table->hooks >> hook & 1) || colour[from] == BLACK)
                continue;
            path[depth++] = from;
            while (depth && !error) {
                uint32_t at = path[depth - 1], to;
                const struct walk_rule *rule = &table->rules[at];

                if (colour[at] == WHITE) {
                    colour[at] = GREY;
                    if (rule->verdict != VERDICT_JUMP && rule->verdict != VERDICT_GOTO)
                        continue;
                    to = rule->to;
                } else if (colour[at] == GREY) {
                    colour[at] = SIDE;
                    if (!falls_through(table, rule))
                        continue;
                    to = at + 1;
                } else {
                    colour[at] = BLACK;
                    depth--;
                    continue;
                }
                if (to >= table->n_rules)
                    error = EINVAL;
                else if (colour[to] == GREY || colour[to] == SIDE)
                    error = ELOOP;
                else if (colour[to] == WHITE)
                    path[depth++] = to;
            }
        }
    }
    free(colour);
    free(path);
    return error;
}

int walk_table_make(struct walk_table *table, const void *image, size_t size, unsigned int hooks,
                    const uint32_t *start, const uint32_t *underflow)
{
    int error;

    if (size > INT32_MAX || hooks >> NF_INET_NUMHOOKS)
        return EINVAL;
    table->image = malloc(size + 1);
    if (!table->image)
        return ENOMEM;
    memcpy(table->image, image, size);
    table->size = size;
    table->hooks = hooks;
    error = go_over(table, false);
    if (error)
        return error;
    table->rules = calloc(table->n_rules + 1, sizeof(*table->rules));
    table->keys = calloc(2 * (table->n_rules + 1), sizeof(*table->keys));
    table->matches = calloc(table->n_matches + 1, sizeof(*table->matches));
    table->packets = calloc(table->n_rules + 1, sizeof(*table->packets));
    table->bytes = calloc(table->n_rules + 1, sizeof(*table->bytes));
    table->doubts = calloc(table->n_rules + 1, sizeof(*table->doubts));
    table->possible = calloc(table->n_rules + 1, sizeof(*table->possible));
    if (!table->rules || !table->keys || !table->matches || !table->packets || !table->bytes || !table->doubts || !table->possible)
        return ENOMEM;
    error = go_over(table, true);
    for (size_t i = 0; i < table->n_rules && !error; i++) {
        make_key(table, i);
        error = read_verdict(table, &table->rules[i]);
    }
    for (int hook = 0; hook < NF_INET_NUMHOOKS && !error; hook++)
        if (hooks >> hook & 1)
            error = find_rule(table, start[hook], &table->start[hook])
                    || find_rule(table, underflow[hook], &table->underflow[hook])
                    || !is_policy(table, &table->rules[table->underflow[hook]]) ? EINVAL : 0;
    return error ? error : check_ways(table);
}

void walk_table_free(struct walk_table *table)
{
    free(table->image);
    free(table->rules);
    free(table->keys);
    free(table->matches);
    free(table->packets);
    free(table->bytes);
    free(table->doubts);
    free(table->possible);
}
