/*
 * What is known of targets that are extensions: what each does to the packet, whether the packet goes on behind it,
 * and whether it leaves traces that cannot be taken back.
 */
#include "xtables_walk.h"

#include <linux/netfilter/xt_CONNMARK.h>
#include <linux/netfilter/xt_CT.h>
#include <linux/netfilter/xt_DSCP.h>
#include <linux/netfilter/xt_MARK.h>
#include <linux/netfilter/xt_TCPMSS.h>
#include <linux/netfilter_ipv4/ipt_ECN.h>
#include <linux/netfilter_ipv4/ipt_TTL.h>
#include <linux/netfilter_ipv6/ip6t_HL.h>

enum { MSS_OPTION_LENGTH = 4 };

/* Where a route is still to be found, or found again (net/netfilter.c ip_route_me_harder()), it may depend on this. */
static void route_may_change(struct view *view)
{
    if (view->stage->hook == NF_INET_PRE_ROUTING || view->stage->hook == NF_INET_LOCAL_OUT)
        view->packet->unknown |= UNKNOWN_OUT;
}

static void set_mark(struct view *view, uint32_t mark)
{
    if (view->packet->mark != mark)
        route_may_change(view);
    view->packet->mark = mark;
}

/* net/netfilter/xt_mark.c */
static void mark(struct view *view, const void *data)
{
    const struct xt_mark_tginfo2 *info = data;

    if (info->mask == UINT32_MAX)
        view->packet->unknown &= ~UNKNOWN_MARK;
    set_mark(view, (view->packet->mark & ~info->mask) ^ info->mark);
}

static uint32_t shifted(uint32_t mark, const struct xt_connmark_tginfo2 *info)
{
    return info->shift_bits > 31 ? 0 : info->shift_dir == D_SHIFT_RIGHT ? mark >> info->shift_bits
                                                                       : mark << info->shift_bits;
}

/* net/netfilter/xt_connmark.c */
static void connmark_v2(struct view *view, const void *data)
{
    const struct xt_connmark_tginfo2 *info = data;
    struct packet *packet = view->packet;

    if (packet->tracking != CT_TRACKED) {
        if (packet->tracking == CT_TEMPLATE && info->mode == XT_CONNMARK_RESTORE)
            packet->unknown |= UNKNOWN_MARK;
        return;
    }
    switch (info->mode) {
    case XT_CONNMARK_SET:
        if (info->ctmask == UINT32_MAX)
            packet->unknown &= ~UNKNOWN_CT_MARK;
        packet->ct_mark = shifted((packet->ct_mark & ~info->ctmask) ^ info->ctmark, info);
        break;
    case XT_CONNMARK_SAVE:
        if (info->ctmask == UINT32_MAX)
            packet->unknown &= ~UNKNOWN_CT_MARK;
        if (packet->unknown & UNKNOWN_MARK && info->nfmask)
            packet->unknown |= UNKNOWN_CT_MARK;
        packet->ct_mark = (packet->ct_mark & ~info->ctmask) ^ shifted(packet->mark & info->nfmask, info);
        break;
    case XT_CONNMARK_RESTORE:
        if (info->nfmask == UINT32_MAX)
            packet->unknown &= ~UNKNOWN_MARK;
        if (packet->unknown & UNKNOWN_CT_MARK && info->ctmask) {
            packet->unknown |= UNKNOWN_MARK;
            route_may_change(view);
        }
        set_mark(view, (packet->mark & ~info->nfmask) ^ shifted(packet->ct_mark & info->ctmask, info));
        break;
    }
}

static void connmark_v1(struct view *view, const void *data)
{
    const struct xt_connmark_tginfo1 *old = data;
    struct xt_connmark_tginfo2 info = {.ctmark = old->ctmark, .ctmask = old->ctmask, .nfmask = old->nfmask,
                                       .mode = old->mode};

    connmark_v2(view, &info);
}

/* net/netfilter/xt_HMARK.c: a hash with a key of the rule's own */
static void hmark(struct view *view, const void *data)
{
    (void)data;
    view->packet->unknown |= UNKNOWN_MARK;
    route_may_change(view);
}

/* net/netfilter/xt_HL.c; IPT_TTL_* and IP6T_HL_* are the same numbers */
static void hops(struct view *view, const void *data)
{
    const struct ipt_TTL_info *info = data;
    int ttl = view->packet->ttl;

    ttl = info->mode == IPT_TTL_SET ? info->ttl : info->mode == IPT_TTL_INC ? ttl + info->ttl : ttl - info->ttl;
    view->packet->ttl = ttl > 255 ? 255 : ttl < 0 ? 0 : ttl;
}

static void set_service(struct view *view, uint8_t tos, uint8_t mask)
{
    if (mask == UINT8_MAX)
        view->packet->unknown &= ~UNKNOWN_TOS;
    if (view->packet->tos != tos)
        route_may_change(view);
    view->packet->tos = tos;
}

/* net/netfilter/xt_DSCP.c */
static void tos(struct view *view, const void *data)
{
    const struct xt_tos_target_info *info = data;

    set_service(view, (view->packet->tos & ~info->tos_mask) ^ info->tos_value, info->tos_mask);
}

/* net/netfilter/xt_DSCP.c */
static void dscp(struct view *view, const void *data)
{
    const struct xt_DSCP_info *info = data;

    set_service(view, (view->packet->tos & ~XT_DSCP_MASK) | info->dscp << XT_DSCP_SHIFT, XT_DSCP_MASK);
}

/* net/ipv4/netfilter/ipt_ECN.c */
static void ecn(struct view *view, const void *data)
{
    const struct ipt_ECN_info *info = data;

    if (info->operation & IPT_ECN_OP_SET_IP)
        set_service(view, (view->packet->tos & ~IPT_ECN_IP_MASK) | (info->ip_ect & IPT_ECN_IP_MASK),
                    (uint8_t)IPT_ECN_IP_MASK);
    if (info->operation & (IPT_ECN_OP_SET_ECE | IPT_ECN_OP_SET_CWR))
        view->packet->unknown |= UNKNOWN_TCP_FLAGS;
}

/* net/netfilter/xt_TCPMSS.c: a SYN without the option gets one, and is so much longer */
static void tcpmss(struct view *view, const void *data)
{
    const struct xt_tcpmss_info *info = data;
    struct packet *packet = view->packet;
    uint16_t most = view->probe->family == AF_INET6 ? 1220 : 536;

    if (view->probe->protocol != IPPROTO_TCP)
        return;
    if (!packet->mss)
        packet->length += MSS_OPTION_LENGTH;
    else
        most = packet->mss;
    packet->mss = info->mss < most ? info->mss : most;
    if (info->mss == XT_TCPMSS_CLAMP_PMTU)
        packet->unknown |= UNKNOWN_MSS;
}

static void track(struct view *view, uint16_t flags, uint16_t zone)
{
    struct packet *packet = view->packet;

    if (packet->tracking != CT_NOT_YET)
        return;
    packet->tracking = flags & XT_CT_NOTRACK ? CT_UNTRACKED : CT_TEMPLATE;
    if (zone || flags & (XT_CT_ZONE_DIR_ORIG | XT_CT_ZONE_DIR_REPL | XT_CT_ZONE_MARK))
        packet->unknown |= UNKNOWN_STATE | UNKNOWN_CT_MARK;
}

/* net/netfilter/xt_CT.c; all revisions begin alike */
static void ct(struct view *view, const void *data)
{
    const struct xt_ct_target_info *info = data;

    track(view, info->flags, info->zone);
}

/* net/netfilter/xt_CT.c */
static void notrack(struct view *view, const void *data)
{
    (void)data;
    track(view, XT_CT_NOTRACK, 0);
}

/*
 * HARMFUL: those that somebody sees (the log, audit, a queue, another host), or that keep something which goes on
 * counting or timing. REJECT is not: its answers are kept on the host while opening packets are under way. Nor are
 * CONNMARK and CONNSECMARK: what conntrack keeps is put back.
 */
static const struct target_kind kinds[] = {
    {"AUDIT", -1, 0, NULL, GO_ON, HARMFUL},
    {"CHECKSUM", -1, 0, NULL, GO_ON, HARMLESS},
    {"CLASSIFY", -1, 0, NULL, GO_ON, HARMLESS},
    {"CLUSTERIP", -1, 0, NULL, END_UNKNOWN, HARMFUL},
    {"CONNMARK", 1, sizeof(struct xt_connmark_tginfo1), connmark_v1, GO_ON, HARMLESS},
    {"CONNMARK", 2, sizeof(struct xt_connmark_tginfo2), connmark_v2, GO_ON, HARMLESS},
    {"CONNSECMARK", -1, 0, NULL, GO_ON, HARMLESS},
    {"CT", -1, offsetof(struct xt_ct_target_info, helper), ct, GO_ON, HARMLESS},
    {"DSCP", 0, sizeof(struct xt_DSCP_info), dscp, GO_ON, HARMLESS},
    {"ECN", 0, sizeof(struct ipt_ECN_info), ecn, GO_ON, HARMLESS},
    {"HL", 0, sizeof(struct ip6t_HL_info), hops, GO_ON, HARMLESS},
    {"HMARK", -1, 0, hmark, GO_ON, HARMLESS},
    {"IDLETIMER", -1, 0, NULL, GO_ON, HARMFUL},
    {"LED", -1, 0, NULL, GO_ON, HARMFUL},
    {"LOG", -1, 0, NULL, GO_ON, HARMFUL},
    {"MARK", 2, sizeof(struct xt_mark_tginfo2), mark, GO_ON, HARMLESS},
    {"NFLOG", -1, 0, NULL, GO_ON, HARMFUL},
    {"NFQUEUE", -1, 0, NULL, END_UNKNOWN, HARMFUL},
    {"NOTRACK", -1, 0, notrack, GO_ON, HARMLESS},
    {"RATEEST", -1, 0, NULL, GO_ON, HARMFUL},
    {"REJECT", -1, 0, NULL, END_DROPPED, HARMLESS},
    {"SECMARK", -1, 0, NULL, GO_ON, HARMLESS},
    {"SET", -1, 0, NULL, GO_ON, HARMFUL},
    {"SYNPROXY", -1, 0, NULL, END_DROPPED, HARMFUL},
    {"TCPMSS", 0, sizeof(struct xt_tcpmss_info), tcpmss, GO_ON, HARMLESS},
    {"TCPOPTSTRIP", -1, 0, NULL, GO_ON, HARMLESS}, /* it writes NOPs over options, of which there are none */
    {"TEE", -1, 0, NULL, GO_ON, HARMFUL},
    {"TOS", 1, sizeof(struct xt_tos_target_info), tos, GO_ON, HARMLESS},
    {"TPROXY", -1, 0, NULL, END_UNKNOWN, HARMFUL},
    {"TRACE", -1, 0, NULL, GO_ON, HARMFUL},
    {"TTL", 0, sizeof(struct ipt_TTL_info), hops, GO_ON, HARMLESS},
    {"ULOG", -1, 0, NULL, GO_ON, HARMFUL},
    {NULL, -1, 0, NULL, END_UNKNOWN, HARMFUL}, /* any other: nobody can know what it does */
};

const struct target_kind *target_kind_of(const char *name, int revision, size_t size)
{
    const struct target_kind *kind = kinds;

    while (kind->name && (strcmp(kind->name, name) != 0 || (kind->revision >= 0 && kind->revision != revision)
                          || size < kind->size))
        kind++;
    return kind;
}
