/*
 * One table in memory, for either family: opened from the kernel, its rules read, added, replaced and deleted.
 */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "xtables_block.h"
#include "xtables_table.h"

static int read_table(nfk_table *table, int family, const char *name)
{
    int error;

    table->family = family;
    table->fd = table->lock = -1;
    if (strlen(name) >= sizeof(table->name))
        return ENOENT;
    strcpy(table->name, name);
    table->fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0); /* any kind has these options; this one is made fastest */
    if (table->fd < 0)
        return errno;
    error = nfk_image_read(family, table->fd, name, &table->image);
    if (error)
        return error;
    return nfk_table_take_apart(table, &table->image, true) ? EBADMSG : 0;
}

nfk_table *nfk_table_open(int family, const char *name)
{
    nfk_table *table = calloc(1, sizeof(*table));
    int error = table ? read_table(table, family, name) : ENOMEM;

    if (!error)
        return table;
    nfk_table_close(table);
    errno = error;
    return NULL;
}

void nfk_table_close(nfk_table *table)
{
    struct piece *next;

    if (!table)
        return;
    nfk_table_drop_chains(table);
    nfk_image_free(&table->image);
    for (struct piece *piece = table->memory; piece; piece = next) {
        next = piece->next;
        free(piece);
    }
    if (table->fd >= 0)
        close(table->fd);
    if (table->lock >= 0)
        close(table->lock);
    nfk_block_free(table->replaced);
    free(table);
}

int64_t nfk_chain_rules(nfk_table *table, const char *chain)
{
    const struct chain *found = nfk_chain_find(table, chain);

    return found ? (int64_t)found->count : -1;
}

static const char *verdict_name(int32_t verdict)
{
    switch (verdict) {
    case -NF_ACCEPT - 1:
        return "ACCEPT";
    case -NF_DROP - 1:
        return "DROP";
    case -NF_QUEUE - 1:
        return "QUEUE";
    default:
        return "RETURN";
    }
}

const void *nfk_rule_at(nfk_table *table, const char *chain, size_t index, size_t *size)
{
    const struct chain *found = nfk_chain_find(table, chain);

    if (!found || index >= found->count)
        return NULL;
    *size = found->rules[index].size;
    return &found->rules[index];
}

struct xt_counters nfk_rule_counted(int family, const struct rule *rule)
{
    struct xt_counters counted = rule->extra;

    if (rule->was) {
        counted.pcnt += nfk_counters(family, rule->bytes)->pcnt;
        counted.bcnt += nfk_counters(family, rule->bytes)->bcnt;
    }
    return counted;
}

void nfk_rule_zero(int family, struct rule *rule)
{
    struct xt_counters counted = nfk_rule_counted(family, rule);

    rule->extra.pcnt -= counted.pcnt;
    rule->extra.bcnt -= counted.bcnt;
}

void nfk_rule_copy(nfk_table *table, const void *place, void *into, uint64_t *packets, uint64_t *bytes)
{
    const struct rule *rule = place;
    struct xt_counters counted = nfk_rule_counted(table->family, rule);
    struct xt_entry_target *target;

    *packets = counted.pcnt;
    *bytes = counted.bcnt;
    memcpy(into, rule->bytes, rule->size);
    memset(nfk_counters(table->family, into), 0, sizeof(struct xt_counters));
    if (table->family == AF_INET6) {
        ((struct ip6t_entry *)into)->nfcache = 0;
        ((struct ip6t_entry *)into)->comefrom = 0;
    } else {
        ((struct ipt_entry *)into)->nfcache = 0;
        ((struct ipt_entry *)into)->comefrom = 0;
    }
    target = nfk_target(table->family, into);
    if (rule->ending == TO_EXTENSION)
        return;
    memset(target->data, 0, target->u.target_size - sizeof(*target));
    if (rule->ending == TO_VERDICT)
        strcpy(target->u.user.name, verdict_name(rule->verdict));
    else if (rule->ending == TO_CHAIN)
        strcpy(target->u.user.name, rule->jump->name);
    target->u.user.revision = rule->ending == TO_CHAIN ? NFK_JUMP : 0;
}

int nfk_rule_replaced(nfk_table *table, const char *chain, size_t index, uint64_t *packets, uint64_t *bytes)
{
    const struct chain *found = nfk_chain_find(table, chain);
    const struct rule *rule = found && index < found->count ? &found->rules[index] : NULL;

    if (!rule || !rule->was || !table->written)
        return 0;
    *packets = table->replaced[rule->was - 1].pcnt;
    *bytes = table->replaced[rule->was - 1].bcnt;
    return 1;
}

/* What a target's name stands for here: a verdict, a chain (which wins over an extension, as with iptables), else one. */
static int read_ending(const nfk_table *table, const struct xt_entry_target *target, struct rule *rule)
{
    static const struct {
        const char *name;
        int32_t verdict;
    } verdicts[] = {{"ACCEPT", -NF_ACCEPT - 1}, {"DROP", -NF_DROP - 1}, {"QUEUE", -NF_QUEUE - 1}, {"RETURN", XT_RETURN}};
    const char *name = target->u.user.name;

    if (!name[0]) {
        rule->ending = TO_NEXT;
        return 0;
    }
    rule->ending = TO_VERDICT;
    for (size_t i = 0; i < sizeof(verdicts) / sizeof(*verdicts); i++)
        if (strcmp(name, verdicts[i].name) == 0) {
            rule->verdict = verdicts[i].verdict;
            return 0;
        }
    rule->jump = nfk_chain_find(table, name);
    rule->ending = rule->jump ? TO_CHAIN : TO_EXTENSION;
    if (rule->jump && rule->jump->hook >= 0)
        return EINVAL;
    /* A jump to a chain that is not there is refused here, where the kernel would only say EINVAL. */
    return !rule->jump && target->u.user.revision == NFK_JUMP && nfk_is_standard(target) ? ENOENT : 0;
}

/* A rule of the table from an entry in the project's own form; EBADMSG for bytes that are none. */
static int make_rule(nfk_table *table, const void *entry, size_t length, uint64_t packets, uint64_t bytes,
                     struct rule *rule)
{
    size_t standard = XT_ALIGN(sizeof(struct xt_standard_target));
    struct xt_entry_target *target;
    int error;

    *rule = (struct rule){.extra = {packets, bytes}};
    if (length > UINT16_MAX)
        return EBADMSG;
    rule->bytes = nfk_table_memory(table, length + standard);
    if (!rule->bytes)
        return ENOMEM;
    memcpy(rule->bytes, entry, length);
    /* Of an entry with the error target's name nobody could tell that it does not begin a user chain. */
    target = nfk_is_entry(table->family, rule->bytes, length) ? nfk_target(table->family, rule->bytes) : NULL;
    if (!target || nfk_is_error(target))
        return EBADMSG;
    error = read_ending(table, target, rule);
    if (error)
        return error;
    rule->size = rule->ending == TO_EXTENSION ? length : (unsigned char *)target - rule->bytes + standard;
    if (rule->size > UINT16_MAX)
        return EBADMSG;
    if (table->family == AF_INET6)
        ((struct ip6t_entry *)rule->bytes)->next_offset = rule->size;
    else
        ((struct ipt_entry *)rule->bytes)->next_offset = rule->size;
    if (rule->ending != TO_EXTENSION) {
        memset(target, 0, standard);
        target->u.target_size = standard;
    }
    return 0;
}

static void let_go(const struct rule *rule)
{
    if (rule->ending == TO_CHAIN)
        rule->jump->references--;
}

static void refer(const struct rule *rule)
{
    if (rule->ending == TO_CHAIN)
        rule->jump->references++;
}

int nfk_rule_insert(nfk_table *table, const char *name, int64_t index, const void *entry, size_t length,
                    uint64_t packets, uint64_t bytes)
{
    struct chain *chain = nfk_chain_find(table, name);
    struct rule rule;
    size_t at;
    int error;

    if (!chain)
        return ENOENT;
    if (index > (int64_t)chain->count)
        return E2BIG;
    at = index < 0 ? chain->count : (size_t)index;
    error = make_rule(table, entry, length, packets, bytes, &rule);
    if (!error)
        error = nfk_chain_make_room(chain);
    if (error)
        return error;
    memmove(chain->rules + at + 1, chain->rules + at, (chain->count - at) * sizeof(*chain->rules));
    chain->rules[at] = rule;
    chain->count++;
    refer(&rule);
    return 0;
}

int nfk_rule_replace(nfk_table *table, const char *name, size_t index, const void *entry, size_t length,
                     uint64_t packets, uint64_t bytes)
{
    struct chain *chain = nfk_chain_find(table, name);
    struct rule rule;
    int error;

    if (!chain)
        return ENOENT;
    if (index >= chain->count)
        return E2BIG;
    error = make_rule(table, entry, length, packets, bytes, &rule);
    if (error)
        return error;
    let_go(&chain->rules[index]);
    chain->rules[index] = rule;
    refer(&rule);
    return 0;
}

int nfk_rule_rewrite(nfk_table *table, const char *name, size_t index, const void *entry, size_t length)
{
    struct chain *chain = nfk_chain_find(table, name);
    struct rule rule, *old;
    int error;

    if (!chain)
        return ENOENT;
    if (index >= chain->count)
        return E2BIG;
    old = &chain->rules[index];
    error = make_rule(table, entry, length, 0, 0, &rule);
    if (error)
        return error;
    *nfk_counters(table->family, rule.bytes) = *nfk_counters(table->family, old->bytes);
    rule.was = old->was;
    rule.extra = old->extra;
    let_go(old);
    *old = rule;
    refer(&rule);
    return 0;
}

int nfk_rule_delete_at(nfk_table *table, const char *name, size_t index)
{
    struct chain *chain = nfk_chain_find(table, name);

    if (!chain)
        return ENOENT;
    if (index >= chain->count)
        return E2BIG;
    let_go(&chain->rules[index]);
    memmove(chain->rules + index, chain->rules + index + 1, (chain->count - index - 1) * sizeof(*chain->rules));
    chain->count--;
    return 0;
}

/* Bytes of IPv4 rules that no packet is compared with: iptables sets them when it reads the mask, and not without one. */
static const struct {
    const char *name;
    size_t at, size;
} meaningless[] = {{"connlimit", 4, 12}, {"recent", 216, 12}};

static bool same_data(int family, const struct xt_entry_match *left, const struct xt_entry_match *right)
{
    size_t size = left->u.match_size - sizeof(*left), from = size, to = size;

    if (memcmp(left, right, sizeof(*left)) != 0)
        return false;
    for (size_t i = 0; family == AF_INET && i < sizeof(meaningless) / sizeof(*meaningless); i++)
        if (strcmp(left->u.user.name, meaningless[i].name) == 0 && meaningless[i].at + meaningless[i].size <= size) {
            from = meaningless[i].at;
            to = from + meaningless[i].size;
        }
    return memcmp(left->data, right->data, from) == 0 && memcmp(left->data + to, right->data + to, size - to) == 0;
}

static bool same_matches(int family, const unsigned char *left, const unsigned char *right, size_t at, size_t end)
{
    if (memcmp(left + at, right + at, end - at) == 0)
        return true;
    while (at < end) {
        const struct xt_entry_match *one = (const void *)(left + at), *other = (const void *)(right + at);

        if (!same_data(family, one, other))
            return false;
        at += one->u.match_size;
    }
    return true;
}

bool nfk_rule_same(int family, const struct rule *left, const struct rule *right)
{
    bool v6 = family == AF_INET6;
    size_t head = nfk_head_size(family), plain = v6 ? offsetof(struct ip6t_entry, nfcache)
                                                    : offsetof(struct ipt_entry, nfcache);
    size_t offsets = v6 ? offsetof(struct ip6t_entry, target_offset) : offsetof(struct ipt_entry, target_offset);
    size_t target = nfk_target_offset(family, left->bytes);

    if (left->size != right->size || left->ending != right->ending
        || (left->ending == TO_CHAIN && strcmp(left->jump->name, right->jump->name) != 0)
        || (left->ending == TO_VERDICT && left->verdict != right->verdict)
        || memcmp(left->bytes, right->bytes, plain) != 0
        || memcmp(left->bytes + offsets, right->bytes + offsets, 2 * sizeof(uint16_t)) != 0
        || !same_matches(family, left->bytes, right->bytes, head, target))
        return false;
    return left->ending != TO_EXTENSION || memcmp(left->bytes + target, right->bytes + target, left->size - target) == 0;
}

int64_t nfk_rule_find(nfk_table *table, const char *name, const void *entry, size_t length, int *error)
{
    struct chain *chain = nfk_chain_find(table, name);
    struct rule rule;

    *error = chain ? make_rule(table, entry, length, 0, 0, &rule) : ENOENT;
    if (*error)
        return -1;
    for (size_t i = 0; i < chain->count; i++)
        if (nfk_rule_same(table->family, &chain->rules[i], &rule))
            return (int64_t)i;
    *error = ENOENT;
    return -1;
}
