/* Walking packets through tables from a kernel that says anything: every way from every side, both families. */
#include "fuzz.h"
#include "xtables_walk.h"

/* An input: as in tables.c. */
struct header {
    uint8_t v6, what;
    uint16_t reserved;
    uint32_t number, valid_hooks, hook_entry[NF_INET_NUMHOOKS], underflow[NF_INET_NUMHOOKS];
};

static void make_probe(struct nfk_probe *probe, int family, unsigned int variant)
{
    *probe = (struct nfk_probe){.family = family, .protocol = variant & 1 ? IPPROTO_UDP : IPPROTO_TCP,
                                .from_here = variant >> 1 & 1, .is_reply = variant >> 2 & 1, .states = 0x8, .ttl = 64,
                                .tcp_flags = 2, .length = 60, .source_port = 1000, .destination_port = 80,
                                .nat_source_port = 1000, .nat_destination_port = 80, .source_type = 1,
                                .destination_type = 2, .in_name = "eth0", .out_name = "lo",
                                .source = {192, 0, 2, 1}, .destination = {198, 51, 100, 7},
                                .nat_source = {192, 0, 2, 1}, .nat_destination = {198, 51, 100, 7}};
    probe->sunk_at = (variant >> 3) % NF_INET_NUMHOOKS;
}

static void look_at_counters(const nfk_walk *walk, size_t table)
{
    size_t count = nfk_walk_entries(walk, table);
    uint64_t *counters = calloc(4 * count + 1, sizeof(*counters));

    nfk_walk_counters(walk, table, counters, counters + count, counters + 2 * count, counters + 3 * count);
    free(counters);
}

void fuzz_one(const uint8_t *data, size_t size)
{
    struct header info;
    struct nfk_walked walked;
    struct nfk_probe probe;
    uint32_t times = 3;
    nfk_walk *walk;
    int family, added = 0;

    if (size < sizeof(info))
        return;
    memcpy(&info, data, sizeof(info));
    family = info.v6 & 1 ? AF_INET6 : AF_INET;
    walk = nfk_walk_new(family);
    if (!walk)
        return;
    /* The same table twice, as one before the watched one, and as that. */
    for (int watched = 0; watched < 2; watched++)
        added += !nfk_walk_add_table(walk, watched ? "filter" : "mangle", watched ? 0 : -150, data + sizeof(info),
                                     size - sizeof(info), info.valid_hooks, info.hook_entry, info.underflow, watched);
    for (unsigned int variant = 0; added && variant < 40; variant++) {
        make_probe(&probe, family, variant);
        nfk_walk_flows(walk, &probe, 1, &times, &walked);
        if (variant % 8 == 0 && nfk_walk_tally(walk, &probe, 1) == 0)
            nfk_walk_flows(walk, &probe, 1, &times, &walked);
    }
    for (int table = 0; table < added; table++) {
        uint8_t *answers = calloc(1, nfk_walk_entries(walk, table) + 1);

        look_at_counters(walk, table);
        nfk_walk_tell(walk, table, answers);
        free(answers);
    }
    nfk_walk_zero(walk);
    nfk_walk_free(walk);
}
