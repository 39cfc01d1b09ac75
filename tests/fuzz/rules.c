/* nft_rules.c on rules of any bytes, each behind its length in 16 bits: what it tells lies in what it was given. */
#include "fuzz.h"
#include "nft_set.h"

enum { MOST = 64 };

static void check(size_t at, size_t length, size_t whole)
{
    if (at > whole || length > whole - at)
        __builtin_trap();
}

void fuzz_one(const uint8_t *data, size_t size)
{
    static nfk_rule rules[MOST];
    uint32_t lengths[MOST];
    size_t count = 0, whole = 0;
    uint8_t *bytes = malloc(size ? size : 1);

    while (size >= 2 && count < MOST) {
        uint16_t length;
        memcpy(&length, data, sizeof(length));
        data += 2;
        size -= 2;
        length = length < size ? length : (uint16_t)size;
        memcpy(bytes + whole, data, length);
        lengths[count++] = length;
        whole += length;
        data += length;
        size -= length;
    }
    size_t room = 2 * whole + 8 * count;
    uint8_t *listed = malloc(whole ? whole : 1), *meanings = malloc(room ? room : 1);

    memcpy(listed, bytes, whole);               /* as long as it may be read, and no longer */
    int error = nfk_rules(listed, whole, lengths, count, rules, meanings, room);

    if (error == -ENOSPC || (error && fuzz_is_seed))
        __builtin_trap();
    for (size_t i = 0; !error && i < count; i++) {
        check(rules[i].table, rules[i].table_length, whole);
        check(rules[i].chain, rules[i].chain_length, whole);
        check(rules[i].expressions, rules[i].expressions_length, whole);
        check(rules[i].userdata, rules[i].userdata_length, whole);
        check(rules[i].meaning, rules[i].meaning_length, room);
        if (rules[i].counted)
            check(rules[i].counter, NLA_HDRLEN, rules[i].expressions_length);
    }
    free(bytes);
    free(listed);
    free(meanings);
}
