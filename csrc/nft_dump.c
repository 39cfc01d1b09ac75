/* The sockets and sets themselves, and what is in a set: dumped or asked for, decoded as it comes. */
#include "nft_set.h"
#include <endian.h>
#include <string.h>
#include <unistd.h>

enum { COMMENT = 0 };                           /* NFTNL_UDATA_SET_ELEM_COMMENT: type, length, text with its NUL */

struct nfk_nft *nfk_nft_open(int *error)
{
    struct nfk_nft *nft = calloc(1, sizeof(*nft));
    if (!nft) {
        *error = -ENOMEM;
        return NULL;
    }
    nft->sequence = 1;
    nft->channel.answered = true;
    nft->channel.fd = netlink_open(NETLINK_NETFILTER);
    if (nft->channel.fd < 0) {
        *error = nft->channel.fd;
        free(nft);
        return NULL;
    }
    return nft;
}

void nfk_nft_close(struct nfk_nft *nft)
{
    if (!nft)
        return;
    close(nft->channel.fd);
    free(nft->channel.received);
    buffer_free(&nft->out);
    free(nft);
}

struct nfk_set *nfk_set_open(struct nfk_nft *nft, uint8_t family, const char *table, const char *name, size_t key_bytes,
                             int *error)
{
    struct buffer head = {0};
    struct nfk_set *set = NULL;
    attribute_put(&head, NFTA_SET_ELEM_LIST_TABLE, table, strlen(table) + 1);
    attribute_put(&head, NFTA_SET_ELEM_LIST_SET, name, strlen(name) + 1);
    if (!head.failed && (set = malloc(sizeof(*set) + head.length))) {
        *set = (struct nfk_set){.nft = nft, .family = family, .key_bytes = key_bytes, .head_length = head.length};
        memcpy(set->head, head.data, head.length);
    } else {
        *error = -ENOMEM;
    }
    buffer_free(&head);
    return set;
}

void nfk_set_close(struct nfk_set *set) { free(set); }

struct reader {
    const struct nfk_set *set;
    uint32_t sequence;
    struct buffer elements, text;
    size_t count;
    bool keep, interrupted;
};

static uint64_t number(struct attribute a)
{
    uint64_t big = 0;
    if (a.length >= sizeof(big))
        memcpy(&big, a.data, sizeof(big));
    return be64toh(big);
}

/* Keeps the comment of an element's userdata, a row of type, length and value of a byte each. */
static bool take_comment(struct reader *reader, struct attribute userdata, nfk_element *element)
{
    for (size_t at = 0; at + 2 <= userdata.length; at += 2 + (size_t)userdata.data[at + 1]) {
        size_t length = userdata.data[at + 1];
        if (length > userdata.length - at - 2)
            break;
        if (userdata.data[at] != COMMENT)
            continue;
        const uint8_t *text = userdata.data + at + 2;
        length = strnlen((const char *)text, length);
        uint8_t *copy = buffer_extend(&reader->text, length);
        if (!copy)
            return false;
        memcpy(copy, text, length);
        element->comment = (uint32_t)(reader->text.length - length);
        element->comment_length = (uint32_t)length;
        break;
    }
    return true;
}

static int take_element(struct reader *reader, const uint8_t *data, size_t length)
{
    struct attribute parts[NFTA_SET_ELEM_MAX + 1], key[NFTA_DATA_MAX + 1];
    attributes_parse(data, length, parts, NFTA_SET_ELEM_MAX + 1);
    attributes_parse(parts[NFTA_SET_ELEM_KEY].data, parts[NFTA_SET_ELEM_KEY].length, key, NFTA_DATA_MAX + 1);
    if (key[NFTA_DATA_VALUE].length != reader->set->key_bytes)
        return EBADMSG;
    reader->count++;
    if (!reader->keep)
        return 0;
    nfk_element element = {.timeout = number(parts[NFTA_SET_ELEM_TIMEOUT]),
                           .expires = number(parts[NFTA_SET_ELEM_EXPIRATION])};
    memcpy(element.key, key[NFTA_DATA_VALUE].data, key[NFTA_DATA_VALUE].length);
    if (!take_comment(reader, parts[NFTA_SET_ELEM_USERDATA], &element))
        return ENOMEM;
    uint8_t *at = buffer_extend(&reader->elements, sizeof(element));
    if (!at)
        return ENOMEM;
    memcpy(at, &element, sizeof(element));
    return 0;
}

static int take_message(void *context, const struct nlmsghdr *message)
{
    struct reader *reader = context;
    size_t start = NLMSG_LENGTH(NLMSG_ALIGN(sizeof(struct nfgenmsg)));
    struct attribute parts[NFTA_SET_ELEM_LIST_MAX + 1];
    if (message->nlmsg_seq != reader->sequence)
        return 0;
    if (message->nlmsg_type == NLMSG_ERROR)
        return -netlink_error(message);
    reader->interrupted = reader->interrupted || message->nlmsg_flags & NLM_F_DUMP_INTR;
    if (message->nlmsg_type != (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM) || message->nlmsg_len < start)
        return 0;
    attributes_parse((const uint8_t *)message + start, message->nlmsg_len - start, parts, NFTA_SET_ELEM_LIST_MAX + 1);
    const uint8_t *at = parts[NFTA_SET_ELEM_LIST_ELEMENTS].data;
    size_t left = parts[NFTA_SET_ELEM_LIST_ELEMENTS].length;
    while (left >= NLA_HDRLEN) {
        struct nlattr header;
        memcpy(&header, at, sizeof(header));
        if (header.nla_len < NLA_HDRLEN || header.nla_len > left)
            return -EBADMSG;
        int error = take_element(reader, at + NLA_HDRLEN, header.nla_len - NLA_HDRLEN);
        if (error)
            return -error;
        size_t step = NLA_ALIGN((size_t)header.nla_len);
        if (step >= left)
            break;
        at += step;
        left -= step;
    }
    return 0;
}

static void question_put(struct nfk_set *set, unsigned flags, const uint8_t *key)
{
    struct buffer *out = &set->nft->out;
    size_t at = message_begin(set, NFT_MSG_GETSETELEM, flags, true);
    if (key) {
        size_t list = nest_begin(out, NFTA_SET_ELEM_LIST_ELEMENTS);
        size_t element = nest_begin(out, NFTA_LIST_ELEM), inner = nest_begin(out, NFTA_SET_ELEM_KEY);
        attribute_put(out, NFTA_DATA_VALUE, key, set->key_bytes);
        nest_end(out, inner);
        nest_end(out, element);
        nest_end(out, list);
    }
    message_end(out, at);
}

static void questions_begin(struct nfk_nft *nft, size_t count)
{
    if (nft->sequence > UINT32_MAX - count)
        nft->sequence = 1;
    nft->out.length = 0;
    nft->out.failed = false;
}

/* Asks for one key, or dumps (key NULL). */
static int read_set(struct nfk_set *set, const uint8_t *key, struct reader *reader)
{
    struct nfk_nft *nft = set->nft;
    questions_begin(nft, 1);
    reader->set = set;
    reader->sequence = nft->sequence;
    question_put(set, key ? NLM_F_ACK : NLM_F_DUMP, key);
    if (nft->out.failed)
        return -ENOMEM;
    nft->channel.answered = key != NULL;        /* a dump goes on while it is read */
    int error = netlink_exchange(&nft->channel, nft->out.data, nft->out.length, reader->sequence, take_message, reader);
    nft->channel.answered = true;
    return error;
}

struct presence { uint32_t first, count; uint8_t *present; int error; };

static int take_presence(void *context, const struct nlmsghdr *message)
{
    struct presence *presence = context;
    uint32_t index = message->nlmsg_seq - presence->first;
    if (index >= presence->count)
        return 0;
    if (message->nlmsg_type == (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_NEWSETELEM))
        presence->present[index] = 1;
    else if (message->nlmsg_type == NLMSG_ERROR && netlink_error(message) && netlink_error(message) != ENOENT)
        presence->error = netlink_error(message);
    return 0;
}

int nfk_set_present(struct nfk_set *set, const uint8_t *keys, size_t count, uint8_t *present)
{
    struct nfk_nft *nft = set->nft;
    struct presence presence = {.count = (uint32_t)count, .present = present};
    memset(present, 0, count);
    if (!count)
        return 0;
    questions_begin(nft, count);
    presence.first = nft->sequence;
    for (size_t i = 0; i < count; i++)
        question_put(set, i + 1 == count ? NLM_F_ACK : 0, keys + i * set->key_bytes);
    if (nft->out.failed)
        return -ENOMEM;
    int error = netlink_exchange(&nft->channel, nft->out.data, nft->out.length, presence.first + presence.count - 1,
                                 take_presence, &presence);
    return error ? error : -presence.error;
}

static int read_into(struct nfk_set *set, const uint8_t *key, nfk_dump *out)
{
    struct reader reader = {.keep = true};
    int error = read_set(set, key, &reader);
    *out = (nfk_dump){(nfk_element *)reader.elements.data, reader.count, reader.text.data, reader.interrupted};
    if (error)
        nfk_dump_free(out);
    return error;
}

int nfk_set_get(struct nfk_set *set, const uint8_t *key, nfk_dump *out)
{
    int error = read_into(set, key, out);
    return error ? error : out->count > 0;
}

int nfk_set_dump(struct nfk_set *set, nfk_dump *out) { return read_into(set, NULL, out); }

void nfk_dump_free(nfk_dump *dump)
{
    free(dump->elements);
    free(dump->text);
    *dump = (nfk_dump){0};
}

int64_t nfk_set_count(struct nfk_set *set)
{
    struct reader reader = {0};
    int error = read_set(set, NULL, &reader);
    return error ? error : (int64_t)reader.count;
}
