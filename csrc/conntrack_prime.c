/* Recreate and prime, a batch at a time: take entries down and build them anew in one send, let their opening packets
 * pass the rules, make the entries whole. Between these steps the caller may wait until packets that the kernel queued
 * have passed. What cannot go by the batch is settled one by one in conntrack_repair.c.
 *
 * Real packets of a flow come at any time. Between CREATE and the opening packet a reply sets SEEN_REPLY, and an ACK
 * after it ASSURED: then the opening packet is not ctstate NEW any more, or is skipped by nf_conncount, and the flow is
 * not counted. So each entry is read again after its opening packet has passed: these bits are never taken back but by
 * us, so if it has none of them now, it had none then, and was counted. If it has one, nobody knows whether that came
 * before or after, and the flow has its turn again, in a smaller batch, whose window is shorter. To be counted twice
 * does no harm, as the kernel knows the flow by its tuple.
 *
 * The proof needs the packet to have passed before the entry is read. What enters by a TAP has, when write returns,
 * unless the interface hands its packets to other CPUs; nothing has on the loopback. There the caller waits first, and
 * then a bit set while it waits is taken for one that came too early, which costs a turn and nothing else. */
#include "conntrack.h"
#include "conntrack_prime.h"
#include <time.h>

enum { UPDATE_ROOM = 512 };             /* one status update is at most about 300 bytes */
enum { AGAIN_BATCH = 8 };               /* flows at once in the first round of second turns; then ever fewer */
enum { AGAIN_SECONDS = 1 };             /* for all second turns together, as new connections are held off meanwhile */

nfk_primer *nfk_primer_open(nfk_flows *flows, int recreate, int rejects, int rounds, size_t batch,
                            const uint32_t nonces[5], const nfk_tap *taps, size_t n_taps, int raw, int *error)
{
    nfk_primer *p = calloc(1, sizeof(*p));
    *error = -ENOMEM;
    if (!p)
        return NULL;
    p->flows = flows;
    p->recreate = recreate;
    p->rejects = rejects;
    p->rounds = rounds;
    p->batch = batch < 1 ? 1 : batch > NFK_MAX_BATCH ? NFK_MAX_BATCH : batch;
    p->raw = raw;
    p->sequence = 1;
    memcpy(p->nonces, nonces, sizeof(p->nonces));
    p->works = calloc(p->batch, sizeof(*p->works));
    p->taps = calloc(n_taps + 1, sizeof(*p->taps));
    if (!p->works || !p->taps)
        goto failed;
    memcpy(p->taps, taps, n_taps * sizeof(*taps));
    p->n_taps = n_taps;
    if (recreate && flows->count) {
        p->guardian = guardian_start(p->batch * UPDATE_ROOM, error);
        if (!p->guardian)
            goto failed;
    }
    *error = 0;
    return p;
failed:
    nfk_primer_close(p);
    return NULL;
}

void nfk_primer_close(nfk_primer *p)
{
    if (!p)
        return;
    guardian_stop(p->guardian);
    free(p->works);
    free(p->taps);
    free(p->again);
    buffer_free(&p->out);
    buffer_free(&p->fresh);
    free(p);
}

const nfk_primed *nfk_primer_result(const nfk_primer *p) { return &p->result; }
int nfk_primer_guardian(const nfk_primer *p) { return p->guardian ? guardian_pid(p->guardian) : 0; }

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
    /* our own packet in the direction of replies sets SEEN_REPLY; it wants to be counted before ASSURED, too */
    uint32_t too_early = w->replied ? IPS_ASSURED : IPS_SEEN_REPLY | IPS_ASSURED;
    if (p->recreate && w->sent && now.status & too_early)
        w->late = true;
    if (p->rejects && now.state == NFK_TCP_CLOSE && !entry_closed(work_entry(w)))
        w->rejected = true;
    if (now.attributes[CTA_ID].length == sizeof(w->id))
        memcpy(w->id, now.attributes[CTA_ID].data, sizeof(w->id));
}

/* Sorts an answer to its work by sequence number. */
int prime_answer(void *context, const struct nlmsghdr *message)
{
    nfk_primer *p = context;
    uint32_t at = message->nlmsg_seq - p->sequence;
    struct work *w = at / OPERATIONS < p->count ? &p->works[at / OPERATIONS] : NULL;
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
                                 prime_answer, p);
    }
    p->out.length = 0;
    p->out.failed = false;
    p->sequence += (uint32_t)p->batch * OPERATIONS;
    return error;
}

/* What makes a flow whole after its packet has passed. */
void prime_update(nfk_primer *p, struct work *w, struct buffer *out, uint32_t sequence, bool with_status)
{
    static const uint8_t zeros[64];
    struct entry entry = *work_entry(w);
    unsigned what = UPDATE_MARKS;
    uint32_t bits = entry.status & (IPS_SEEN_REPLY | IPS_ASSURED | IPS_FIXED_TIMEOUT), status = IPS_CONFIRMED | bits;
    struct attribute labels = w->dumped.attributes[CTA_LABELS];
    if (!entry.attributes[CTA_LABELS].data && labels.data && labels.length <= sizeof(zeros))
        entry.attributes[CTA_LABELS] = (struct attribute){zeros, labels.length};
    if (w->heavy) {
        what |= UPDATE_TIMEOUT | (bits && with_status ? UPDATE_STATUS : 0);
        if (w->level == CREATE_ALL && entry.attributes[CTA_TUPLE_MASTER].data)
            status |= IPS_EXPECTED;     /* may not be changed, so it has to be named */
        if (w->rejected || (!w->created_fresh && (entry.state != w->dumped.state || entry.state == NFK_TCP_NONE)))
            what |= UPDATE_STATE;
    } else if (w->rejected) {
        what |= UPDATE_STATE | UPDATE_TIMEOUT;
    } else if (entry.original.protocol != NFK_TCP && !(entry.status & IPS_FIXED_TIMEOUT)) {
        what |= UPDATE_TIMEOUT;         /* a SYN again does not renew the timeout of a TCP flow, a datagram does */
    }
    message_update(out, sequence, p->flows->family, &entry, what, status);
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
            prime_update(p, &p->works[i], &words, 0, true);
    error = guardian_take(p->guardian, &words);
    buffer_free(&words);
    return error;
}

static void load_flow(nfk_primer *p, const struct flow *flow, const uint8_t *id)
{
    struct work *w = &p->works[p->count];
    *w = (struct work){.flow = flow, .again = id != NULL};
    if (!flow_entry(p->flows, flow, &w->dumped))
        return;
    if (id && w->dumped.attributes[CTA_ID].data) {
        memcpy(w->id, id, sizeof(w->id));
        w->dumped.attributes[CTA_ID] = (struct attribute){w->id, sizeof(w->id)};
    }
    w->heavy = p->recreate && flow->status & (IPS_SEEN_REPLY | IPS_ASSURED);
    p->count++;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* First all flows in turn, then those that want another turn, round by round. */
static void load_batch(nfk_primer *p)
{
    p->count = 0;
    p->fresh.length = 0;
    for (; p->count < p->batch && p->position < p->flows->count; p->position++)
        load_flow(p, &p->flows->flows[p->position], NULL);
    if (p->count)
        return;
    if (!p->round)
        p->again_until = now_ns() + (int64_t)AGAIN_SECONDS * 1000000000;
    else if (now_ns() > p->again_until)
        return;
    if (p->again_at == p->again_count && p->round < p->rounds) {
        p->again_count = p->again_kept;
        p->again_at = p->again_kept = 0;
        p->round++;
    }
    size_t most = p->round < 1 ? 0 : p->round > 3 ? 1 : AGAIN_BATCH >> (p->round - 1);
    for (; p->count < most && p->count < p->batch && p->again_at < p->again_count; p->again_at++)
        load_flow(p, p->again[p->again_at].flow, p->again[p->again_at].id);
}

/* Notes the flows of this batch that want another turn. In later rounds there is always room: they were noted before. */
static int keep_late(nfk_primer *p)
{
    for (size_t i = 0; i < p->count; i++) {
        const struct work *w = &p->works[i];
        if (!w->late || w->gone)
            continue;
        if (p->again_kept == p->again_room) {
            size_t room = p->again_room ? p->again_room * 2 : p->batch;
            struct again *bigger = realloc(p->again, room * sizeof(*bigger));
            if (!bigger)
                return -ENOMEM;
            p->again = bigger;
            p->again_room = room;
        }
        struct again *again = &p->again[p->again_kept++];
        again->flow = w->flow;
        memcpy(again->id, w->id, sizeof(again->id));
    }
    return 0;
}

static int rebuild_batch(nfk_primer *p)
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
        w->is_fresh = w->fresh_length &&
                      entry_parse(p->fresh.data + w->fresh_at, w->fresh_length, family, &w->fresh);
    }
    return error;
}

/* A SYN would restart the window tracking of a flow that is still opening: let it not check windows from now on. */
static int loosen_opening(nfk_primer *p)
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

static const nfk_tap *tap_of(const nfk_primer *p, int32_t ifindex)
{
    for (size_t i = 0; i < p->n_taps; i++)
        if (p->taps[i].ifindex == ifindex)
            return &p->taps[i];
    return NULL;
}

/* The packet of one direction, if rules count it. */
static void send_packet(nfk_primer *p, struct work *w, int d)
{
    const struct flow *flow = w->flow;
    const struct tuple *t = d ? &flow->reply : &flow->original;
    int32_t sender = d ? flow->reply_sender : flow->original_sender;
    int32_t other = d ? flow->original_sender : flow->reply_sender;
    int hook = farthest_hook(flow->passages >> (d * NFK_HOOKS), sender == NFK_LOCAL);
    const nfk_tap *tap = sender > 0 ? tap_of(p, sender) : NULL;
    uint8_t packet[128];
    int error;
    if (hook < 0 || sender == NFK_UNKNOWN)
        return;
    /* A SYN/ACK must not acknowledge 0 or the SYN just sent. */
    int opening = farthest_hook(flow->passages, flow->original_sender == NFK_LOCAL);
    uint32_t acknowledge = 0x6e666b70;
    acknowledge += opening >= 0 && p->nonces[opening] + 1 == acknowledge;
    size_t length = nfk_packet(packet, sizeof(packet), p->flows->family, t->protocol, t->source, t->destination,
                               t->source_port, t->destination_port, d, p->nonces[hook], acknowledge);
    if (sender > 0 && !tap)
        error = ENODEV;
    else
        error = length ? packet_send(tap, p->raw, p->flows->family, packet, length, t, other) : EPROTONOSUPPORT;
    if (error) {
        p->result.send_error = error;
        return;
    }
    p->result.packets[hook]++;
    w->sent = true;
    w->replied = w->replied || d;
}

static bool may_send(const struct work *w) { return !w->gone && !entry_closed(work_entry(w)); }

static bool may_reply(const struct work *w)
{
    return may_send(w) && w->flow->passages >> NFK_HOOKS && work_entry(w)->status & IPS_SEEN_REPLY;
}

int nfk_primer_begin(nfk_primer *p, void (*between)(void))
{
    int error;
    load_batch(p);
    if (!p->count) {
        p->result.uncertain = p->again_kept + (p->again_count - p->again_at);
        return 0;
    }
    if ((error = prime_leave_word(p))) {
        p->count = 0;
        return error;
    }
    error = rebuild_batch(p);
    if (between)
        between();
    if (!error)
        error = prime_leave_word(p);
    if (!error)
        error = prime_repair(p);
    if (!error)
        error = loosen_opening(p);
    for (size_t i = 0; i < p->count && !error; i++)
        if (may_send(&p->works[i]))
            send_packet(p, &p->works[i], 0);
    return error ? error : 1;           /* in either case finish makes whole what stands */
}

int nfk_primer_reply(nfk_primer *p)
{
    size_t last = 0;
    uint32_t last_sequence = 0;
    for (size_t i = 0; i < p->count; i++) {
        struct work *w = &p->works[i];
        if (!may_reply(w) || !p->recreate || !w->sent)
            continue;
        last = p->out.length;
        last_sequence = (uint32_t)i * OPERATIONS + OP_GET;
        message_get(&p->out, p->sequence + last_sequence, p->flows->family, work_entry(w));
    }
    p->checking = true;
    int error = prime_exchange(p, last, last_sequence), sent = 0;
    p->checking = false;
    for (size_t i = 0; i < p->count && !error; i++)
        if (may_reply(&p->works[i])) {
            send_packet(p, &p->works[i], 1);
            sent = 1;
        }
    return error ? error : sent;
}

/* Whether flow `w` needs an update in this pass. A second time only those of which the first has shown that a reset
 * closed the entry, or that real packets had already set status bits that we know nothing of. */
static bool wants_update(const struct work *w, int pass)
{
    return !w->gone && (!pass || w->rejected || w->errors[OP_UPDATE] == EBUSY);
}

static int update_batch(nfk_primer *p, int pass)
{
    size_t last = 0;
    uint32_t last_sequence = 0;
    p->checking = true;
    for (size_t i = 0; i < p->count; i++) {
        struct work *w = &p->works[i];
        bool with_status = !pass || w->errors[OP_UPDATE] != EBUSY;
        uint32_t first = (uint32_t)i * OPERATIONS;
        if (!wants_update(w, pass))
            continue;
        if (!pass && w->sent && (p->recreate || (p->rejects && w->flow->original.protocol == NFK_TCP)))
            message_get(&p->out, p->sequence + first + OP_GET, p->flows->family, work_entry(w));
        last = p->out.length;
        last_sequence = first + OP_UPDATE;
        w->errors[OP_UPDATE] = 0;
        prime_update(p, w, &p->out, p->sequence + last_sequence, with_status);
    }
    int error = prime_exchange(p, last, last_sequence);
    p->checking = false;
    return error;
}

static void report_batch(nfk_primer *p)
{
    for (size_t i = 0; i < p->count; i++) {
        struct work *w = &p->works[i];
        if (!may_send(w))
            continue;
        if (w->again)
            w->late = w->late || !w->sent;
        else if (w->sent)
            p->result.primed++;
        else
            p->result.unsent++;
    }
}

int nfk_primer_finish(nfk_primer *p)
{
    int error = 0;
    for (int pass = 0; pass < 2 && !error; pass++)
        error = update_batch(p, pass);
    if (p->guardian && !error)
        guardian_take(p->guardian, NULL);
    report_batch(p);
    if (!error)
        error = keep_late(p);
    p->count = 0;
    return error;
}

int nfk_primer_batch(nfk_primer *p, void (*between)(void))
{
    int begun = nfk_primer_begin(p, between);
    int replied = begun > 0 ? nfk_primer_reply(p) : 0;
    int finished = nfk_primer_finish(p);
    return begun < 0 ? begun : replied < 0 ? replied : finished < 0 ? finished : begun;
}
