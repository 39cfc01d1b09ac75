/*
 * One way of a packet, rule by rule: whether a rule's head holds for it, what its matches answer, where its target
 * sends it.
 */
#include "xtables_walk.h"

enum { MOST_STEPS = 1 << 24 };

static const uint8_t no_interface[16], loopback[16] = "lo";

/* What the packet looks like to the stage's table. False: it is not forwarded, as its time to live has run out. */
bool walk_look_again(struct run *run)
{
    const struct stage *stage = &run->path->stages[run->stage];
    const struct nfk_probe *probe = run->probe;
    struct packet *packet = &run->packet;
    struct view *view = &run->view;
    const uint8_t *in = probe->in_name[0] ? probe->in_name : NULL, *out = probe->out_name[0] ? probe->out_name : NULL;

    if (stage->tracked && packet->tracking < CT_UNTRACKED)
        packet->tracking = CT_TRACKED;
    if (stage->forwarded && !packet->forwarded) {
        packet->forwarded = true;
        if (packet->ttl <= 1)
            return false;
        packet->ttl--;
    }
    *view = (struct view){.probe = probe, .packet = packet, .stage = stage};
    view->source = stage->new_source ? probe->nat_source : probe->source;
    view->source_port = stage->new_source ? probe->nat_source_port : probe->source_port;
    view->source_type = stage->new_source ? probe->nat_source_type : probe->source_type;
    view->destination = stage->new_destination ? probe->nat_destination : probe->destination;
    view->destination_port = stage->new_destination ? probe->nat_destination_port : probe->destination_port;
    view->destination_type = stage->new_destination ? probe->nat_destination_type : probe->destination_type;
    if (probe->from_here && (probe->sunk_at == NF_INET_PRE_ROUTING || probe->sunk_at == NF_INET_LOCAL_IN))
        out = loopback;
    if (packet->unknown & UNKNOWN_OUT)
        out = NULL;
    /* Whether POSTROUTING sees the interface it came by depends on the kernel (since Linux 5.7). */
    view->in_name = stage->by_lo ? loopback : stage->hook == NF_INET_LOCAL_OUT ? no_interface
                    : stage->hook == NF_INET_POST_ROUTING ? NULL : in;
    view->out_name = stage->hook == NF_INET_PRE_ROUTING || stage->hook == NF_INET_LOCAL_IN ? no_interface : out;
    memcpy(&run->address4[0], view->source, 4);
    memcpy(&run->address4[1], view->destination, 4);
    memcpy(run->keys, probe->family == AF_INET6 ? (const void *)view->source : (const void *)run->address4,
           probe->family == AF_INET6 ? 16 : 8);
    return true;
}

/* ifname_compare() of linux/netfilter/x_tables.h. */
static enum answer name_holds(const uint8_t *name, const char *wanted, const unsigned char *mask, bool invert)
{
    uint64_t have[2], want[2], under[2];

    memcpy(under, mask, sizeof(under));
    if (!(under[0] | under[1]))
        return invert ? NO : YES;
    if (!name)
        return MAYBE;
    memcpy(have, name, sizeof(have));
    memcpy(want, wanted, sizeof(want));
    return (((have[0] ^ want[0]) & under[0]) | ((have[1] ^ want[1]) & under[1])) == 0 ? invert ? NO : YES
                                                                                     : invert ? YES : NO;
}

static enum answer names_hold(const struct view *view, const char *in, const unsigned char *in_mask, bool in_invert,
                              const char *out, const unsigned char *out_mask, bool out_invert)
{
    enum answer by_in = name_holds(view->in_name, in, in_mask, in_invert);
    enum answer by_out = by_in == NO ? NO : name_holds(view->out_name, out, out_mask, out_invert);

    return by_out == NO ? NO : by_in == YES ? by_out : MAYBE;
}

/* ip_packet_match() of net/ipv4/netfilter/ip_tables.c; no opening packet is a fragment. */
static inline enum answer head4_holds(const struct run *run, const struct ipt_ip *ip)
{
    if (((run->address4[0] & ip->smsk.s_addr) != ip->src.s_addr) != !!(ip->invflags & IPT_INV_SRCIP)
        || ((run->address4[1] & ip->dmsk.s_addr) != ip->dst.s_addr) != !!(ip->invflags & IPT_INV_DSTIP)
        || (ip->proto && (run->probe->protocol != ip->proto) != !!(ip->invflags & IPT_INV_PROTO))
        || !(ip->flags & IPT_F_FRAG) != !(ip->invflags & IPT_INV_FRAG))
        return NO;
    return names_hold(&run->view, ip->iniface, ip->iniface_mask, ip->invflags & IPT_INV_VIA_IN, ip->outiface,
                      ip->outiface_mask, ip->invflags & IPT_INV_VIA_OUT);
}

static inline bool differs6(const uint8_t *address, const struct in6_addr *mask, const struct in6_addr *wanted)
{
    uint64_t have[2], under[2], want[2];

    memcpy(have, address, sizeof(have));
    memcpy(under, mask, sizeof(under));
    memcpy(want, wanted, sizeof(want));
    return (((have[0] ^ want[0]) & under[0]) | ((have[1] ^ want[1]) & under[1])) != 0;
}

/* ip6_packet_match() of net/ipv6/netfilter/ip6_tables.c */
static inline enum answer head6_holds(const struct run *run, const struct ip6t_ip6 *ip)
{
    const struct view *view = &run->view;

    if (differs6(view->source, &ip->smsk, &ip->src) != !!(ip->invflags & IP6T_INV_SRCIP)
        || differs6(view->destination, &ip->dmsk, &ip->dst) != !!(ip->invflags & IP6T_INV_DSTIP))
        return NO;
    if (ip->flags & IP6T_F_PROTO
        && (ip->proto == run->probe->protocol ? ip->invflags & IP6T_INV_PROTO
                                              : ip->proto && !(ip->invflags & IP6T_INV_PROTO)))
        return NO;
    return names_hold(view, ip->iniface, ip->iniface_mask, ip->invflags & IP6T_INV_VIA_IN, ip->outiface,
                      ip->outiface_mask, ip->invflags & IP6T_INV_VIA_OUT);
}

void walk_note_hazard(struct run *run, const char *name, bool surely)
{
    struct nfk_walked *out = run->out;

    if (out->hazard)
        return;
    out->hazard = surely && out->certain ? NFK_WOULD_HARM : NFK_MIGHT_HARM;
    out->hazard_table = run->view.stage->table;
    out->hazard_entry = run->rule;
    memcpy(out->name, name, strnlen(name, sizeof(out->name) - 1));
}

static bool drops(const struct walk_rule *rule)
{
    return rule->verdict == VERDICT_DROP
        || (rule->verdict == VERDICT_TARGET && rule->target->after == END_DROPPED);
}

static enum answer matches_hold(struct run *run, const struct walk_table *table, const struct walk_rule *rule,
                                enum answer answer)
{
    for (uint32_t i = rule->match; i < rule[1].match; i++) {
        const struct match_kind *kind = table->matches[i].kind;
        const struct xt_entry_match *match = table->matches[i].match;
        enum answer one = kind->evaluate             ? kind->evaluate(&run->view, match->data)
                        : kind->harm == COUNTS_FLOWS ? walk_connlimit(run, table, match)
                                                     : MAYBE;
        bool harm = kind->harm == HARMFUL || (kind->harm == HARMFUL_ELSEWHERE && !table->watched);

        if (harm && (!kind->harms || kind->harms(match->data)))
            walk_note_hazard(run, match->u.user.name, answer == YES);
        if (one == NO)
            return NO;
        answer = one == MAYBE ? MAYBE : answer;
    }
    if (answer != MAYBE)
        return answer;
    return run->walk->all_arrive && drops(rule) ? NO : rule->told;
}

/* Whether the packet is to be translated and nothing will do it: then it goes some other way. */
static bool is_lost(const struct run *run)
{
    const struct nfk_probe *probe = run->probe;

    if (run->packet.tracking != CT_UNTRACKED && !(run->packet.unknown & UNKNOWN_STATE))
        return false;
    return memcmp(probe->source, probe->nat_source, sizeof(probe->source)) != 0
        || memcmp(probe->destination, probe->nat_destination, sizeof(probe->destination)) != 0
        || probe->source_port != probe->nat_source_port || probe->destination_port != probe->nat_destination_port;
}

/* Where the walk does not follow it. */
static enum end leave(struct run *run)
{
    run->out->lost = true;
    return LEFT;
}

enum end walk_begin_stage(struct run *run)
{
    const struct stage *stage;

    if (run->stage && is_lost(run)) {
        walk_note_hazard(run, "CT", false);
        return leave(run);
    }
    if (run->stage == run->path->count)
        return AT_SINK;
    if (!walk_look_again(run))
        return DROPPED;
    stage = run->view.stage;
    run->rule = run->walk->tables[stage->table].start[stage->hook];
    run->depth = 0;
    return IN_DOUBT; /* no end yet */
}

/* The next rule whose addresses may fit. The last rule of a chain has none, so that one is always found. */
static inline uint32_t next_fitting(const struct run *run, const struct walk_key *keys, bool v6, uint32_t at)
{
    uint64_t first = run->keys[0], second = run->keys[1];

    if (v6)
        while (((first & keys[2 * at].mask) ^ keys[2 * at].want)
               | ((second & keys[2 * at + 1].mask) ^ keys[2 * at + 1].want))
            at++;
    else
        while ((first & keys[at].mask) != keys[at].want)
            at++;
    return at;
}

enum end walk_go_on(struct run *run, bool matched)
{
    struct nfk_walk *walk = run->walk;
    struct walk_table *table = &walk->tables[run->view.stage->table];
    bool v6 = walk->family == AF_INET6;
    uint32_t at = run->rule;

    for (;;) {
        uint32_t from = at;
        const struct walk_rule *rule;
        const unsigned char *entry;
        enum answer answer = YES;
        bool accepted = false;

        if (!matched)
            at = next_fitting(run, table->keys, v6, at);
        rule = &table->rules[at];
        entry = table->image + rule->at;
        run->steps += at - from + 1;
        if (run->steps > MOST_STEPS)
            return TOO_LONG;
        if (!matched) {
            answer = v6 ? head6_holds(run, &((const struct ip6t_entry *)entry)->ipv6)
                        : head4_holds(run, &((const struct ipt_entry *)entry)->ip);
            if (answer != NO && (answer == MAYBE || rule->match != rule[1].match)) {
                run->rule = at;
                answer = matches_hold(run, table, rule, answer);
            }
        }
        matched = false;
        if (answer == NO) {
            at++;
            continue;
        }
        run->rule = at;
        if (answer == MAYBE)
            return IN_DOUBT;
        if (run->doubtful)
            table->possible[at] += run->times;
        else {
            table->packets[at] += run->times;
            table->bytes[at] += (uint64_t)run->times * run->packet.length;
        }
        switch (rule->verdict) {
        case VERDICT_ACCEPT:
            accepted = true;
            break;
        case VERDICT_DROP:
            return DROPPED;
        case VERDICT_QUEUE:
            walk_note_hazard(run, "QUEUE", true);
            return leave(run);
        case VERDICT_RETURN:
            at = run->depth ? walk->stack[--run->depth] + 1 : table->underflow[run->view.stage->hook];
            break;
        case VERDICT_JUMP:
            if (run->depth >= table->deepest)
                return DROPPED;
            walk->stack[run->depth++] = at;
            at = rule->to;
            break;
        case VERDICT_GOTO:
            at = rule->to;
            break;
        case VERDICT_TARGET:
            if (rule->target->harm)
                walk_note_hazard(run, walk_target(table, rule)->u.user.name, true);
            if (rule->target->change)
                rule->target->change(&run->view, walk_target(table, rule)->data);
            if (rule->target->after != GO_ON)
                return rule->target->after == END_DROPPED ? DROPPED : leave(run);
            at++;
            break;
        }
        if (accepted) {
            enum end end;

            run->stage++;
            end = walk_begin_stage(run);
            if (end != IN_DOUBT)
                return end;
            table = &walk->tables[run->view.stage->table];
            at = run->rule;
        }
    }
}
