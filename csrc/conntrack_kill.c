/* Deletes the live entries of given sources: what is to go is found first, in a dump for each host or one dump of all,
 * and then deleted by the batch. The kernel's own filtered flush is not used: where the filter is not known, or wrong,
 * it deletes the entries of others; here what a dump brings is looked at again, whoever filtered it. */
#include "conntrack.h"
#include <netinet/in.h>

enum { DUMP = 1, FIRST_DELETION = 2 };  /* sequence numbers; deletions count up from theirs */
enum { AT_ONCE = 128 };                 /* deletions in one send: if all fail, their answers fit the default buffer */

struct range { uint8_t first[16], last[16]; };

struct killing {
    struct channel channel;
    uint8_t family;
    struct range *ranges; size_t n_ranges;      /* in order, and apart from each other */
    const nfk_service *services; size_t n_services;
    const uint8_t *asked_for;                   /* the only source that the kernel was to send, or NULL */
    bool unfiltered;                            /* it sent others: that dump was of all that can matter */
    struct buffer out;
    uint32_t found;
    uint32_t first, count;                      /* of the deletions that are being sent: sequence and number */
    uint32_t missed;                            /* of these, how many were not done */
    int error;                                  /* -errno of the first that should have been */
    nfk_killed *killed;
};

/* Addresses have zeros behind their length, so that 16 bytes can be compared whatever the family. */
static int by_first(const void *a, const void *b)
{
    return memcmp(((const struct range *)a)->first, ((const struct range *)b)->first, 16);
}

static bool range_of(const nfk_source *source, size_t length, struct range *range)
{
    *range = (struct range){0};
    if (source->prefix > length * 8)
        return false;
    for (size_t i = 0; i < length; i++) {
        size_t bits = source->prefix > i * 8 ? source->prefix - i * 8 : 0;
        uint8_t mask = bits >= 8 ? 0xff : (uint8_t)(0xff00 >> bits);
        range->first[i] = source->address[i] & mask;
        range->last[i] = range->first[i] | (uint8_t)~mask;
    }
    return true;
}

static int load_ranges(struct killing *k, const nfk_source *sources, size_t count)
{
    k->ranges = calloc(count + 1, sizeof(*k->ranges));
    if (!k->ranges)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        if (!range_of(&sources[i], address_length(k->family), &k->ranges[i]))
            return -EINVAL;
    qsort(k->ranges, count, sizeof(*k->ranges), by_first);
    for (size_t i = 0; i < count; i++) {
        struct range *before = k->n_ranges ? &k->ranges[k->n_ranges - 1] : NULL;
        if (!before || memcmp(k->ranges[i].first, before->last, 16) > 0)
            k->ranges[k->n_ranges++] = k->ranges[i];
        else if (memcmp(k->ranges[i].last, before->last, 16) > 0)
            memcpy(before->last, k->ranges[i].last, 16);
    }
    return 0;
}

static bool from_sources(const struct killing *k, const uint8_t address[16])
{
    size_t low = 0, high = k->n_ranges;         /* those before `low` begin at or before the address */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (memcmp(k->ranges[middle].first, address, 16) <= 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low && memcmp(address, k->ranges[low - 1].last, 16) <= 0;
}

/* ctnetlink calls the keys of GRE ports, too: CTA_PROTO_DST_PORT alone does not tell. */
static bool has_ports(uint8_t protocol)
{
    return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == IPPROTO_SCTP ||
           protocol == IPPROTO_DCCP || protocol == IPPROTO_UDPLITE;
}

static bool to_services(const struct killing *k, const struct tuple *tuple)
{
    for (size_t i = 0; i < k->n_services; i++) {
        const nfk_service *s = &k->services[i];
        if (s->protocol == tuple->protocol &&
            ((s->low == 0 && s->high == 0xffff) ||
             (has_ports(tuple->protocol) && s->low <= tuple->destination_port && tuple->destination_port <= s->high)))
            return true;
    }
    return !k->n_services;
}

static int take_entry(void *context, const struct nlmsghdr *message)
{
    struct killing *k = context;
    struct entry entry;
    if (message->nlmsg_type == NLMSG_ERROR || message->nlmsg_type == NLMSG_DONE)
        return -netlink_error(message);
    if (message->nlmsg_type != (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW) ||
        message->nlmsg_len < NLMSG_LENGTH(sizeof(struct nfgenmsg)))
        return 0;
    if (!entry_parse((const uint8_t *)message + NLMSG_LENGTH(sizeof(struct nfgenmsg)),
                     message->nlmsg_len - NLMSG_LENGTH(sizeof(struct nfgenmsg)), k->family, &entry))
        return 0;                               /* of the other family: before 4.20 these come as well */
    if (k->asked_for && memcmp(entry.original.source, k->asked_for, 16))
        k->unfiltered = true;
    /* with the id, which a later entry with the same tuple does not have */
    if (from_sources(k, entry.original.source) && to_services(k, &entry.original))
        message_delete(&k->out, FIRST_DELETION + k->found++, k->family, &entry, CTA_TUPLE_ORIG, true);
    return k->out.failed ? -ENOMEM : 0;
}

static int dump(struct killing *k, const uint8_t *host)
{
    struct buffer request = {0};
    k->asked_for = host;
    message_dump(&request, DUMP, k->family, host, k->n_services == 1 ? k->services : NULL);
    int error = request.failed ? -ENOMEM
                               : netlink_exchange(&k->channel, request.data, request.length, DUMP, take_entry, k);
    buffer_free(&request);
    return error;
}

static const uint8_t nowhere[16];       /* the unspecified address, from which no connection comes */

static bool can_be_asked_for(const struct range *range)
{
    return !memcmp(range->first, range->last, 16) && memcmp(range->first, nowhere, 16);
}

/* What a dump with a filter brings shows what the kernel makes of the filter. Before 5.8 it brings everything. Since
 * then IPv4 is right, but IPv6 was the wrong way round (ctnetlink_filter_match_tuple(), put right in 6.12.117): asked
 * for a host, these kernels send the entries of all others. Nothing at all may then mean that there are no others, so
 * the first question is for an address that nobody has: only a filter that works answers that with nothing. Any other
 * answer is a dump of everything, and enough. */
static int find(struct killing *k, size_t singly)
{
    bool filtered = k->n_ranges <= singly;
    for (size_t i = 0; i < k->n_ranges && filtered; i++)
        filtered = can_be_asked_for(&k->ranges[i]);
    if (!filtered)
        return dump(k, NULL);
    int error = k->family == AF_INET6 ? dump(k, nowhere) : 0;
    for (size_t i = 0; i < k->n_ranges && !error && !k->unfiltered; i++)
        error = dump(k, k->ranges[i].first);
    return error;
}

static int take_answer(void *context, const struct nlmsghdr *message)
{
    struct killing *k = context;
    if (message->nlmsg_type != NLMSG_ERROR || message->nlmsg_seq - k->first >= k->count)
        return 0;
    int number = netlink_error(message);
    k->missed += number != 0;
    if (number == EBUSY)                        /* ctnetlink_del_conntrack() before 6.4 (6.1.32, 5.15.115) */
        k->killed->refused++;
    else if (number && number != ENOENT && !k->error)
        k->error = -number;
    return 0;
}

static int send_deletions(struct killing *k)
{
    uint32_t next = FIRST_DELETION;
    for (size_t at = 0, end; at < k->out.length; at = end) {
        size_t last = at;
        k->first = next;
        for (end = at; end < k->out.length && next - k->first < AT_ONCE; next++) {
            last = end;
            end += ((const struct nlmsghdr *)(k->out.data + end))->nlmsg_len;
        }
        k->count = next - k->first;
        k->missed = 0;
        ((struct nlmsghdr *)(k->out.data + last))->nlmsg_flags |= NLM_F_ACK;
        int error = netlink_exchange(&k->channel, k->out.data + at, end - at, next - 1, take_answer, k);
        if (error)
            return error;
        k->killed->deleted += k->count - k->missed;
    }
    return k->error;
}

int nfk_kill(int ctnetlink, uint8_t family, const nfk_source *sources, size_t n_sources,
             const nfk_service *services, size_t n_services, size_t singly, nfk_killed *killed)
{
    struct killing k = {.channel = {.fd = ctnetlink}, .family = family, .services = services,
                        .n_services = n_services, .killed = killed};
    *killed = (nfk_killed){0};
    int error = load_ranges(&k, sources, n_sources);
    if (!error && k.n_ranges)
        error = find(&k, singly);
    if (!error)
        error = send_deletions(&k);
    free(k.ranges);
    free(k.channel.received);
    buffer_free(&k.out);
    return error;
}
