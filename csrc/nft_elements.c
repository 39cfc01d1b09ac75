/* Set elements as nfnetlink messages, a batch as one transaction. net/netfilter/nfnetlink.c works a batch off within
 * the send, so every answer is in the queue when it returns. */
#include "nft_set.h"
#include <endian.h>

enum { MOST_BYTES = 60000 };                    /* of elements in one message: a nest has 16 bits for its length */

void attribute_put(struct buffer *out, unsigned type, const void *data, size_t length)
{
    struct nlattr header = {.nla_len = (uint16_t)(NLA_HDRLEN + length), .nla_type = (uint16_t)type};
    size_t whole = NLA_ALIGN(NLA_HDRLEN + length);
    uint8_t *at = buffer_extend(out, whole);
    if (!at)
        return;
    memcpy(at, &header, sizeof(header));
    memcpy(at + NLA_HDRLEN, data, length);
    memset(at + NLA_HDRLEN + length, 0, whole - NLA_HDRLEN - length);
}

size_t nest_begin(struct buffer *out, unsigned type)
{
    size_t at = out->length;
    attribute_put(out, type | NLA_F_NESTED, "", 0);
    return at;
}

void nest_end(struct buffer *out, size_t at)
{
    uint16_t length = (uint16_t)(out->length - at);
    if (!out->failed)
        memcpy(out->data + at, &length, sizeof(length));        /* nla_len comes first */
}

static void header_put(struct buffer *out, unsigned type, unsigned flags, uint32_t sequence, unsigned family,
                       unsigned resource)
{
    struct nlmsghdr header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct nfgenmsg)), .nlmsg_type = (uint16_t)type,
                              .nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags), .nlmsg_seq = sequence};
    struct nfgenmsg generic = {.nfgen_family = (uint8_t)family, .version = NFNETLINK_V0,
                               .res_id = htons((uint16_t)resource)};
    uint8_t *at = buffer_extend(out, header.nlmsg_len);
    if (!at)
        return;
    memcpy(at, &header, sizeof(header));
    memcpy(at + NLMSG_HDRLEN, &generic, sizeof(generic));
}

size_t message_begin(struct nfk_set *set, unsigned type, unsigned flags, bool head)
{
    struct buffer *out = &set->nft->out;
    size_t at = out->length;
    header_put(out, NFNL_SUBSYS_NFTABLES << 8 | type, flags, set->nft->sequence++, set->family, 0);
    uint8_t *names = head ? buffer_extend(out, set->head_length) : NULL;
    if (names)
        memcpy(names, set->head, set->head_length);
    return at;
}

void message_end(struct buffer *out, size_t at)
{
    uint32_t length = (uint32_t)(out->length - at);
    if (!out->failed)
        memcpy(out->data + at, &length, sizeof(length));        /* nlmsg_len comes first */
}

static void number_put(struct buffer *out, unsigned type, uint64_t value)
{
    uint64_t big = htobe64(value);
    attribute_put(out, type, &big, sizeof(big));
}

static size_t element_room(const struct nfk_set *set, const nfk_elements *elements)
{
    return 3 * NLA_HDRLEN + set->key_bytes + 2 * (NLA_HDRLEN + 8) + NLA_HDRLEN + NLA_ALIGN(elements->userdata_length);
}

static void element_put(struct nfk_set *set, unsigned step, const nfk_elements *elements, size_t index)
{
    struct buffer *out = &set->nft->out;
    size_t element = nest_begin(out, NFTA_LIST_ELEM);
    size_t key = nest_begin(out, NFTA_SET_ELEM_KEY);
    attribute_put(out, NFTA_DATA_VALUE, elements->keys + index * set->key_bytes, set->key_bytes);
    nest_end(out, key);
    if (step != NFK_DELETE) {
        uint64_t timeout = elements->timeouts ? elements->timeouts[index] : elements->timeout;
        if (timeout)
            number_put(out, NFTA_SET_ELEM_TIMEOUT, timeout);
        if (timeout)                            /* without it an element that is there keeps what is left of its time */
            number_put(out, NFTA_SET_ELEM_EXPIRATION, elements->expirations ? elements->expirations[index] : timeout);
        if (elements->userdata_length)
            attribute_put(out, NFTA_SET_ELEM_USERDATA, elements->userdata, elements->userdata_length);
    }
    nest_end(out, element);
}

/* One message with elements [first, first + count). */
static void message_put(struct nfk_set *set, unsigned step, unsigned flags, const nfk_elements *elements, size_t first,
                        size_t count)
{
    struct buffer *out = &set->nft->out;
    unsigned type = step == NFK_DELETE ? NFT_MSG_DELSETELEM : NFT_MSG_NEWSETELEM;
    flags |= step == NFK_DELETE ? 0 : NLM_F_CREATE;
    size_t at = message_begin(set, type, flags, true);
    size_t list = nest_begin(out, NFTA_SET_ELEM_LIST_ELEMENTS);
    for (size_t i = first; i < first + count; i++)
        element_put(set, step, elements, i);
    nest_end(out, list);
    message_end(out, at);
}

struct answers {
    uint32_t first, count;                      /* the messages between the batch's ends */
    int error;                                  /* the first one */
    bool acknowledged;
};

/* The messages have the numbers behind that of the batch's beginning; numbers do not wrap within a batch. */
static void batch_begin(struct nfk_nft *nft, size_t messages, struct answers *answers)
{
    if (nft->sequence > UINT32_MAX - messages - 2)
        nft->sequence = 1;
    nft->out.length = 0;
    nft->out.failed = false;
    answers->first = nft->sequence + 1;
    answers->count = (uint32_t)messages;
    header_put(&nft->out, NFNL_MSG_BATCH_BEGIN, 0, nft->sequence++, NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES);
}

static int take_answer(void *context, const struct nlmsghdr *message)
{
    struct answers *answers = context;
    uint32_t index = message->nlmsg_seq - answers->first;       /* wraps for the beginning, which has an error for all */
    if (message->nlmsg_type != NLMSG_ERROR || index + 1 > answers->count + 1)
        return 0;
    int error = netlink_error(message);
    answers->acknowledged = answers->acknowledged || (!error && index == answers->count - 1);
    if (error && !answers->error)
        answers->error = error;
    return 0;
}

static int batch_send(struct nfk_nft *nft, struct answers *answers)
{
    header_put(&nft->out, NFNL_MSG_BATCH_END, 0, nft->sequence++, NFPROTO_UNSPEC, NFNL_SUBSYS_NFTABLES);
    if (nft->out.failed)
        return -ENOMEM;
    int error = netlink_exchange(&nft->channel, nft->out.data, nft->out.length, answers->first + answers->count - 1,
                                 take_answer, answers);
    if (error)
        return error;
    if (answers->error)
        return -answers->error;
    return answers->acknowledged ? 0 : -EIO;
}

int nfk_set_change(struct nfk_set *set, const uint8_t *steps, size_t n_steps, const nfk_elements *elements)
{
    struct nfk_nft *nft = set->nft;
    size_t most = MOST_BYTES / element_room(set, elements), count = elements->count;
    size_t messages = (count + most - 1) / most * n_steps;
    if (!messages)
        return 0;
    struct answers answers = {0};
    batch_begin(nft, messages, &answers);
    for (size_t step = 0; step < n_steps; step++)
        for (size_t first = 0; first < count; first += most) {
            size_t here = count - first < most ? count - first : most;
            unsigned flags = step + 1 == n_steps && first + here == count ? NLM_F_ACK : 0;
            message_put(set, steps[step], flags, elements, first, here);
        }
    return batch_send(nft, &answers);
}

int nfk_set_one(struct nfk_set *set, uint8_t step, const uint8_t *key, uint64_t timeout, const uint8_t *userdata,
                size_t userdata_length)
{
    nfk_elements element = {.keys = key, .count = 1, .timeout = timeout, .userdata = userdata,
                            .userdata_length = userdata_length};
    return nfk_set_change(set, &step, 1, &element);
}

int nfk_ban(struct nfk_set *v4, struct nfk_set *v6, const char *text, size_t length, const nfk_guard *guards,
            size_t n_guards, uint64_t timeout)
{
    uint8_t key[32];
    int kind = nfk_address(text, length, guards, n_guards, key);
    if (kind != 0 && kind != 1)
        return -1;
    return nfk_set_one(kind ? v6 : v4, NFK_ADD, key, timeout, NULL, 0) ? -1 : 1;
}

int nfk_unban(struct nfk_set *v4, struct nfk_set *v6, const char *text, size_t length)
{
    uint8_t key[32], present;
    int kind = nfk_address(text, length, NULL, 0, key);
    if (kind != 0 && kind != 1)
        return -1;
    struct nfk_set *set = kind ? v6 : v4;
    if (nfk_set_present(set, key, 1, &present))
        return -1;
    if (!present)                               /* or the set is not there either */
        return 0;
    return nfk_set_one(set, NFK_DELETE, key, 0, NULL, 0) ? -1 : 1;
}

int nfk_set_flush(struct nfk_set *set)
{
    struct nfk_nft *nft = set->nft;
    struct answers answers = {0};
    batch_begin(nft, 1, &answers);
    message_end(&nft->out, message_begin(set, NFT_MSG_DELSETELEM, NLM_F_ACK, true));    /* which names no element */
    return batch_send(nft, &answers);
}
