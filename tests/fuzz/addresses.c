/* nft_addresses.c on any text. */
#include "fuzz.h"
#include "nft_set.h"

enum { MOST = 512 };

void fuzz_one(const uint8_t *data, size_t size)
{
    static const nfk_guard guards[] = {{.kind = 0, .prefix = 8, .address = {127}},
                                       {.kind = 1, .prefix = 128, .covered = 1, .address = {[15] = 1}}};
    static uint8_t keys[4][MOST * 32], reasons[MOST];
    static uint32_t positions[4][MOST], refused[MOST];
    nfk_sorted out = {.refused = refused, .reasons = reasons};

    for (int kind = 0; kind < 4; kind++) {
        out.keys[kind] = keys[kind];
        out.positions[kind] = positions[kind];
    }
    nfk_addresses((const char *)data, size, MOST, guards, 2, &out);
    nfk_ipset_lines((const char *)data, size, "n", size % 2 ? 4 : 16, size % 4 > 1, MOST, keys[0], positions[0]);
}
