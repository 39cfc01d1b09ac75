/* Whether a rule's simple conditions hold for a packet, as net/ipv4/netfilter/ip_tables.c ip_packet_match() and
 * net/netfilter/xt_multiport.c decide it. */
#include "conntrack.h"

/* (address & mask) == wanted, as the kernel compares: a wanted bit outside the mask never matches. */
static bool address_holds(const uint8_t *address, const uint8_t *wanted, const uint8_t *mask, size_t length,
                          bool inverted)
{
    uint8_t differs = 0;
    for (size_t i = 0; i < length; i++)
        differs |= (uint8_t)((address[i] & mask[i]) ^ wanted[i]);
    return !differs != inverted;
}

/* ifname_compare(): (name ^ wanted) & mask over IFNAMSIZ bytes. A name that is not known holds. */
static bool name_holds(const uint8_t *name, const uint8_t *wanted, const uint8_t *mask, bool inverted)
{
    uint8_t differs = 0;
    if (!name)
        return true;
    for (size_t i = 0; i < 16; i++)
        differs |= (uint8_t)((name[i] ^ wanted[i]) & mask[i]);
    return !differs != inverted;
}

static bool in_ranges(const nfk_ports *ports, const nfk_port_set *set, uint16_t port)
{
    for (uint32_t i = 0; i < set->count; i++)
        if (port >= ports[set->first + i].low && port <= ports[set->first + i].high)
            return true;
    return false;
}

bool condition_holds(const nfk_condition *c, const nfk_ports *ports, size_t length, const struct packet_view *p,
                     bool with_interfaces)
{
    bool has_ports = p->protocol == NFK_TCP || p->protocol == NFK_UDP;
    if (c->protocol && (c->protocol == p->protocol) == c->protocol_inverted)
        return false;
    if (c->source_ports.count &&
        (!has_ports || in_ranges(ports, &c->source_ports, p->source_port) == c->source_ports.inverted))
        return false;
    if (c->destination_ports.count &&
        (!has_ports || in_ranges(ports, &c->destination_ports, p->destination_port) == c->destination_ports.inverted))
        return false;
    if (c->either_ports.count &&
        (!has_ports || (in_ranges(ports, &c->either_ports, p->source_port) ||
                        in_ranges(ports, &c->either_ports, p->destination_port)) == c->either_ports.inverted))
        return false;
    if (!address_holds(p->source, c->source, c->source_mask, length, c->source_inverted) ||
        !address_holds(p->destination, c->destination, c->destination_mask, length, c->destination_inverted))
        return false;
    return !with_interfaces || (name_holds(p->in_name, c->in_interface, c->in_mask, c->in_inverted) &&
                                name_holds(p->out_name, c->out_interface, c->out_mask, c->out_inverted));
}

int nfk_holds(const nfk_condition *condition, const nfk_ports *ports, uint8_t family, uint8_t protocol,
              const uint8_t *source, const uint8_t *destination, uint16_t source_port, uint16_t destination_port,
              const uint8_t *in_name, const uint8_t *out_name)
{
    struct packet_view view = {.source = source, .destination = destination, .in_name = in_name,
                               .out_name = out_name, .source_port = source_port,
                               .destination_port = destination_port, .protocol = protocol};
    return condition_holds(condition, ports, address_length(family), &view, true);
}
