/* What a batch says to ctnetlink and hears from it: the requests of all its flows go in one send, and each answer finds
 * its flow by sequence number. When each exchange has its turn, and what passes in between, is in conntrack_prime.c. */
#include "conntrack.h"
#include "conntrack_prime.h"

const struct entry *work_entry(const struct work *w) { return w->is_fresh ? &w->fresh : &w->dumped; }

/* The entry before it is taken down, copied for later. */
static void take_fresh(nfk_primer *p, struct work *w, const uint8_t *attributes, size_t length)
{
    w->fresh_at = p->fresh.length;
    uint8_t *copy = buffer_extend(&p->fresh, NLA_ALIGN(length));
    if (copy)
        memcpy(copy, attributes, length);
    w->fresh_length = copy ? length : 0;
}

/* The entry after its packet, or packets, have passed. */
static void take_check(nfk_primer *p, struct work *w, const uint8_t *attributes, size_t length)
{
    struct entry now;
    if (!entry_parse(attributes, length, p->flows->family, &now))
        return;
    if (p->resets && now.state == NFK_TCP_CLOSE && !entry_closed(work_entry(w)))
        w->rejected = true;
    if (now.attributes[CTA_ID].length == sizeof(w->id))
        memcpy(w->id, now.attributes[CTA_ID].data, sizeof(w->id));
}

/* The number of the question in an exchange, behind those of all flows. */
static uint32_t question_sequence(const nfk_primer *p) { return p->sequence + (uint32_t)p->batch * OPERATIONS; }

/* An answer that is not the last one, byte by byte, says that there were resets; an error says nothing better. */
static void take_told(nfk_primer *p, const struct nlmsghdr *message)
{
    const size_t head = NLMSG_LENGTH(sizeof(struct nfgenmsg));  /* which changes with each change of the ruleset */
    if (message->nlmsg_type == NLMSG_ERROR || message->nlmsg_len < head) {
        p->resets = p->resets || netlink_error(message);
        return;
    }
    const uint8_t *body = (const uint8_t *)message + head;
    size_t length = message->nlmsg_len - head;
    if (p->told.length == length && !memcmp(p->told.data, body, length))
        return;
    p->resets = true;
    p->told.length = 0;
    uint8_t *copy = buffer_extend(&p->told, length);
    if (copy)
        memcpy(copy, body, length);
}

static void ask(nfk_primer *p)
{
    size_t at = p->out.length;
    uint8_t *copy = buffer_extend(&p->out, p->question.length);
    if (!copy)
        return;
    memcpy(copy, p->question.data, p->question.length);
    ((struct nlmsghdr *)(p->out.data + at))->nlmsg_seq = question_sequence(p);
}

/* Learns what the answer is as long as no packet was sent. */
int prime_ask(nfk_primer *p)
{
    if (p->question.length)
        ask(p);
    return prime_exchange(p, 0, (uint32_t)p->batch * OPERATIONS);
}

/* Sorts an answer to its work by sequence number. */
static int take_answer(void *context, const struct nlmsghdr *message)
{
    nfk_primer *p = context;
    uint32_t at = message->nlmsg_seq - p->sequence;
    struct work *w = at / OPERATIONS < p->count ? &p->works[at / OPERATIONS] : NULL;
    if (message->nlmsg_seq == question_sequence(p))
        take_told(p, message);
    if (!w)
        return 0;
    if (message->nlmsg_type == NLMSG_ERROR) {
        w->errors[at % OPERATIONS] = netlink_error(message);
    } else if (message->nlmsg_type == (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW) && at % OPERATIONS == OP_GET &&
               message->nlmsg_len >= NLMSG_LENGTH(sizeof(struct nfgenmsg))) {
        const uint8_t *attributes = (const uint8_t *)message + NLMSG_LENGTH(sizeof(struct nfgenmsg));
        size_t length = message->nlmsg_len - NLMSG_LENGTH(sizeof(struct nfgenmsg));
        if (p->checking)
            take_check(p, w, attributes, length);
        else
            take_fresh(p, w, attributes, length);
    }
    return 0;
}

/* Sends p->out, whose last message starts at `last` and has sequence p->sequence + `last_sequence`. */
int prime_exchange(nfk_primer *p, size_t last, uint32_t last_sequence)
{
    int error = 0;
    if (p->out.failed)
        error = -ENOMEM;
    else if (p->out.length) {
        message_expect_ack(&p->out, last);
        error = netlink_exchange(&p->flows->ctnetlink, p->out.data, p->out.length, p->sequence + last_sequence,
                                 take_answer, p);
    }
    p->out.length = 0;
    p->out.failed = false;
    p->sequence += (uint32_t)p->batch * OPERATIONS + 1;
    return error;
}

/* Bits that the entry has by its nature and that may not be changed, so that each status has to name them. */
static uint32_t fixed_bits(const struct work *w)
{
    const struct entry *entry = work_entry(w);
    bool expected = w->heavy ? w->level == CREATE_ALL && entry->attributes[CTA_TUPLE_MASTER].data
                             : entry->status & IPS_EXPECTED;
    return IPS_CONFIRMED | (expected ? IPS_EXPECTED : 0);
}

/* What makes a flow whole after its packet has passed. */
static void add_update(nfk_primer *p, struct work *w, struct buffer *out, uint32_t sequence, bool with_status)
{
    static const uint8_t zeros[64];
    struct entry entry = *work_entry(w);
    unsigned what = UPDATE_MARKS;
    uint32_t bits = entry.status & (IPS_SEEN_REPLY | IPS_ASSURED | IPS_FIXED_TIMEOUT);
    struct attribute labels = w->dumped.attributes[CTA_LABELS];
    if (!entry.attributes[CTA_LABELS].data && labels.data && labels.length <= sizeof(zeros))
        entry.attributes[CTA_LABELS] = (struct attribute){zeros, labels.length};
    if (w->heavy) {
        what |= UPDATE_TIMEOUT | (bits && with_status ? UPDATE_STATUS : 0);
        if (w->rejected || (!w->created_fresh && (entry.state != w->dumped.state || entry.state == NFK_TCP_NONE)))
            what |= UPDATE_STATE;
    } else if (w->rejected) {
        what |= UPDATE_STATE | UPDATE_TIMEOUT;
    } else if (entry.original.protocol != NFK_TCP && !(entry.status & IPS_FIXED_TIMEOUT)) {
        what |= UPDATE_TIMEOUT;         /* a SYN again does not renew the timeout of a TCP flow, a datagram does */
    }
    message_update(out, sequence, p->flows->family, &entry, what, fixed_bits(w) | bits);
}

/* A status without SEEN_REPLY and ASSURED changes nothing; the kernel refuses it if the entry has one of these by now
 * (nf_ct_change_status_common), and else says nothing: that is what makes it cheaper than to read the entry. Our own
 * packet in the direction of replies sets SEEN_REPLY; it wants to be counted before ASSURED, too. */
void prime_probe(nfk_primer *p, size_t i)
{
    struct work *w = &p->works[i];
    uint32_t status = fixed_bits(w) | (w->replied ? IPS_SEEN_REPLY : 0);
    message_update(&p->out, p->sequence + (uint32_t)i * OPERATIONS + OP_PROBE, p->flows->family, work_entry(w),
                   UPDATE_STATUS, status);
}

void prime_hear_probes(nfk_primer *p)
{
    for (size_t i = 0; i < p->count; i++)
        if (p->works[i].errors[OP_PROBE] == EBUSY)
            p->works[i].late = true;
}

/* Leaves with the guardian what would complete the batch from here. */
int prime_leave_word(nfk_primer *p)
{
    struct buffer words = {0};
    int error = 0;
    if (!p->guardian)
        return 0;
    for (size_t i = 0; i < p->count; i++)
        if (p->works[i].heavy && !p->works[i].gone)
            add_update(p, &p->works[i], &words, 0, true);
    error = guardian_take(p->guardian, &words);
    buffer_free(&words);
    return error;
}

static bool as_selected(const nfk_primer *p, const struct work *w)
{
    return w->fresh_length == w->flow->length &&
           !memcmp(p->fresh.data + w->fresh_at, p->flows->arena.data + w->flow->attributes, w->fresh_length);
}

bool prime_unchanged(const nfk_primer *p)
{
    for (size_t i = 0; i < p->count; i++)
        if (!as_selected(p, &p->works[i]))
            return false;
    return true;
}

int prime_rebuild(nfk_primer *p)
{
    uint8_t family = p->flows->family;
    size_t last = 0;
    uint32_t last_sequence = 0;
    for (size_t i = 0; i < p->count; i++) {
        struct work *w = &p->works[i];
        uint32_t first = (uint32_t)i * OPERATIONS;
        last = p->out.length;
        last_sequence = first + OP_GET;
        message_get(&p->out, p->sequence + first + OP_GET, family, &w->dumped);
        if (!w->heavy)
            continue;
        message_delete(&p->out, p->sequence + first + OP_DELETE, family, &w->dumped, CTA_TUPLE_ORIG, true);
        last = p->out.length;
        last_sequence = first + OP_CREATE;
        message_create(&p->out, p->sequence + first + OP_CREATE, family, &w->dumped, CREATE_ALL);
    }
    int error = prime_exchange(p, last, last_sequence);
    for (size_t i = 0; i < p->count; i++) {
        struct work *w = &p->works[i];
        if (as_selected(p, w)) {
            w->fresh = w->dumped;
            w->is_fresh = true;
        } else if (w->fresh_length) {
            w->is_fresh = entry_parse(p->fresh.data + w->fresh_at, w->fresh_length, family, &w->fresh);
        }
    }
    return error;
}

/* A SYN would restart the window tracking of a flow that is still opening: let it not check windows from now on. */
int prime_loosen(nfk_primer *p)
{
    size_t last = 0;
    uint32_t last_sequence = 0;
    for (size_t i = 0; i < p->count; i++) {
        struct work *w = &p->works[i];
        const struct entry *entry = work_entry(w);
        if (w->gone || w->heavy || entry->original.protocol != NFK_TCP ||
            (entry->state > NFK_TCP_SYN_SENT && entry->state != NFK_TCP_SYN_SENT2))
            continue;
        last = p->out.length;
        last_sequence = (uint32_t)i * OPERATIONS + OP_UPDATE;
        message_update(&p->out, p->sequence + last_sequence, p->flows->family, entry, UPDATE_LIBERAL, 0);
    }
    return prime_exchange(p, last, last_sequence);
}

/* Whether flow `w` needs an update in this pass: a second or third time only those of which it was shown since that a
 * reset closed the entry, or that real packets had already set status bits that we know nothing of. */
static bool wants_update(const struct work *w, int pass)
{
    return !w->gone && (!pass || w->rejected || (pass == 1 && w->busy));
}

/* Whether it has to be read: where a reset may have closed it, and before another turn, as its entry has a new id. */
static bool wants_reading(const nfk_primer *p, const struct work *w, int pass)
{
    bool closed = p->resets && w->sent && w->flow->original.protocol == NFK_TCP;
    return !w->gone && pass < 2 && ((pass && w->late) || (closed && pass == (p->question.length ? 1 : 0)));
}

int prime_complete(nfk_primer *p, int pass)
{
    size_t last = 0;
    uint32_t last_sequence = 0;
    p->checking = true;
    if (!pass)
        p->resets = p->rejects && !p->question.length;
    if (!pass && p->rejects && p->question.length)
        ask(p);
    size_t asked = p->out.length;
    for (size_t i = 0; i < p->count; i++) {
        struct work *w = &p->works[i];
        uint32_t first = (uint32_t)i * OPERATIONS;
        if (wants_reading(p, w, pass)) {
            last = p->out.length;
            last_sequence = first + OP_GET;
            message_get(&p->out, p->sequence + last_sequence, p->flows->family, work_entry(w));
        }
        if (!wants_update(w, pass))
            continue;
        if (!pass && w->sent && p->recreate)
            prime_probe(p, i);
        last = p->out.length;
        last_sequence = first + OP_UPDATE;
        add_update(p, w, &p->out, p->sequence + last_sequence, !w->busy);
    }
    if (p->out.length == asked)
        p->out.length = 0;              /* the question alone can wait */
    int error = prime_exchange(p, last, last_sequence);
    p->checking = false;
    for (size_t i = 0; i < p->count; i++)
        p->works[i].busy = p->works[i].busy || p->works[i].errors[OP_UPDATE] == EBUSY;
    prime_hear_probes(p);
    return error;
}
