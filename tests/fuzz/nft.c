/* nft_dump.c on a kernel that says anything: dumps of a set, single elements, counting, asking for presence. */
#include "fuzz.h"
#include "nft_set.h"

void fuzz_one(const uint8_t *data, size_t size)
{
    static const size_t key_bytes[] = {4, 8, 16, 32};
    static const uint8_t keys[3 * 32];
    struct nfk_nft nft = {.channel = {.fd = -1, .answered = true}, .sequence = 1};
    uint8_t present[3];
    nfk_dump dump;
    int error = 0;

    if (size < 1)
        return;
    nfk_set *set = nfk_set_open(&nft, NFPROTO_INET, "table", "set", key_bytes[*data % 4], &error);
    if (!set)
        return;
    for (int i = 0; i < 2; i++) {
        fuzz_answers(data + 1, size - 1);
        if ((i ? nfk_set_get(set, keys, &dump) : nfk_set_dump(set, &dump)) >= 0) {
            uint64_t sum = 0;

            for (size_t k = 0; k < dump.count; k++)
                for (uint32_t n = 0; n < dump.elements[k].comment_length; n++)
                    sum += dump.text[dump.elements[k].comment + n];
            /* the sum is used, so that reading the text is not left out */
            if (sum == UINT64_MAX)
                __builtin_trap();
            nfk_dump_free(&dump);
        }
    }
    fuzz_answers(data + 1, size - 1);
    nfk_set_count(set);
    nfk_set_present(set, keys, 3, present);
    nfk_set_close(set);
    free(nft.channel.received);
    buffer_free(&nft.out);
}
