/*
 * How the matches answer that ask for the entry of connection tracking: of a packet that is not there yet, but whose
 * entry is.  In `raw` a packet has none, whatever there is.
 */
#include "xtables_walk.h"

#include <arpa/inet.h>

#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/xt_connmark.h>
#include <linux/netfilter/xt_conntrack.h>
#include <linux/netfilter/xt_state.h>

/* net/netfilter/xt_connmark.c: without an entry it never holds, inverted or not */
enum answer walk_connmark(const struct view *view, const void *data)
{
    const struct xt_connmark_mtinfo1 *info = data;
    const struct packet *packet = view->packet;

    if (packet->tracking == CT_TEMPLATE)
        return MAYBE;
    if (packet->tracking != CT_TRACKED)
        return NO;
    return marked(packet->ct_mark, packet->unknown & UNKNOWN_CT_MARK, info->mark, info->mask, info->invert);
}

/* Whether one of the bits of `possible` (just one of these is set) and `certain` (all are) is in `mask`. */
static enum answer any_state(uint32_t possible, uint32_t certain, uint32_t mask)
{
    if (certain & mask || (possible && !(possible & ~mask)))
        return YES;
    return possible & mask ? MAYBE : NO;
}

/* The ctstate without the bits for NAT; `untracked` is the bit that the match has for this. */
static uint32_t possible_states(const struct view *view, uint32_t untracked)
{
    enum { ANY = 1 << 1 | 1 << 2 | 1 << 3 }; /* ESTABLISHED, RELATED, NEW */

    switch (view->packet->tracking) {
    case CT_UNTRACKED:
        return untracked;
    case CT_NOT_YET:
        return XT_CONNTRACK_STATE_INVALID;
    case CT_TEMPLATE:
        return ANY;
    }
    return view->packet->unknown & UNKNOWN_STATE ? ANY : view->probe->states;
}

/* net/netfilter/xt_state.c */
enum answer walk_state(const struct view *view, const void *data)
{
    const struct xt_state_info *info = data;

    return any_state(possible_states(view, XT_STATE_UNTRACKED), 0, info->statemask);
}

static bool address_in(const uint8_t *address, const union nf_inet_addr *wanted, const union nf_inet_addr *mask,
                       int family)
{
    const uint8_t *want = (const void *)wanted, *under = (const void *)mask;
    uint8_t differs = 0;

    for (int i = 0; i < (family == AF_INET6 ? 16 : 4); i++)
        differs |= (address[i] ^ want[i]) & under[i];
    return !differs;
}

/* The entry's tuples, by the probe's direction: what one enters with is how the other leaves, turned round. */
struct tuples {
    const uint8_t *address[4]; /* original source and destination, reply source and destination */
    uint16_t port[4];
};

static struct tuples tuples_of(const struct nfk_probe *probe)
{
    struct tuples out = {{probe->source, probe->destination, probe->nat_destination, probe->nat_source},
                         {probe->source_port, probe->destination_port, probe->nat_destination_port,
                          probe->nat_source_port}};

    if (probe->is_reply)
        out = (struct tuples){{probe->nat_destination, probe->nat_source, probe->source, probe->destination},
                              {probe->nat_destination_port, probe->nat_source_port, probe->source_port,
                               probe->destination_port}};
    return out;
}

static enum answer ct_addresses(const struct view *view, const struct xt_conntrack_mtinfo3 *info)
{
    const union nf_inet_addr *pairs = &info->origsrc_addr;
    struct tuples tuples = tuples_of(view->probe);

    for (int i = 0; i < 4; i++) {
        uint16_t flag = XT_CONNTRACK_ORIGSRC << i;

        if (info->match_flags & flag
            && address_in(tuples.address[i], &pairs[2 * i], &pairs[2 * i + 1], view->probe->family)
                   != !(info->invert_flags & flag))
            return NO;
    }
    return YES;
}

static enum answer ct_ports(const struct view *view, const struct xt_conntrack_mtinfo3 *info, bool ranges)
{
    const uint16_t *low = &info->origsrc_port, *high = &info->origsrc_port_high;
    struct tuples tuples = tuples_of(view->probe);

    if (info->match_flags & XT_CONNTRACK_PROTO
        && (view->probe->protocol == info->l4proto) != !(info->invert_flags & XT_CONNTRACK_PROTO))
        return NO;
    for (int i = 0; i < 4; i++) {
        uint16_t flag = XT_CONNTRACK_ORIGSRC_PORT << i, port = tuples.port[i];
        bool in = ranges ? port >= low[i] && port <= high[i] : port == ntohs(low[i]);

        if (info->match_flags & flag && in != !(info->invert_flags & flag))
            return NO;
    }
    return YES;
}

/* net/netfilter/xt_conntrack.c; the revisions agree up to the masks, and 3 has ranges of ports */
static enum answer ct_match(const struct view *view, const void *data, uint16_t state_mask, uint16_t status_mask,
                            bool ranges)
{
    const struct xt_conntrack_mtinfo3 *info = data;
    const struct nfk_probe *probe = view->probe;
    const struct packet *packet = view->packet;
    uint32_t nat = probe->status & probe->status_known;
    enum answer answer = YES;

    if (info->match_flags & XT_CONNTRACK_STATE) {
        uint32_t translated = 0;

        if (packet->tracking == CT_TRACKED)
            translated = (nat & IPS_SRC_NAT ? XT_CONNTRACK_STATE_SNAT : 0)
                         | (nat & IPS_DST_NAT ? XT_CONNTRACK_STATE_DNAT : 0);
        answer = any_state(possible_states(view, XT_CONNTRACK_STATE_UNTRACKED), translated, state_mask);
        answer = inverted(answer, info->invert_flags & XT_CONNTRACK_STATE);
    }
    if (packet->tracking == CT_TEMPLATE)
        return MAYBE;
    if (packet->tracking != CT_TRACKED)
        return info->match_flags & XT_CONNTRACK_STATE ? answer : NO;
    if (info->match_flags & XT_CONNTRACK_DIRECTION
        && !probe->is_reply != !(info->invert_flags & XT_CONNTRACK_DIRECTION))
        return NO;
    answer = both(answer, both(ct_addresses(view, info), ct_ports(view, info, ranges)));
    if (info->match_flags & XT_CONNTRACK_STATUS) {
        enum answer has = probe->status & probe->status_known & status_mask ? YES
                          : status_mask & ~probe->status_known || packet->unknown & UNKNOWN_STATE ? MAYBE : NO;

        answer = both(answer, inverted(has, info->invert_flags & XT_CONNTRACK_STATUS));
    }
    return info->match_flags & XT_CONNTRACK_EXPIRES ? both(answer, MAYBE) : answer;
}

enum answer walk_conntrack_v1(const struct view *view, const void *data)
{
    const struct xt_conntrack_mtinfo1 *info = data;

    return ct_match(view, data, info->state_mask, info->status_mask, false);
}

enum answer walk_conntrack_v2(const struct view *view, const void *data)
{
    const struct xt_conntrack_mtinfo2 *info = data;

    return ct_match(view, data, info->state_mask, info->status_mask, false);
}

enum answer walk_conntrack_v3(const struct view *view, const void *data)
{
    const struct xt_conntrack_mtinfo3 *info = data;

    return ct_match(view, data, info->state_mask, info->status_mask, true);
}
