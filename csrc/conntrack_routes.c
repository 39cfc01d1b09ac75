/* Behind which interface an address is, or that it is this host's own: RTM_GETROUTE in batches, each address asked
 * once and kept in an open-addressing hash. The answer is the way back to a sender, which rp_filter also takes. */
#include "conntrack.h"
#include <net/if.h>
#include <linux/rtnetlink.h>

enum { ROUTES_PER_SEND = 256 };

static size_t slot_of(const struct routes *r, const uint8_t address[16])
{
    uint64_t hash = 1469598103934665603u, words[2];
    memcpy(words, address, 16);
    hash = (hash ^ words[0]) * 0x9e3779b97f4a7c15u;
    hash = (hash ^ words[1] ^ hash >> 29) * 0x9e3779b97f4a7c15u;
    size_t slot = (size_t)(hash >> 17) & (r->room - 1);
    while (r->table[slot].used && memcmp(r->table[slot].address, address, 16))
        slot = (slot + 1) & (r->room - 1);
    return slot;
}

int routes_open(struct routes *r, int fd, uint8_t family)
{
    *r = (struct routes){.channel = {.fd = fd}, .family = family, .room = 1024};
    r->table = calloc(r->room, sizeof(*r->table));
    return r->table ? 0 : -ENOMEM;
}

void routes_close(struct routes *r)
{
    free(r->table);
    free(r->channel.received);
}

int routes_want(struct routes *r, const uint8_t address[16])
{
    if (r->count * 2 >= r->room) {
        struct routes bigger = *r;
        bigger.room *= 2;
        if (!(bigger.table = calloc(bigger.room, sizeof(*bigger.table))))
            return -ENOMEM;
        for (size_t i = 0; i < r->room; i++)
            if (r->table[i].used)
                bigger.table[slot_of(&bigger, r->table[i].address)] = r->table[i];
        free(r->table);
        *r = bigger;
    }
    struct route *route = &r->table[slot_of(r, address)];
    if (!route->used) {
        route->used = true;
        route->ifindex = NFK_UNKNOWN;
        memcpy(route->address, address, 16);
        r->count++;
    }
    return 0;
}

const struct route *routes_find(const struct routes *r, const uint8_t address[16])
{
    const struct route *route = &r->table[slot_of(r, address)];
    return route->used ? route : NULL;
}

/* fe80::/10 says nothing about the interface; it is known only if the host has just one besides loopback. */
static int32_t only_interface(void)
{
    struct if_nameindex *all = if_nameindex();
    int32_t found = NFK_UNKNOWN, count = 0;
    for (struct if_nameindex *one = all; one && one->if_index; one++)
        if (strcmp(one->if_name, "lo") && strncmp(one->if_name, "nfkeep", 6)) {
            found = (int32_t)one->if_index;
            count++;
        }
    if (all)
        if_freenameindex(all);
    return count == 1 ? found : NFK_UNKNOWN;
}

struct asking { struct routes *routes; struct route *asked[ROUTES_PER_SEND]; uint32_t first, count; };

static int take_route(void *context, const struct nlmsghdr *message)
{
    struct asking *asking = context;
    uint32_t i = message->nlmsg_seq - asking->first;
    if (i >= asking->count || message->nlmsg_type != RTM_NEWROUTE ||
        message->nlmsg_len < NLMSG_LENGTH(sizeof(struct rtmsg)))
        return 0;               /* an error (no route), or nothing that was asked: it stays unknown */
    const struct rtmsg *route = NLMSG_DATA(message);
    struct attribute table[RTA_MAX + 1];
    attributes_parse((const uint8_t *)route + NLMSG_ALIGN(sizeof(*route)),
                     message->nlmsg_len - NLMSG_LENGTH(sizeof(*route)), table, RTA_MAX + 1);
    if (route->rtm_type == RTN_LOCAL)
        asking->asked[i]->ifindex = NFK_LOCAL;
    else if (route->rtm_type == RTN_UNICAST && table[RTA_OIF].length == 4)
        memcpy(&asking->asked[i]->ifindex, table[RTA_OIF].data, 4);
    return 0;
}

static int ask(struct asking *asking, struct buffer *out)
{
    uint32_t count = asking->count;
    size_t last = out->length / count * (count - 1);     /* all requests of one family are equally long */
    message_expect_ack(out, last);
    int error = out->failed ? -ENOMEM
                            : netlink_exchange(&asking->routes->channel, out->data, out->length,
                                               asking->first + count - 1, take_route, asking);
    out->length = 0;
    asking->first += count;
    asking->count = 0;
    return error;
}

static void append_request(struct buffer *out, uint32_t sequence, uint8_t family, const uint8_t *address)
{
    size_t length = address_length(family);
    struct { struct nlmsghdr header; struct rtmsg route; struct nlattr attribute; } request = {
        .header = {.nlmsg_len = (uint32_t)(sizeof(request) + length), .nlmsg_type = RTM_GETROUTE,
                   .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = sequence},
        .route = {.rtm_family = family, .rtm_dst_len = (uint8_t)(length * 8)},
        .attribute = {.nla_len = (uint16_t)(NLA_HDRLEN + length), .nla_type = RTA_DST}};
    uint8_t *p = buffer_extend(out, sizeof(request) + length);
    if (p) {
        memcpy(p, &request, sizeof(request));
        memcpy(p + sizeof(request), address, length);
    }
}

static void name_interfaces(struct routes *r)
{
    struct { int32_t ifindex; uint8_t name[16]; } last = {NFK_UNKNOWN, {0}};
    for (size_t i = 0; i < r->room; i++) {
        struct route *route = &r->table[i];
        if (!route->used || route->ifindex <= 0)
            continue;
        if (route->ifindex != last.ifindex) {
            last.ifindex = route->ifindex;
            memset(last.name, 0, sizeof(last.name));
            if (!if_indextoname((unsigned)route->ifindex, (char *)last.name))
                memset(last.name, 0, sizeof(last.name));
        }
        memcpy(route->name, last.name, sizeof(last.name));
    }
}

int routes_resolve(struct routes *r)
{
    struct asking asking = {.routes = r, .first = 1};
    struct buffer out = {0};
    int error = 0;
    for (size_t i = 0; i < r->room && !error; i++) {
        struct route *route = &r->table[i];
        if (!route->used)
            continue;
        asking.asked[asking.count] = route;
        append_request(&out, asking.first + asking.count, r->family, route->address);
        if (++asking.count == ROUTES_PER_SEND)
            error = ask(&asking, &out);
    }
    if (asking.count && !error)
        error = ask(&asking, &out);
    buffer_free(&out);
    for (size_t i = 0; i < r->room && !error; i++) {
        struct route *route = &r->table[i];
        if (route->used && r->family == AF_INET6 && route->ifindex != NFK_LOCAL && route->address[0] == 0xfe &&
            (route->address[1] & 0xc0) == 0x80)
            route->ifindex = only_interface();
    }
    if (!error)
        name_interfaces(r);
    return error;
}
