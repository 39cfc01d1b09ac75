/* Which live flows a rule can count. One dump is filtered by what the entry itself says; only for what is left are
 * routes asked, which decide the hooks that its packets meet and the interfaces that they cross. */
#include "conntrack.h"
#include <linux/rtnetlink.h>

struct selection {
    const nfk_filter *filter;
    nfk_flows *flows;
    nfk_skipped *skipped;
    struct buffer masters;          /* struct tuple of each flow that expects others */
};

static struct packet_view view_of(const struct tuple *original, const struct tuple *reply, int direction,
                                  bool translated)
{
    const struct tuple *wire = direction ? reply : original, *other = direction ? original : reply;
    struct packet_view view = {.source = wire->source, .source_port = wire->source_port, .protocol = wire->protocol};
    view.destination = translated ? other->source : wire->destination;
    view.destination_port = translated ? other->source_port : wire->destination_port;
    return view;
}

static bool selector_holds(const nfk_filter *f, const nfk_selector *s, const struct packet_view *view, bool interfaces)
{
    for (uint32_t i = 0; i < s->count; i++)
        if (!condition_holds(&f->conditions[s->first + i], f->ports, address_length(f->family), view, interfaces))
            return false;
    return true;
}

/* A reply can be counted only where one was seen; the opening direction always. */
static int directions(const nfk_selector *s, uint32_t status) { return s->replies && status & IPS_SEEN_REPLY ? 2 : 1; }

static bool may_match(const nfk_filter *f, const struct entry *entry)
{
    for (uint32_t i = 0; i < f->n_selectors; i++)
        for (int d = 0; d < directions(&f->selectors[i], entry->status); d++) {
            struct packet_view view = view_of(&entry->original, &entry->reply, d,
                                              f->selectors[i].destination_translated);
            if (selector_holds(f, &f->selectors[i], &view, false))
                return true;
        }
    return false;
}

static int take_entry(void *context, const struct nlmsghdr *message)
{
    struct selection *selection = context;
    nfk_flows *flows = selection->flows;
    struct entry entry;
    if (message->nlmsg_type == NLMSG_ERROR)
        return -netlink_error(message);
    if (message->nlmsg_type != (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW) ||
        message->nlmsg_len < NLMSG_LENGTH(sizeof(struct nfgenmsg)))
        return 0;
    const struct nfgenmsg *generic = NLMSG_DATA(message);
    const uint8_t *data = (const uint8_t *)(generic + 1);
    size_t length = message->nlmsg_len - NLMSG_LENGTH(sizeof(*generic));
    /* kernels before 4.20 do not filter by family */
    if (generic->nfgen_family != flows->family || !entry_parse(data, length, flows->family, &entry) ||
        entry_closed(&entry) || entry.status & IPS_DYING || !may_match(selection->filter, &entry))
        return 0;
    if (flows->count == flows->room) {
        size_t room = flows->room ? flows->room * 2 : 1024;
        struct flow *bigger = realloc(flows->flows, room * sizeof(*bigger));
        if (!bigger)
            return -ENOMEM;
        flows->flows = bigger;
        flows->room = room;
    }
    struct flow *flow = &flows->flows[flows->count];
    *flow = (struct flow){.original = entry.original, .reply = entry.reply, .attributes = flows->arena.length,
                          .length = (uint32_t)length, .status = entry.status,
                          .helped = entry.attributes[CTA_HELP].data != NULL};
    uint8_t *copy = buffer_extend(&flows->arena, NLA_ALIGN(length));
    if (!copy)
        return -ENOMEM;
    memcpy(copy, data, length);
    flows->count++;
    return 0;
}

static int take_expectation(void *context, const struct nlmsghdr *message)
{
    struct selection *selection = context;
    struct attribute table[CTA_EXPECT_MAX + 1];
    const uint8_t *data = (const uint8_t *)message + NLMSG_LENGTH(sizeof(struct nfgenmsg));
    if (message->nlmsg_type == NLMSG_ERROR)
        return -netlink_error(message);
    if (message->nlmsg_type != (NFNL_SUBSYS_CTNETLINK_EXP << 8 | IPCTNL_MSG_EXP_NEW) ||
        message->nlmsg_len < NLMSG_LENGTH(sizeof(struct nfgenmsg)))
        return 0;
    attributes_parse(data, message->nlmsg_len - NLMSG_LENGTH(sizeof(struct nfgenmsg)), table, CTA_EXPECT_MAX + 1);
    struct tuple master;
    if (!tuple_parse(table[CTA_EXPECT_MASTER], selection->flows->family, &master))
        return 0;
    uint8_t *copy = buffer_extend(&selection->masters, sizeof(master));
    if (!copy)
        return -ENOMEM;
    memcpy(copy, &master, sizeof(master));
    return 0;
}

static int dump(struct selection *selection, uint16_t subsystem, message_handler handler)
{
    struct { struct nlmsghdr header; struct nfgenmsg generic; } request = {
        .header = {.nlmsg_len = sizeof(request), .nlmsg_type = (uint16_t)(subsystem << 8 | 1),   /* *_GET */
                   .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP, .nlmsg_seq = 1},
        .generic = {.nfgen_family = selection->flows->family, .version = NFNETLINK_V0}};
    return netlink_exchange(&selection->flows->ctnetlink, &request, sizeof(request), 1, handler, selection);
}

static bool expects_others(const struct selection *selection, const struct flow *flow)
{
    for (size_t at = 0; at < selection->masters.length; at += sizeof(struct tuple))
        if (!memcmp(selection->masters.data + at, &flow->original, sizeof(struct tuple)))
            return true;
    return false;
}

/* What a packet meets on its way, as net/ipv4/ip_input.c, ip_forward.c and ip_output.c hand it to the hooks. */
static bool meets(int hook, const struct route *sender, const struct route *target, struct packet_view *view)
{
    static const uint8_t none[16] = {0}, loopback[16] = "lo";
    bool from_here = sender->ifindex == NFK_LOCAL, to_here = target->ifindex == NFK_LOCAL;
    const uint8_t *in = sender->ifindex == NFK_UNKNOWN ? NULL : sender->name;
    const uint8_t *out = to_here ? loopback : target->ifindex == NFK_UNKNOWN ? NULL : target->name;
    bool entering = hook == NFK_PREROUTING || hook == NFK_INPUT, leaving = hook == NFK_OUTPUT;
    view->in_name = from_here ? (entering ? loopback : none) : hook == NFK_POSTROUTING ? NULL : in;
    view->out_name = entering ? none : out;
    if (from_here)
        return hook != NFK_FORWARD && (leaving || hook == NFK_POSTROUTING || to_here);
    return !leaving && (hook == NFK_PREROUTING || (hook == NFK_INPUT) == to_here);
}

/* Which passages count, over all selectors; `unreachable`: some match whose sender has no known interface. */
static void place(const nfk_filter *f, struct flow *flow, const struct route *ends[2], bool *unreachable)
{
    for (uint32_t i = 0; i < f->n_selectors; i++) {
        const nfk_selector *s = &f->selectors[i];
        bool counted = false;
        for (int d = 0; d < directions(s, flow->status); d++) {
            struct packet_view view = view_of(&flow->original, &flow->reply, d, s->destination_translated);
            if (!meets(s->hook, ends[d], ends[!d], &view) || !selector_holds(f, s, &view, true))
                continue;
            counted = true;
            if (ends[d]->ifindex == NFK_UNKNOWN)
                *unreachable = true;
            else
                flow->passages |= (uint16_t)NFK_PASSAGE(d, s->hook);
        }
        if (counted && f->counts)
            f->counts[i]++;
    }
}

static int sift(struct selection *selection, int rtnetlink)
{
    nfk_flows *flows = selection->flows;
    struct routes routes;
    int error = routes_open(&routes, rtnetlink, flows->family);
    for (size_t i = 0; i < flows->count && !error; i++) {
        error = routes_want(&routes, flows->flows[i].original.source);
        if (!error)
            error = routes_want(&routes, flows->flows[i].reply.source);
    }
    if (!error)
        error = routes_resolve(&routes);
    size_t kept = 0;
    for (size_t i = 0; i < flows->count && !error; i++) {
        struct flow flow = flows->flows[i];
        bool unreachable = false;
        const struct route *ends[2] = {routes_find(&routes, flow.original.source),
                                       routes_find(&routes, flow.reply.source)};
        place(selection->filter, &flow, ends, &unreachable);
        flow.original_sender = ends[0]->ifindex;
        flow.reply_sender = ends[1]->ifindex;
        uint64_t *reason = NULL;
        if (!flow.passages && !unreachable)
            continue;
        if (flow.original.protocol != NFK_TCP && flow.original.protocol != NFK_UDP)
            reason = &selection->skipped->protocol;
        else if (flow.status & (IPS_OFFLOAD | IPS_HW_OFFLOAD))
            reason = &selection->skipped->offloaded;
        else if (flow.helped && expects_others(selection, &flow))
            reason = &selection->skipped->expectations;
        else if (!flow.passages)
            reason = &selection->skipped->no_interface;
        if (reason)
            ++*reason;
        else
            flows->flows[kept++] = flow;
    }
    flows->count = kept;
    routes_close(&routes);
    return error;
}

nfk_flows *nfk_select(int ctnetlink, int rtnetlink, const nfk_filter *filter, nfk_skipped *skipped, int *error)
{
    nfk_flows *flows = calloc(1, sizeof(*flows));
    struct selection selection = {.filter = filter, .flows = flows, .skipped = skipped};
    bool helped = false;
    *skipped = (nfk_skipped){0};
    *error = -ENOMEM;
    if (!flows)
        return NULL;
    flows->family = filter->family;
    flows->ctnetlink.fd = ctnetlink;
    *error = dump(&selection, NFNL_SUBSYS_CTNETLINK, take_entry);
    for (size_t i = 0; i < flows->count; i++)
        helped = helped || flows->flows[i].helped;
    if (!*error && helped)
        *error = dump(&selection, NFNL_SUBSYS_CTNETLINK_EXP, take_expectation);
    if (!*error)
        *error = sift(&selection, rtnetlink);
    buffer_free(&selection.masters);
    if (*error) {
        nfk_flows_free(flows);
        return NULL;
    }
    return flows;
}
