/* The least that a ban can cost: set elements over one raw nfnetlink socket, from C, with nothing checked or kept.
 *
 * usage: floor TABLE SET single COUNT ROUND | bulk COUNT | unban COUNT
 * The set holds IPv4 addresses (family inet) and is there already. Prints nanoseconds: the median of `single`, the
 * total of `bulk` (1,000 elements in a batch) and of `unban` (the same, deleted). */
#include <arpa/inet.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static char out[1 << 17];
static size_t length;

static void put(const void *data, size_t size) { memcpy(out + length, data, size); length += size; }

static void header(unsigned type, unsigned flags, unsigned family, unsigned resource)
{
    struct nlmsghdr h = {20, type, NLM_F_REQUEST | flags, 1, 0};
    struct nfgenmsg g = {family, 0, htons(resource)};
    put(&h, sizeof h);
    put(&g, sizeof g);
}

static void attribute(unsigned type, const void *data, size_t size)
{
    struct nlattr a = {4 + size, type};
    put(&a, sizeof a);
    put(data, size);
    while (length % 4)
        out[length++] = 0;
}

static void batch(const char *table, const char *set, unsigned type, unsigned flags, uint32_t first, unsigned count)
{
    length = 0;
    header(NFNL_MSG_BATCH_BEGIN, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
    size_t message = length;
    header(NFNL_SUBSYS_NFTABLES << 8 | type, flags | NLM_F_ACK, NFPROTO_INET, 0);
    attribute(NFTA_SET_ELEM_LIST_TABLE, table, strlen(table) + 1);
    attribute(NFTA_SET_ELEM_LIST_SET, set, strlen(set) + 1);
    size_t list = length;
    attribute(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, "", 0);
    for (unsigned i = 0; i < count; i++) {
        uint32_t key = htonl(first + i);
        struct nlattr nests[2] = {{16, NFTA_LIST_ELEM | NLA_F_NESTED}, {12, NFTA_SET_ELEM_KEY | NLA_F_NESTED}};
        put(nests, sizeof nests);
        attribute(NFTA_DATA_VALUE, &key, 4);
    }
    *(uint16_t *)(out + list) = length - list;
    *(uint32_t *)(out + message) = length - message;
    header(NFNL_MSG_BATCH_END, 0, AF_UNSPEC, NFNL_SUBSYS_NFTABLES);
}

static void exchange(int fd)
{
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    char answer[8192];
    if (sendto(fd, out, length, 0, (void *)&kernel, sizeof kernel) < 0 || recv(fd, answer, sizeof answer, 0) < 36) {
        perror("exchange");
        exit(1);
    }
    if (*(int *)(answer + 16)) {
        fprintf(stderr, "%s\n", strerror(-*(int *)(answer + 16)));
        exit(1);
    }
}

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ull + t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    if (argc < 5)
        return 2;
    int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER), size = 1 << 22;
    setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size);
    unsigned count = atoi(argv[4]), begin = argc > 5 ? atoi(argv[5]) * count : 0, add = NLM_F_CREATE | NLM_F_EXCL;
    if (!strcmp(argv[3], "single")) {
        uint64_t *taken = malloc(count * sizeof *taken);
        for (unsigned i = 0; i < count; i++) {
            uint64_t start = now();
            batch(argv[1], argv[2], NFT_MSG_NEWSETELEM, add, 0xc0000000u + begin + i, 1);
            exchange(fd);
            taken[i] = now() - start;
        }
        qsort(taken, count, sizeof *taken, by_value);
        printf("%lu\n", (unsigned long)taken[count / 2]);
        return 0;
    }
    int unban = !strcmp(argv[3], "unban");
    uint64_t start = now();
    for (unsigned i = 0; i < count; i += 1000) {
        batch(argv[1], argv[2], unban ? NFT_MSG_DELSETELEM : NFT_MSG_NEWSETELEM, unban ? 0 : add, 0x0a000000u + i,
              count - i < 1000 ? count - i : 1000);
        exchange(fd);
    }
    printf("%lu\n", (unsigned long)(now() - start));
    return 0;
}
