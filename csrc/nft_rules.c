/* Rules that the kernel lists, by the thousand: where each stands, what it has counted, and what it does. */
#include "nft_set.h"
#include <endian.h>

struct text { uint8_t *data; size_t length, room; };

/* The next attribute of `rest`, which loses it: 1, 0 at the end, -EBADMSG. */
static int next_attribute(const uint8_t **at, size_t *left, unsigned *type, struct attribute *found)
{
    struct nlattr header;
    if (*left < NLA_HDRLEN)
        return 0;
    memcpy(&header, *at, sizeof(header));
    if (header.nla_len < NLA_HDRLEN || header.nla_len > *left)
        return -EBADMSG;
    *type = header.nla_type & NLA_TYPE_MASK;
    *found = (struct attribute){*at + NLA_HDRLEN, (uint16_t)(header.nla_len - NLA_HDRLEN)};
    size_t step = NLA_ALIGN((size_t)header.nla_len);
    step = step < *left ? step : *left;
    *at += step;
    *left -= step;
    return 1;
}

static bool is(struct attribute a, const char *text)
{
    return a.data && a.length == strlen(text) + 1 && !memcmp(a.data, text, a.length);
}

static bool begins(struct attribute a, const char *text)
{
    return a.length >= strlen(text) && !memcmp(a.data, text, strlen(text));
}

/* A netstring; memcpy() is not told of nothing. */
static int say(struct text *text, struct attribute a)
{
    char digits[8];                             /* of 16 bits, and the colon */
    size_t at = sizeof(digits);
    unsigned left = a.length;
    digits[--at] = ':';
    do
        digits[--at] = (char)('0' + left % 10);
    while (left /= 10);
    size_t n = sizeof(digits) - at;
    if (text->room - text->length < n + a.length)
        return -ENOSPC;
    memcpy(text->data + text->length, digits + at, n);
    text->length += n;
    if (a.length)
        memcpy(text->data + text->length, a.data, a.length);
    text->length += a.length;
    return 0;
}

static int say_values(struct text *text, struct attribute data)
{
    const uint8_t *at = data.data;
    size_t left = data.length;
    unsigned type;
    struct attribute value;
    int more;
    while ((more = next_attribute(&at, &left, &type, &value)) > 0) {
        bool nameless = begins(value, "__set") || begins(value, "__map");
        int error = say(text, nameless ? (struct attribute){0} : value);
        if (error)
            return error;
    }
    return more;
}

static uint64_t big_endian(struct attribute a)
{
    uint64_t number = 0;
    if (a.length >= sizeof(number))
        memcpy(&number, a.data, sizeof(number));
    return be64toh(number);
}

static int take_expressions(struct attribute list, nfk_rule *rule, struct text *text)
{
    const uint8_t *at = list.data;
    size_t left = list.length;
    unsigned type;
    struct attribute expression, parts[NFTA_EXPR_MAX + 1], counted[NFTA_COUNTER_MAX + 1];
    int more;
    for (;;) {
        const uint8_t *here = at;
        if ((more = next_attribute(&at, &left, &type, &expression)) <= 0)
            return more;
        attributes_parse(expression.data, expression.length, parts, NFTA_EXPR_MAX + 1);
        struct attribute name = parts[NFTA_EXPR_NAME], data = parts[NFTA_EXPR_DATA];
        if (!name.data)
            return -EBADMSG;
        int error = say(text, name);
        if (!error && !is(name, "counter") && !is(name, "quota") && !is(name, "last"))
            error = say_values(text, data);
        if (error)
            return error;
        if (is(name, "counter") && !rule->counted) {
            attributes_parse(data.data, data.length, counted, NFTA_COUNTER_MAX + 1);
            rule->counted = 1;
            rule->counter = (uint32_t)(here - list.data);
            rule->packets = big_endian(counted[NFTA_COUNTER_PACKETS]);
            rule->bytes = big_endian(counted[NFTA_COUNTER_BYTES]);
        }
    }
}

static int take_rule(const uint8_t *data, size_t at, size_t length, nfk_rule *rule, struct text *text)
{
    struct attribute parts[NFTA_RULE_MAX + 1];
    attributes_parse(data + at, length, parts, NFTA_RULE_MAX + 1);
    struct attribute table = parts[NFTA_RULE_TABLE], chain = parts[NFTA_RULE_CHAIN];
    struct attribute expressions = parts[NFTA_RULE_EXPRESSIONS], userdata = parts[NFTA_RULE_USERDATA];
    if (!table.length || !chain.length || parts[NFTA_RULE_HANDLE].length < sizeof(uint64_t))
        return -EBADMSG;
    *rule = (nfk_rule){
        .handle = big_endian(parts[NFTA_RULE_HANDLE]),
        .table = (uint32_t)(table.data - data),
        .table_length = (uint32_t)strnlen((const char *)table.data, table.length),
        .chain = (uint32_t)(chain.data - data),
        .chain_length = (uint32_t)strnlen((const char *)chain.data, chain.length),
        .expressions = expressions.data ? (uint32_t)(expressions.data - data) : 0,
        .expressions_length = expressions.length,
        .userdata = userdata.data ? (uint32_t)(userdata.data - data) : 0,
        .userdata_length = userdata.length,
        .meaning = (uint32_t)text->length,
    };
    int error = take_expressions(expressions, rule, text);
    if (!error)
        error = say(text, userdata);
    rule->meaning_length = (uint32_t)(text->length - rule->meaning);
    return error;
}

int nfk_rules(const uint8_t *data, size_t length, const uint32_t *lengths, size_t count, nfk_rule *out,
              uint8_t *meanings, size_t room)
{
    struct text text = {.data = meanings, .room = room};
    size_t at = 0;
    if (length > UINT32_MAX || room > UINT32_MAX)
        return -EOVERFLOW;
    for (size_t i = 0; i < count; i++) {
        if (lengths[i] > length - at)
            return -EBADMSG;
        int error = take_rule(data, at, lengths[i], &out[i], &text);
        if (error)
            return error;
        at += lengths[i];
    }
    return 0;
}
