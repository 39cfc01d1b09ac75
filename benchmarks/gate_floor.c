/* The least that it can cost to have live flows counted again: one dump, decoded, and then by batches of 1,000 the
 * entries deleted and created, their opening packets, and the status back; from C, nothing checked, kept or guarded.
 *
 * usage: gate_floor fill FLOWS | again FLOWS TAP MAC | syn SOURCES TAP MAC
 * The flows are TCP from 10.7.0.0/16 to 10.7.0.1:873, ten of each source. `again` prints nanoseconds: of the dump, and
 * of the rest. `syn` sends one more SYN from each source. TAP is an open descriptor. */
#include <arpa/inet.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 1000, EACH = 10, PORT = 873, FIRST_PORT = 20000, NONCE = 0x666c6f72 };
static const uint32_t HERE = 0x0a070001, FIRST_SOURCE = 0x0a070100;

static char out[1 << 20], in[1 << 16];
static size_t length;
static int ctnetlink;

static void put(const void *data, size_t size) { memcpy(out + length, data, size); length += size; }

static void attribute(unsigned type, const void *data, size_t size)
{
    struct nlattr a = {4 + size, type};
    put(&a, sizeof a);
    put(data, size);
    while (length % 4)
        out[length++] = 0;
}

static size_t open_nest(unsigned type) { attribute(type | NLA_F_NESTED, "", 0); return length - 4; }
static void close_nest(size_t at) { *(uint16_t *)(out + at) = length - at; }

static size_t open_message(unsigned kind, unsigned flags)
{
    struct nlmsghdr h = {0, NFNL_SUBSYS_CTNETLINK << 8 | kind, NLM_F_REQUEST | flags, 1, 0};
    struct nfgenmsg g = {AF_INET, 0, 0};
    put(&h, sizeof h);
    put(&g, sizeof g);
    return length - 20;
}

static void close_message(size_t at) { *(uint32_t *)(out + at) = length - at; }

static void tuple(unsigned type, uint32_t source, uint32_t destination, uint16_t from, uint16_t to)
{
    uint8_t tcp = 6;
    size_t nest = open_nest(type), part = open_nest(CTA_TUPLE_IP);
    source = htonl(source);
    destination = htonl(destination);
    from = htons(from);
    to = htons(to);
    attribute(CTA_IP_V4_SRC, &source, 4);
    attribute(CTA_IP_V4_DST, &destination, 4);
    close_nest(part);
    part = open_nest(CTA_TUPLE_PROTO);
    attribute(CTA_PROTO_NUM, &tcp, 1);
    attribute(CTA_PROTO_SRC_PORT, &from, 2);
    attribute(CTA_PROTO_DST_PORT, &to, 2);
    close_nest(part);
    close_nest(nest);
}

static void create(uint32_t source, uint16_t port, uint32_t status)
{
    uint32_t timeout = htonl(36000);
    uint8_t established = 3, liberal[2] = {8, 8};
    size_t at = open_message(IPCTNL_MSG_CT_NEW, NLM_F_CREATE | NLM_F_EXCL);
    tuple(CTA_TUPLE_ORIG, source, HERE, port, PORT);
    tuple(CTA_TUPLE_REPLY, HERE, source, PORT, port);
    status = htonl(status);
    attribute(CTA_STATUS, &status, 4);
    attribute(CTA_TIMEOUT, &timeout, 4);
    size_t info = open_nest(CTA_PROTOINFO), tcp = open_nest(CTA_PROTOINFO_TCP);
    attribute(CTA_PROTOINFO_TCP_STATE, &established, 1);
    attribute(CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, liberal, 2);
    attribute(CTA_PROTOINFO_TCP_FLAGS_REPLY, liberal, 2);
    close_nest(tcp);
    close_nest(info);
    close_message(at);
}

/* The last message asks for the answer; whatever else is answered is an error. */
static void exchange(size_t last)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    ((struct nlmsghdr *)(out + last))->nlmsg_flags |= NLM_F_ACK;
    if (sendto(ctnetlink, out, length, 0, (void *)&kernel, sizeof kernel) < 0 ||
        recv(ctnetlink, in, sizeof in, 0) < 20) {
        perror("exchange");
        exit(1);
    }
    if (*(int *)(in + 16)) {
        fprintf(stderr, "%s\n", strerror(-*(int *)(in + 16)));
        exit(1);
    }
    length = 0;
}

static const struct nlattr *find(const void *attributes, size_t size, unsigned type)
{
    for (const char *at = attributes; size >= 4;) {
        const struct nlattr *a = (const void *)at;
        size_t step = NLA_ALIGN(a->nla_len);
        if ((a->nla_type & NLA_TYPE_MASK) == type)
            return a;
        if (step >= size)
            break;
        at += step;
        size -= step;
    }
    return NULL;
}

static const struct nlattr *within(const struct nlattr *nest, unsigned type)
{
    return nest ? find(nest + 1, nest->nla_len - 4, type) : NULL;
}

struct flow { uint32_t source; uint16_t port; };

static size_t dump(struct flow *flows, size_t room)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    size_t count = 0;
    close_message(open_message(IPCTNL_MSG_CT_GET, NLM_F_DUMP));
    sendto(ctnetlink, out, length, 0, (void *)&kernel, sizeof kernel);
    length = 0;
    for (;;) {
        ssize_t got = recv(ctnetlink, in, sizeof in, 0);
        for (struct nlmsghdr *m = (void *)in; NLMSG_OK(m, got); m = NLMSG_NEXT(m, got)) {
            if (m->nlmsg_type == NLMSG_DONE)
                return count;
            const struct nlattr *original = find((char *)m + 20, m->nlmsg_len - 20, CTA_TUPLE_ORIG);
            const struct nlattr *source = within(within(original, CTA_TUPLE_IP), CTA_IP_V4_SRC);
            const struct nlattr *protocol = within(original, CTA_TUPLE_PROTO);
            const struct nlattr *from = within(protocol, CTA_PROTO_SRC_PORT), *to = within(protocol, CTA_PROTO_DST_PORT);
            if (source && from && to && *(uint16_t *)(to + 1) == htons(PORT) && count < room)
                flows[count++] = (struct flow){ntohl(*(uint32_t *)(source + 1)), ntohs(*(uint16_t *)(from + 1))};
        }
    }
}

static uint16_t sum(const uint8_t *data, size_t size, uint32_t total)
{
    for (size_t i = 0; i < size; i += 2)
        total += data[i] << 8 | data[i + 1];
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return total;
}

static void send_syn(int tap, const uint8_t mac[6], uint32_t source, uint16_t port)
{
    uint8_t frame[54] = {[6] = 2, [12] = 8, [14] = 0x45, [17] = 40, [20] = 0x40, [22] = 64, [23] = 6,
                         [46] = 0x50, [47] = 2, [48] = 0xfa, [49] = 0xf0};
    uint32_t ends[2] = {htonl(source), htonl(HERE)}, sequence = htonl(NONCE);
    uint16_t ports[2] = {htons(port), htons(PORT)}, check;
    memcpy(frame, mac, 6);
    memcpy(frame + 26, ends, 8);
    memcpy(frame + 34, ports, 4);
    memcpy(frame + 38, &sequence, 4);
    check = htons(~sum(frame + 14, 20, 0));
    memcpy(frame + 24, &check, 2);
    check = htons(~sum(frame + 26, 28, 6 + 20));
    memcpy(frame + 50, &check, 2);
    if (write(tap, frame, sizeof frame) != sizeof frame) {
        perror("write");
        exit(1);
    }
}

static void again(const struct flow *flows, size_t count, int tap, const uint8_t mac[6])
{
    size_t last = 0;
    for (size_t i = 0; i < count; i++) {
        size_t at = open_message(IPCTNL_MSG_CT_DELETE, 0);
        tuple(CTA_TUPLE_ORIG, flows[i].source, HERE, flows[i].port, PORT);
        close_message(at);
        last = length;
        create(flows[i].source, flows[i].port, IPS_CONFIRMED);
    }
    exchange(last);
    for (size_t i = 0; i < count; i++)
        send_syn(tap, mac, flows[i].source, flows[i].port);
    for (size_t i = 0; i < count; i++) {
        uint32_t status = htonl(IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED), timeout = htonl(36000);
        last = open_message(IPCTNL_MSG_CT_NEW, 0);
        tuple(CTA_TUPLE_ORIG, flows[i].source, HERE, flows[i].port, PORT);
        attribute(CTA_TIMEOUT, &timeout, 4);
        attribute(CTA_STATUS, &status, 4);
        close_message(last);
    }
    exchange(last);
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return 2;
    size_t count = atoi(argv[2]);
    int size = 1 << 24, tap = argc > 3 ? atoi(argv[3]) : -1;
    uint8_t mac[6] = {0};
    ctnetlink = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER);
    setsockopt(ctnetlink, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    setsockopt(ctnetlink, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size);
    if (argc > 4)
        sscanf(argv[4], "%hhx:%hhx:%hhx:%hhx:%hhx:%hhx", mac, mac + 1, mac + 2, mac + 3, mac + 4, mac + 5);
    if (!strcmp(argv[1], "fill")) {
        for (size_t i = 0; i < count;) {
            size_t last = length;
            create(FIRST_SOURCE + i / EACH, FIRST_PORT + i % EACH, IPS_CONFIRMED | IPS_SEEN_REPLY | IPS_ASSURED);
            if (++i == count || i % BATCH == 0)
                exchange(last);
        }
        return 0;
    }
    if (!strcmp(argv[1], "syn")) {
        for (size_t i = 0; i < count; i++)
            send_syn(tap, mac, FIRST_SOURCE + i, FIRST_PORT + EACH);
        return 0;
    }
    struct flow *flows = malloc((count + 1) * sizeof *flows);
    uint64_t start = now();
    size_t found = dump(flows, count);
    uint64_t dumped = now();
    for (size_t i = 0; i < found; i += BATCH)
        again(flows + i, found - i < BATCH ? found - i : BATCH, tap, mac);
    uint64_t done = now();
    printf("%lu %lu %lu\n", (unsigned long)(dumped - start), (unsigned long)(done - dumped), (unsigned long)found);
    return found == count ? 0 : 1;
}
