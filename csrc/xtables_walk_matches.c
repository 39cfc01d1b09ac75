/*
 * What is known of matches: how each answers for a packet that is not there yet, and whether asking it leaves traces.
 * Each function repeats the decision of the kernel file named beside it.
 */
#include "xtables_walk.h"

#include <linux/netfilter/xt_addrtype.h>
#include <linux/netfilter/xt_connlimit.h>
#include <linux/netfilter/xt_connmark.h>
#include <linux/netfilter/xt_conntrack.h>
#include <linux/netfilter/xt_dscp.h>
#include <linux/netfilter/xt_iprange.h>
#include <linux/netfilter/xt_length.h>
#include <linux/netfilter/xt_mark.h>
#include <linux/netfilter/xt_multiport.h>
#include <linux/netfilter/xt_owner.h>
#include <linux/netfilter/xt_physdev.h>
#include <linux/netfilter/xt_recent.h>
#include <linux/netfilter/xt_state.h>
#include <linux/netfilter/xt_statistic.h>
#include <linux/netfilter/xt_tcpmss.h>
#include <linux/netfilter/xt_tcpudp.h>
#include <linux/netfilter_ipv4/ipt_ttl.h>
#include <linux/netfilter_ipv6/ip6t_hl.h>

enum { TCP_OPTION_MSS = 2 };

static enum answer always(const struct view *view, const void *data)
{
    (void)view, (void)data;
    return YES;
}

/* A match of another protocol, or of an IPv6 header that opening packets do not have. */
static enum answer never(const struct view *view, const void *data)
{
    (void)view, (void)data;
    return NO;
}

static bool in_range(uint16_t port, const uint16_t range[2], bool invert)
{
    return (port >= range[0] && port <= range[1]) != invert;
}

/* net/netfilter/xt_tcpudp.c */
static enum answer tcp(const struct view *view, const void *data)
{
    const struct xt_tcp *tcp = data;
    const struct packet *packet = view->packet;
    bool same = (packet->tcp_flags & tcp->flg_mask) == tcp->flg_cmp, has;
    enum answer flags;

    if (!in_range(view->source_port, tcp->spts, tcp->invflags & XT_TCP_INV_SRCPT)
        || !in_range(view->destination_port, tcp->dpts, tcp->invflags & XT_TCP_INV_DSTPT))
        return NO;
    flags = packet->unknown & UNKNOWN_TCP_FLAGS && tcp->flg_mask ? MAYBE : answer_of(same);
    flags = inverted(flags, tcp->invflags & XT_TCP_INV_FLAGS);
    if (!tcp->option)
        return flags;
    has = tcp->option == TCP_OPTION_MSS && (packet->mss || packet->unknown & UNKNOWN_MSS);
    return both(flags, answer_of(has != !!(tcp->invflags & XT_TCP_INV_OPTION)));
}

/* net/netfilter/xt_tcpudp.c */
static enum answer udp(const struct view *view, const void *data)
{
    const struct xt_udp *udp = data;

    return answer_of(in_range(view->source_port, udp->spts, udp->invflags & XT_UDP_INV_SRCPT)
                     && in_range(view->destination_port, udp->dpts, udp->invflags & XT_UDP_INV_DSTPT));
}

/* net/netfilter/xt_multiport.c */
static enum answer multiport(const struct view *view, const void *data)
{
    const struct xt_multiport_v1 *ports = data;
    size_t count = ports->count < XT_MULTI_PORTS ? ports->count : XT_MULTI_PORTS;
    bool source = ports->flags != XT_MULTIPORT_DESTINATION, destination = ports->flags != XT_MULTIPORT_SOURCE;

    for (size_t i = 0; i < count; i++) {
        uint16_t range[2] = {ports->ports[i], ports->ports[i]};

        if (ports->pflags[i] && i + 1 < XT_MULTI_PORTS)
            range[1] = ports->ports[++i];
        if ((source && in_range(view->source_port, range, false))
            || (destination && in_range(view->destination_port, range, false)))
            return answer_of(!ports->invert);
    }
    return answer_of(ports->invert);
}

/* net/netfilter/xt_multiport.c before Linux 5.15; revision 0 */
static enum answer multiport_v0(const struct view *view, const void *data)
{
    const struct xt_multiport *old = data;
    struct xt_multiport_v1 ports = {.flags = old->flags, .count = old->count};

    memcpy(ports.ports, old->ports, sizeof(ports.ports));
    return multiport(view, &ports);
}

/* net/netfilter/xt_mark.c */
static enum answer mark(const struct view *view, const void *data)
{
    const struct xt_mark_mtinfo1 *info = data;

    return marked(view->packet->mark, view->packet->unknown & UNKNOWN_MARK, info->mark, info->mask, info->invert);
}

static bool between(const uint8_t *address, const union nf_inet_addr *low, const union nf_inet_addr *high, int family)
{
    size_t length = family == AF_INET6 ? 16 : 4;

    return memcmp(address, low, length) >= 0 && memcmp(address, high, length) <= 0;
}

/* net/netfilter/xt_iprange.c */
static enum answer iprange(const struct view *view, const void *data)
{
    const struct xt_iprange_mtinfo *range = data;
    int family = view->probe->family;

    if (range->flags & IPRANGE_SRC
        && between(view->source, &range->src_min, &range->src_max, family) == !!(range->flags & IPRANGE_SRC_INV))
        return NO;
    return answer_of(!(range->flags & IPRANGE_DST)
                     || between(view->destination, &range->dst_min, &range->dst_max, family)
                            != !!(range->flags & IPRANGE_DST_INV));
}

static enum answer type_in(uint8_t type, uint16_t mask)
{
    return type ? answer_of(mask >> type & 1) : MAYBE;
}

/* net/netfilter/xt_addrtype.c, where it asks for the type in general; IPv6 asks the routes, about more than types */
static enum answer addrtype_v1(const struct view *view, const void *data)
{
    const struct xt_addrtype_info_v1 *info = data;
    enum answer answer = YES;

    if (view->probe->family == AF_INET6 || info->flags & (XT_ADDRTYPE_LIMIT_IFACE_IN | XT_ADDRTYPE_LIMIT_IFACE_OUT))
        return MAYBE;
    if (info->source)
        answer = inverted(type_in(view->source_type, info->source), info->flags & XT_ADDRTYPE_INVERT_SOURCE);
    if (info->dest)
        answer = both(answer, inverted(type_in(view->destination_type, info->dest),
                                       info->flags & XT_ADDRTYPE_INVERT_DEST));
    return answer;
}

static enum answer addrtype_v0(const struct view *view, const void *data)
{
    const struct xt_addrtype_info *old = data;
    struct xt_addrtype_info_v1 info = {old->source, old->dest,
                                       (old->invert_source ? XT_ADDRTYPE_INVERT_SOURCE : 0)
                                           | (old->invert_dest ? XT_ADDRTYPE_INVERT_DEST : 0)};

    return addrtype_v1(view, &info);
}

/* net/netfilter/xt_hl.c; IPT_TTL_* and IP6T_HL_* are the same numbers */
static enum answer hops(const struct view *view, const void *data)
{
    const struct ipt_ttl_info *info = data;
    uint8_t ttl = view->packet->ttl;

    switch (info->mode) {
    case IPT_TTL_EQ:
        return answer_of(ttl == info->ttl);
    case IPT_TTL_NE:
        return answer_of(ttl != info->ttl);
    case IPT_TTL_LT:
        return answer_of(ttl < info->ttl);
    case IPT_TTL_GT:
        return answer_of(ttl > info->ttl);
    }
    return NO;
}

static enum answer service(const struct view *view, uint8_t mask, uint8_t wanted, bool invert)
{
    return marked(view->packet->tos, view->packet->unknown & UNKNOWN_TOS, wanted, mask, invert);
}

/* net/netfilter/xt_dscp.c */
static enum answer dscp(const struct view *view, const void *data)
{
    const struct xt_dscp_info *info = data;

    return service(view, XT_DSCP_MASK, info->dscp << XT_DSCP_SHIFT, info->invert);
}

/* net/netfilter/xt_dscp.c */
static enum answer tos(const struct view *view, const void *data)
{
    const struct xt_tos_match_info *info = data;

    return service(view, info->tos_mask, info->tos_value, info->invert);
}

/* net/netfilter/xt_length.c */
static enum answer length(const struct view *view, const void *data)
{
    const struct xt_length_info *info = data;

    return answer_of((view->packet->length >= info->min && view->packet->length <= info->max) != info->invert);
}

/* net/netfilter/xt_tcpmss.c: without the option the answer is "inverted" */
static enum answer tcpmss(const struct view *view, const void *data)
{
    const struct xt_tcpmss_match_info *info = data;
    uint16_t mss = view->packet->mss;

    if (view->packet->unknown & UNKNOWN_MSS)
        return MAYBE;
    return answer_of((mss && mss >= info->mss_min && mss <= info->mss_max) != info->invert);
}

/* net/netfilter/xt_physdev.c: opening packets enter at the interface with the address, never at a bridge's port */
static enum answer physdev(const struct view *view, const void *data)
{
    const struct xt_physdev_info *info = data;

    (void)view;
    return answer_of(!(info->bitmask & ~info->invert & XT_PHYSDEV_OP_MASK));
}

/* net/netfilter/xt_owner.c: what comes from outside has no socket */
static enum answer owner(const struct view *view, const void *data)
{
    const struct xt_owner_match_info *info = data;

    return view->probe->from_here ? MAYBE : answer_of(info->match == info->invert);
}

static bool recent_writes(const void *data)
{
    const struct xt_recent_mtinfo *info = data;

    return info->check_set & (XT_RECENT_SET | XT_RECENT_UPDATE | XT_RECENT_REMOVE | XT_RECENT_REAP);
}

static bool statistic_counts(const void *data)
{
    return ((const struct xt_statistic_info *)data)->mode == XT_STATISTIC_MODE_NTH;
}

/* struct nf_osf_info, whose header does not compile beside libiptc's. */
struct osf_info {
    char genre[32];
    uint32_t length, flags, level, ttl;
};

static bool osf_logs(const void *data)
{
    return ((const struct osf_info *)data)->flags & 1 << 2; /* NF_OSF_LOG */
}

/*
 * Who answers "maybe" has no function. HARMFUL, in brief: recent, hashlimit, limit, quota, nfacct and statistic change
 * what they keep when asked (xt_recent.c recent_mt(), and so on); osf writes to the log. Not harmful although it
 * counts: rateest, as only the target RATEEST adds to it.
 */
static const struct match_kind kinds[] = {
    {"addrtype", 0, sizeof(struct xt_addrtype_info), addrtype_v0, HARMLESS, NULL},
    {"addrtype", 1, sizeof(struct xt_addrtype_info_v1), addrtype_v1, HARMLESS, NULL},
    {"ah", -1, 0, never, HARMLESS, NULL},
    {"bpf", -1, 0, NULL, HARMLESS, NULL},
    {"cgroup", -1, 0, NULL, HARMLESS, NULL},
    {"cluster", -1, 0, NULL, HARMLESS, NULL},
    {"comment", -1, 0, always, HARMLESS, NULL},
    {"connbytes", -1, 0, NULL, HARMLESS, NULL},
    {"connlabel", -1, 0, NULL, HARMLESS, NULL},
    {"connlimit", 1, sizeof(struct xt_connlimit_info), NULL, COUNTS_FLOWS, NULL},
    {"connlimit", -1, 0, NULL, HARMLESS, NULL},
    {"connmark", 1, sizeof(struct xt_connmark_mtinfo1), walk_connmark, HARMLESS, NULL},
    {"conntrack", 1, sizeof(struct xt_conntrack_mtinfo1), walk_conntrack_v1, HARMLESS, NULL},
    {"conntrack", 2, sizeof(struct xt_conntrack_mtinfo2), walk_conntrack_v2, HARMLESS, NULL},
    {"conntrack", 3, sizeof(struct xt_conntrack_mtinfo3), walk_conntrack_v3, HARMLESS, NULL},
    {"cpu", -1, 0, NULL, HARMLESS, NULL},
    {"dccp", -1, 0, never, HARMLESS, NULL},
    {"devgroup", -1, 0, NULL, HARMLESS, NULL},
    {"dscp", 0, sizeof(struct xt_dscp_info), dscp, HARMLESS, NULL},
    {"dst", -1, 0, never, HARMLESS, NULL},
    {"ecn", -1, 0, NULL, HARMLESS, NULL},
    {"esp", -1, 0, never, HARMLESS, NULL},
    {"eui64", -1, 0, NULL, HARMLESS, NULL},
    {"frag", -1, 0, never, HARMLESS, NULL},
    {"hashlimit", -1, 0, NULL, HARMFUL, NULL},
    {"hbh", -1, 0, never, HARMLESS, NULL},
    {"helper", -1, 0, NULL, HARMLESS, NULL},
    {"hl", 0, sizeof(struct ip6t_hl_info), hops, HARMLESS, NULL},
    {"icmp", -1, 0, never, HARMLESS, NULL},
    {"icmp6", -1, 0, never, HARMLESS, NULL},
    {"ipcomp", -1, 0, never, HARMLESS, NULL},
    {"iprange", 1, sizeof(struct xt_iprange_mtinfo), iprange, HARMLESS, NULL},
    {"ipv6header", -1, 0, NULL, HARMLESS, NULL},
    {"ipvs", -1, 0, NULL, HARMLESS, NULL},
    {"l2tp", -1, 0, NULL, HARMLESS, NULL},
    {"length", 0, sizeof(struct xt_length_info), length, HARMLESS, NULL},
    {"limit", -1, 0, NULL, HARMFUL, NULL},
    {"mac", -1, 0, NULL, HARMLESS, NULL},
    {"mark", 1, sizeof(struct xt_mark_mtinfo1), mark, HARMLESS, NULL},
    {"mh", -1, 0, never, HARMLESS, NULL},
    {"multiport", 0, sizeof(struct xt_multiport), multiport_v0, HARMLESS, NULL},
    {"multiport", 1, sizeof(struct xt_multiport_v1), multiport, HARMLESS, NULL},
    {"nfacct", -1, 0, NULL, HARMFUL, NULL},
    {"osf", -1, sizeof(struct osf_info), NULL, HARMFUL, osf_logs},
    {"owner", 1, sizeof(struct xt_owner_match_info), owner, HARMLESS, NULL},
    {"physdev", 0, sizeof(struct xt_physdev_info), physdev, HARMLESS, NULL},
    {"pkttype", -1, 0, NULL, HARMLESS, NULL},
    {"policy", -1, 0, NULL, HARMLESS, NULL},
    {"quota", -1, 0, NULL, HARMFUL, NULL},
    {"rateest", -1, 0, NULL, HARMLESS, NULL},
    {"realm", -1, 0, NULL, HARMLESS, NULL},
    {"recent", -1, sizeof(struct xt_recent_mtinfo), NULL, HARMFUL, recent_writes},
    {"rpfilter", -1, 0, NULL, HARMLESS, NULL},
    {"rt", -1, 0, never, HARMLESS, NULL},
    {"sctp", -1, 0, never, HARMLESS, NULL},
    {"set", -1, 0, NULL, HARMLESS, NULL},
    {"socket", -1, 0, NULL, HARMLESS, NULL},
    {"srh", -1, 0, never, HARMLESS, NULL},
    {"state", 0, sizeof(struct xt_state_info), walk_state, HARMLESS, NULL},
    {"statistic", -1, sizeof(struct xt_statistic_info), NULL, HARMFUL_ELSEWHERE, statistic_counts},
    {"string", -1, 0, NULL, HARMLESS, NULL},
    {"tcp", 0, sizeof(struct xt_tcp), tcp, HARMLESS, NULL},
    {"tcpmss", 0, sizeof(struct xt_tcpmss_match_info), tcpmss, HARMLESS, NULL},
    {"time", -1, 0, NULL, HARMLESS, NULL},
    {"tos", 1, sizeof(struct xt_tos_match_info), tos, HARMLESS, NULL},
    {"ttl", 0, sizeof(struct ipt_ttl_info), hops, HARMLESS, NULL},
    {"u32", -1, 0, NULL, HARMLESS, NULL},
    {"udp", 0, sizeof(struct xt_udp), udp, HARMLESS, NULL},
    {"udplite", -1, 0, never, HARMLESS, NULL},
    {NULL, -1, 0, NULL, HARMFUL, NULL}, /* any other: nobody can know what it keeps */
};

const struct match_kind *match_kind_of(const char *name, int revision, size_t size)
{
    const struct match_kind *kind = kinds;

    while (kind->name && (strcmp(kind->name, name) != 0 || (kind->revision >= 0 && kind->revision != revision)
                          || size < kind->size))
        kind++;
    return kind;
}
