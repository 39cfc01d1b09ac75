/*
 * The way of an opening packet through the tables, before it is sent, as net/ipv4/netfilter/ip_tables.c ipt_do_table()
 * and ip6t_do_table() would take it.  Up to the first rule whose answer nobody can tell the way is certain; there it
 * goes on both ways, and so on, until each way has ended or there are too many.
 */
#include <errno.h>

#include "xtables_walk.h"

enum { NOT_A_HOOK = 255 };
enum { PRIORITY_CONNTRACK = -200, PRIORITY_NAT_DESTINATION = -100, PRIORITY_NAT_SOURCE = 100 }; /* NF_IP_PRI_* */

nfk_walk *nfk_walk_new(int family)
{
    struct nfk_walk *walk = calloc(1, sizeof(*walk));

    if (!walk)
        return NULL;
    walk->family = family;
    walk->forks = calloc(WALK_MOST_WAYS, sizeof(*walk->forks));
    walk->seen = calloc(WALK_SEEN_ROOM, sizeof(*walk->seen));
    walk->stack = calloc(1, sizeof(*walk->stack));
    if (walk->forks && walk->seen && walk->stack)
        return walk;
    nfk_walk_free(walk);
    return NULL;
}

void nfk_walk_free(nfk_walk *walk)
{
    if (!walk)
        return;
    for (size_t i = 0; i < walk->n_tables; i++)
        walk_table_free(&walk->tables[i]);
    walk_forget_tally(walk);
    free(walk->forks);
    free(walk->stacks);
    free(walk->seen);
    free(walk->stack);
    free(walk);
}

static void add_stages(struct nfk_walk *walk, struct path *path, uint8_t hook, bool from_here, bool by_lo, int most)
{
    size_t first = path->count;

    for (size_t i = 0; i < walk->n_tables; i++) {
        const struct walk_table *table = &walk->tables[i];
        bool begins = hook == NF_INET_PRE_ROUTING || hook == NF_INET_LOCAL_OUT;
        size_t at = path->count;

        if (!(table->hooks >> hook & 1) || table->priority > most)
            continue;
        for (; at > first && walk->tables[path->stages[at - 1].table].priority > table->priority; at--)
            path->stages[at] = path->stages[at - 1];
        path->stages[at] = (struct stage){
            .table = i,
            .hook = hook,
            .tracked = by_lo || !begins || table->priority > PRIORITY_CONNTRACK,
            .new_destination = by_lo || !begins || table->priority > PRIORITY_NAT_DESTINATION,
            .new_source = by_lo || (!begins && hook != NF_INET_FORWARD && table->priority > PRIORITY_NAT_SOURCE),
            .forwarded = !from_here && (hook == NF_INET_FORWARD || hook == NF_INET_POST_ROUTING),
            .by_lo = by_lo,
        };
        path->count++;
    }
}

/* Which hooks a packet passes on its way to one: net/ipv4/ip_input.c, ip_forward.c, ip_output.c. */
static void make_paths(struct nfk_walk *walk)
{
    static const uint8_t entering[][4] = {{0}, {0, 1}, {0, 2}, {0, 2, 4}}, leaving[][4] = {{3}, {3, 4}, {3, 4, 0}, {3, 4, 0, 1}};
    static const uint8_t lengths[2][4] = {{1, 2, 2, 3}, {1, 2, 3, 4}};
    int last = INT_MAX;

    for (size_t i = 0; i < walk->n_tables; i++)
        if (walk->tables[i].watched)
            last = walk->tables[i].priority;
    memset(walk->paths, 0, sizeof(walk->paths));
    for (int from_here = 0; from_here < 2; from_here++)
        for (int i = 0; i < 4; i++) {
            const uint8_t *hooks = from_here ? leaving[i] : entering[i];
            int length = lengths[from_here][i];
            struct path *path = &walk->paths[from_here][hooks[length - 1]];

            path->exists = true;
            for (int k = 0; k < length; k++)
                add_stages(walk, path, hooks[k], from_here, from_here && k > 1, k == length - 1 ? last : INT_MAX);
        }
}

int nfk_walk_add_table(nfk_walk *walk, const char *name, int priority, const void *entries, size_t size,
                       unsigned int valid_hooks, const uint32_t *hook_entry, const uint32_t *underflow, int watched)
{
    struct walk_table *table = &walk->tables[walk->n_tables];
    uint32_t *stack;
    int error;

    if (walk->n_tables == WALK_MOST_TABLES || strlen(name) >= sizeof(table->name))
        return EINVAL;
    *table = (struct walk_table){.family = walk->family, .priority = priority, .watched = watched};
    strcpy(table->name, name);
    error = walk_table_make(table, entries, size, valid_hooks, hook_entry, underflow);
    if (error) {
        walk_table_free(table);
        return error;
    }
    walk->n_tables++;
    size = 1;
    for (size_t i = 0; i < walk->n_tables; i++)
        size = walk->tables[i].deepest > size ? walk->tables[i].deepest : size;
    stack = realloc(walk->stack, size * sizeof(*stack));
    if (!stack)
        return ENOMEM;
    walk->stack = stack;
    make_paths(walk);
    return 0;
}

static int walk_one(struct nfk_walk *walk, const struct nfk_probe *probe, uint32_t number, uint32_t times,
                    struct nfk_walked *out, struct left_mark *left)
{
    static const uint8_t outcomes[] = {[AT_SINK] = NFK_REACHED_SINK, [DROPPED] = NFK_DROPPED_BEFORE,
                                       [LEFT] = NFK_UNCERTAIN, [TOO_LONG] = NFK_UNCERTAIN};
    struct run run = {.walk = walk, .probe = probe, .times = times, .number = number, .out = out};
    enum end end;

    memset(out, 0, sizeof(*out));
    out->certain = true;
    if (probe->sunk_at == NOT_A_HOOK)
        return 0;
    if (probe->family != walk->family || probe->sunk_at >= NF_INET_NUMHOOKS)
        return EINVAL;
    run.path = &walk->paths[!!probe->from_here][probe->sunk_at];
    if (!run.path->exists)
        return EINVAL;
    memset(&run.packet, 0, sizeof(run.packet));
    run.packet.ct_mark = left->mark;
    run.packet.unknown = left->unknown ? UNKNOWN_CT_MARK : 0;
    run.packet.length = probe->length;
    run.packet.ttl = probe->ttl;
    run.packet.tos = probe->tos;
    run.packet.tcp_flags = probe->tcp_flags;
    *left = (struct left_mark){0};
    end = walk_begin_stage(&run);
    if (end == IN_DOUBT)
        end = walk_go_on(&run, false);
    out->certain = end == AT_SINK || end == DROPPED;
    if (end == IN_DOUBT) {
        out->doubt_table = run.view.stage->table;
        out->doubt_entry = run.rule;
        walk->tables[out->doubt_table].doubts[run.rule] += times;
        run.doubtful = true;
        end = walk_all_ways(&run, left);
    } else {
        if (end == LEFT) {
            out->doubt_table = run.view.stage->table;
            out->doubt_entry = run.rule;
        }
        walk_note_end(left, &run);
    }
    if (end == NO_MEMORY)
        return ENOMEM;
    if (end == TOO_LONG) {
        left->unknown = true;
        out->lost = true;
        walk_note_hazard(&run, "too many ways", false);
    }
    out->outcome = outcomes[end];
    return 0;
}

int nfk_walk_flows(nfk_walk *walk, const struct nfk_probe *probes, size_t count, const uint32_t *times,
                   struct nfk_walked *out)
{
    struct left_mark left = {0};
    int error = 0;

    for (size_t i = 0; i < count && !error; i++) {
        if (!i || !probes[i].is_reply || probes[i - 1].is_reply || probes[i - 1].sunk_at == NOT_A_HOOK)
            left = (struct left_mark){.mark = probes[i].ct_mark};
        error = walk_one(walk, &probes[i], i + 1, times ? times[i] : 0, &out[i], &left);
    }
    return error;
}

size_t nfk_walk_entries(const nfk_walk *walk, size_t table)
{
    return table < walk->n_tables ? walk->tables[table].n_rules : 0;
}

void nfk_walk_counters(const nfk_walk *walk, size_t table, uint64_t *packets, uint64_t *bytes, uint64_t *doubts,
                       uint64_t *possible)
{
    size_t count = nfk_walk_entries(walk, table);

    if (!count)
        return;
    memcpy(packets, walk->tables[table].packets, count * sizeof(*packets));
    memcpy(bytes, walk->tables[table].bytes, count * sizeof(*bytes));
    memcpy(doubts, walk->tables[table].doubts, count * sizeof(*doubts));
    memcpy(possible, walk->tables[table].possible, count * sizeof(*possible));
}

void nfk_walk_zero(nfk_walk *walk)
{
    for (size_t i = 0; i < walk->n_tables; i++) {
        struct walk_table *table = &walk->tables[i];

        memset(table->packets, 0, table->n_rules * sizeof(*table->packets));
        memset(table->bytes, 0, table->n_rules * sizeof(*table->bytes));
        memset(table->doubts, 0, table->n_rules * sizeof(*table->doubts));
        memset(table->possible, 0, table->n_rules * sizeof(*table->possible));
    }
}

void nfk_walk_all_arrive(nfk_walk *walk) { walk->all_arrive = true; }

void nfk_walk_tell(nfk_walk *walk, size_t table, const uint8_t *answers)
{
    for (size_t i = 0; i < nfk_walk_entries(walk, table); i++)
        walk->tables[table].rules[i].told = answers[i] < MAYBE ? answers[i] : MAYBE;
}
