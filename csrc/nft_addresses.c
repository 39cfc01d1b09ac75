/* The text of addresses and networks to keys. Strict, as inet_pton(3) is: nothing that two programs could read in two
 * ways (010.1.1.1, 1.2.3) is an address; ::ffff:1.2.3.4 is the IPv4 host that it is on the wire. */
#include "nft_set.h"

enum { HOST4, HOST6, NET4, NET6 };
enum { LONGEST = INET6_ADDRSTRLEN + 4 };        /* with a prefix behind it */

static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};

/* The first `prefix` bits of both are equal. */
static bool same_network(const uint8_t *a, const uint8_t *b, unsigned prefix)
{
    unsigned whole = prefix / 8, rest = prefix % 8;
    return !memcmp(a, b, whole) && (!rest || !((a[whole] ^ b[whole]) >> (8 - rest)));
}

/* Decimal, no sign, no leading zero, at most `most`; -1 if it is not. */
static int prefix_parse(const char *text, size_t length, int most)
{
    int value = 0;
    if (!length || length > 3 || (length > 1 && *text == '0'))
        return -1;
    for (size_t i = 0; i < length; i++) {
        if (text[i] < '0' || text[i] > '9')
            return -1;
        value = value * 10 + (text[i] - '0');
    }
    return value <= most ? value : -1;
}

static int guarded(int kind, const uint8_t *address, unsigned prefix, const nfk_guard *guards, size_t n_guards)
{
    for (size_t i = 0; i < n_guards; i++) {
        const nfk_guard *guard = &guards[i];
        if ((guard->kind ^ kind) & 1)
            continue;
        if (guard->covered ? guard->prefix >= prefix && same_network(address, guard->address, prefix)
                           : guard->prefix <= prefix && same_network(address, guard->address, guard->prefix))
            return guard->covered ? NFK_REFUSED_COVERS_GUARD : NFK_REFUSED_IN_GUARD;
    }
    return 0;
}

int nfk_address(const char *text, size_t length, const nfk_guard *guards, size_t n_guards, uint8_t key[32])
{
    char copy[LONGEST + 1];
    uint8_t address[16];
    const char *slash = memchr(text, '/', length);
    size_t host_length = slash ? (size_t)(slash - text) : length;
    int family = memchr(text, ':', host_length) ? AF_INET6 : AF_INET;
    int bits = family == AF_INET6 ? 128 : 32, prefix = bits;
    if (length > LONGEST || memchr(text, 0, length))
        return -NFK_REFUSED_TEXT;
    memcpy(copy, text, host_length);
    copy[host_length] = 0;
    if (inet_pton(family, copy, address) != 1)
        return -NFK_REFUSED_TEXT;
    if (slash && (prefix = prefix_parse(slash + 1, length - host_length - 1, bits)) < 0)
        return -NFK_REFUSED_TEXT;
    if (family == AF_INET6 && prefix >= 96 && !memcmp(address, mapped, sizeof(mapped))) {
        memmove(address, address + 12, 4);
        family = AF_INET;
        bits = 32;
        prefix -= 96;
    }
    size_t bytes = (size_t)bits / 8;
    for (int bit = prefix; bit < bits; bit++)
        if (address[bit / 8] >> (7 - bit % 8) & 1)
            return -NFK_REFUSED_HOST_BITS;
    int kind = (family == AF_INET6 ? HOST6 : HOST4) + (prefix < bits ? NET4 : 0);
    int reason = guarded(kind, address, (unsigned)prefix, guards, n_guards);
    if (reason)
        return -reason;
    memcpy(key, address, bytes);
    if (kind >= NET4)
        for (size_t i = 0; i < bytes; i++) {
            int left = prefix - (int)i * 8;
            key[bytes + i] = left >= 8 ? 0xff : left <= 0 ? 0 : (uint8_t)(0xff00 >> left);
        }
    return kind;
}

static const size_t key_bytes[4] = {4, 16, 8, 32};

/* Which keys of a kind were seen: places in its row, from 1, by hash; open addressing, never more than half full. */
struct seen { uint32_t *places; size_t room; };

static size_t hash(const uint8_t *key, size_t length)
{
    uint64_t value = 0x9e3779b97f4a7c15u, word;
    for (size_t at = 0; at < length; at += 4) {
        uint32_t part;
        memcpy(&part, key + at, sizeof(part));
        word = (value ^ part) * 0xff51afd7ed558ccdu;
        value = word ^ word >> 32;
    }
    return (size_t)value;
}

/* The place of a key in the row `keys`, or the empty one that it has to be noted in; NULL without memory. */
static uint32_t *seen_find(struct seen *seen, const uint8_t *keys, const uint8_t *key, size_t length, size_t most)
{
    if (!seen->places) {
        for (seen->room = 64; seen->room < most * 2;)
            seen->room *= 2;
        if (!(seen->places = calloc(seen->room, sizeof(*seen->places))))
            return NULL;
    }
    size_t at = hash(key, length) & (seen->room - 1);
    while (seen->places[at] && memcmp(keys + (seen->places[at] - 1) * length, key, length))
        at = (at + 1) & (seen->room - 1);
    return &seen->places[at];
}

/* One more key of a kind; one that was there before only takes the new line for its position. */
static bool key_take(nfk_sorted *out, struct seen seen[4], int kind, const uint8_t *key, size_t line, size_t most)
{
    uint32_t *place = seen_find(&seen[kind], out->keys[kind], key, key_bytes[kind], most);
    if (!place)
        return false;
    if (!*place) {
        memcpy(out->keys[kind] + out->counts[kind] * key_bytes[kind], key, key_bytes[kind]);
        *place = ++out->counts[kind];
    }
    out->positions[kind][*place - 1] = (uint32_t)line;
    return true;
}

int64_t nfk_addresses(const char *text, size_t length, size_t room, const nfk_guard *guards, size_t n_guards,
                      nfk_sorted *out)
{
    const char *end = text + length;
    struct seen seen[4] = {0};
    int64_t line = 0;
    uint8_t key[32];
    memset(out->counts, 0, sizeof(out->counts));
    out->n_refused = 0;
    for (const char *at = text; at <= end; line++) {
        const char *stop = memchr(at, '\n', (size_t)(end - at));
        stop = stop ? stop : end;
        if ((size_t)line < room) {
            int kind = nfk_address(at, (size_t)(stop - at), guards, n_guards, key);
            if (kind < 0) {
                out->refused[out->n_refused] = (uint32_t)line;
                out->reasons[out->n_refused++] = (uint8_t)-kind;
            } else if (!key_take(out, seen, kind, key, (size_t)line, room)) {
                line = -ENOMEM;
                break;
            }
        }
        at = stop + 1;
    }
    for (int kind = 0; kind < 4; kind++)
        free(seen[kind].places);
    return line;
}

/* Takes what the text begins with, if it is that; NULL if not, or before. */
static const char *word_take(const char *at, const char *end, const char *word)
{
    size_t length = strlen(word);
    return at && (size_t)(end - at) >= length && !memcmp(at, word, length) ? at + length : NULL;
}

/* An address as inet_ntop(3) writes it, with a bit set. Of IPv4 inet_pton(3) takes no other. */
static const char *address_take(const char *at, const char *end, size_t bytes, uint8_t *key)
{
    static const uint8_t nobody[16];
    char copy[LONGEST + 1], again[LONGEST + 1];
    int family = bytes == 4 ? AF_INET : AF_INET6;
    size_t length = 0;
    while (at && at + length < end && at[length] != ' ' && at[length] != '\n')
        length++;
    if (!length || length > LONGEST)
        return NULL;
    memcpy(copy, at, length);
    copy[length] = 0;
    if (inet_pton(family, copy, key) != 1 || !memcmp(key, nobody, bytes))
        return NULL;
    if (family == AF_INET6 && strcmp(inet_ntop(family, key, again, sizeof(again)), copy))
        return NULL;
    return at + length;
}

/* A number of eight digits at most, without zeros before it. */
static const char *number_take(const char *at, const char *end, uint32_t *number)
{
    const char *begin = at;
    *number = 0;
    for (; at && at < end && *at >= '0' && *at <= '9' && at - begin < 8; at++)
        *number = *number * 10 + (uint32_t)(*at - '0');
    return at == begin || (*begin == '0' && at - begin > 1) ? NULL : at;
}

int64_t nfk_ipset_lines(const char *text, size_t length, const char *name, size_t bytes, int timed, size_t room,
                        uint8_t *keys, uint32_t *seconds)
{
    const char *at = text, *end = text + length;
    struct seen seen = {0};
    int64_t lines = 0;
    while (at < end) {
        uint8_t *key = keys + (size_t)lines * bytes;
        if ((size_t)lines == room) {
            lines = -EINVAL;
            break;
        }
        at = word_take(word_take(word_take(at, end, "add "), end, name), end, " ");
        at = address_take(at, end, bytes, key);
        seconds[lines] = 0;
        if (timed)
            at = number_take(word_take(at, end, " timeout "), end, &seconds[lines]);
        at = word_take(at, end, "\n");
        uint32_t *place = at ? seen_find(&seen, keys, key, bytes, room) : NULL;
        if (!place || *place) {
            lines = at && !place ? -ENOMEM : -EINVAL;
            break;
        }
        *place = (uint32_t)++lines;
    }
    free(seen.places);
    return lines;
}
