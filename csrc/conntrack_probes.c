/* What rules see of the opening packets, before these are sent: the walker of the legacy world is told of them. Here is
 * decided, as in conntrack_prime.c, which packets there will be, and what the kernel makes of their entries. */
#include "conntrack.h"
#include <net/if.h>
#include <linux/rtnetlink.h>

enum { NO_PACKET = 255, NAMES = 64 };
enum { STATE_ESTABLISHED = 1 << 1, STATE_RELATED = 1 << 2, STATE_NEW = 1 << 3 };    /* XT_CONNTRACK_STATE_BIT */

struct names { struct { int32_t ifindex; uint8_t name[IF_NAMESIZE]; } known[NAMES]; size_t count; };

static void name_interface(struct names *names, int32_t ifindex, uint8_t out[IF_NAMESIZE])
{
    size_t i = 0;
    if (ifindex <= 0)
        return;
    while (i < names->count && names->known[i].ifindex != ifindex)
        i++;
    if (i == names->count) {
        i = i < NAMES ? i : NAMES - 1;
        memset(names->known[i].name, 0, IF_NAMESIZE);
        if (!if_indextoname((unsigned)ifindex, (char *)names->known[i].name))
            memset(names->known[i].name, 0, IF_NAMESIZE);
        names->known[i].ifindex = ifindex;
        names->count = i + 1;
    }
    memcpy(out, names->known[i].name, IF_NAMESIZE);
}

/* As net/netfilter/xt_addrtype.c would find it: what the route to the sender has told. */
static uint8_t type_of(int32_t sender)
{
    return sender == NFK_UNKNOWN ? RTN_UNSPEC : sender == NFK_LOCAL ? RTN_LOCAL : RTN_UNICAST;
}

static bool same_address(const uint8_t *left, const uint8_t *right) { return !memcmp(left, right, 16); }

/* The ctstate and the status that the packet finds: nf_conntrack_core.c resolve_normal_ct(), and what an update makes
 * of the entry before the rules see the packet. */
static void tell_entry(const struct flow *flow, const struct entry *entry, int d, bool is_new, struct nfk_probe *out)
{
    bool heavy = is_new && flow->status & (IPS_SEEN_REPLY | IPS_ASSURED);
    bool expected = entry->attributes[CTA_TUPLE_MASTER].data != NULL;
    bool replied = d || (!heavy && flow->status & IPS_SEEN_REPLY);
    out->status = IPS_CONFIRMED | (flow->status & IPS_NAT_MASK) | (replied ? IPS_SEEN_REPLY : 0);
    out->status_known = IPS_CONFIRMED | IPS_NAT_MASK | IPS_SEEN_REPLY;
    if (!heavy) {
        out->status |= flow->status & (IPS_EXPECTED | IPS_ASSURED);
        out->status_known |= IPS_EXPECTED;
    } else if (!expected)
        out->status_known |= IPS_EXPECTED;      /* else it may have to be created without its master */
    if (!replied || out->status & IPS_ASSURED)
        out->status_known |= IPS_ASSURED;       /* else the packet itself can make it so */
    out->states = replied ? STATE_ESTABLISHED : !(out->status_known & IPS_EXPECTED) ? STATE_NEW | STATE_RELATED
                  : out->status & IPS_EXPECTED ? STATE_RELATED : STATE_NEW;
    out->ct_mark = attribute_be32(entry->attributes[CTA_MARK], 0);
}

static void tell_packet(const nfk_flows *flows, const struct flow *flow, int d, struct names *names,
                        struct nfk_probe *out)
{
    const struct tuple *t = d ? &flow->reply : &flow->original, *other = d ? &flow->original : &flow->reply;
    int32_t sender = d ? flow->reply_sender : flow->original_sender;
    int32_t target = d ? flow->original_sender : flow->reply_sender;
    int hook = farthest_hook(flow->passages >> (d * NFK_HOOKS), sender == NFK_LOCAL);
    out->family = flows->family;
    out->protocol = t->protocol;
    out->from_here = sender == NFK_LOCAL;
    out->is_reply = (uint8_t)d;
    out->sunk_at = NO_PACKET;
    if (hook >= 0 && sender != NFK_UNKNOWN && (!d || flow->status & IPS_SEEN_REPLY))
        out->sunk_at = (uint8_t)hook;
    out->ttl = 64;
    out->tcp_flags = t->protocol != NFK_TCP ? 0 : d ? 0x12 : 0x02;
    out->length = (uint16_t)((flows->family == AF_INET ? 20 : 40) + (t->protocol == NFK_TCP ? 20 : 16));
    memcpy(out->source, t->source, 16);
    memcpy(out->destination, t->destination, 16);
    memcpy(out->nat_source, other->destination, 16);
    memcpy(out->nat_destination, other->source, 16);
    out->source_port = t->source_port;
    out->destination_port = t->destination_port;
    out->nat_source_port = other->destination_port;
    out->nat_destination_port = other->source_port;
    out->source_type = type_of(sender);
    out->nat_destination_type = type_of(target);
    out->nat_source_type = same_address(out->source, out->nat_source) ? out->source_type : RTN_UNSPEC;
    out->destination_type = same_address(out->destination, out->nat_destination) ? out->nat_destination_type
                                                                                 : RTN_UNSPEC;
    name_interface(names, sender, out->in_name);
    if (sender == NFK_LOCAL && target == NFK_LOCAL)
        memcpy(out->out_name, "lo", 2);
    else
        name_interface(names, target, out->out_name);
}

size_t nfk_flows_probes(const nfk_flows *flows, int is_new, struct nfk_probe *out)
{
    struct names names = {.count = 0};
    memset(out, 0, 2 * flows->count * sizeof(*out));
    for (size_t i = 0; i < flows->count; i++) {
        const struct flow *flow = &flows->flows[i];
        struct entry entry;
        bool whole = flow_entry(flows, flow, &entry);
        for (int d = 0; d < 2; d++) {
            struct nfk_probe *probe = &out[2 * i + (size_t)d];
            tell_packet(flows, flow, d, &names, probe);
            if (whole)
                tell_entry(flow, &entry, d, is_new, probe);
            else
                probe->sunk_at = NO_PACKET;
        }
    }
    return 2 * flows->count;
}
