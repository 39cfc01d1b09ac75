/* Recreate and prime, a batch at a time: take entries down and build them anew in one send, let their opening packets
 * pass the rules, make the entries whole. Between these steps the caller may wait until packets that the kernel queued
 * have passed. What cannot go by the batch is settled one by one in conntrack_repair.c.
 *
 * Real packets of a flow come at any time. Between CREATE and the opening packet a reply sets SEEN_REPLY, and an ACK
 * after it ASSURED: then the opening packet is not ctstate NEW any more, or is skipped by nf_conncount, and the flow is
 * not counted. So each entry is probed after its opening packet has passed: these bits are never taken back but by us,
 * so if it has none of them now, it had none then, and was counted. If it has one, nobody knows whether that came
 * before or after, and the flow has its turn again, in a smaller batch, whose window is shorter. The kernel knows a flow
 * that it has counted by its tuple, but looks only once in a tick for each key (last_gc in nf_conncount.c): a flow whose
 * first packet was counted after all may be in the list twice until it ends. So a second turn errs to the strict side.
 *
 * The proof needs the packet to have passed before the entry is probed. What enters by a TAP has, when write returns,
 * unless the interface hands its packets to other CPUs; nothing has on the loopback. There the caller waits first, and
 * then a bit set while it waits is taken for one that came too early, which costs a turn and nothing else. */
#include "conntrack.h"
#include "conntrack_prime.h"
#include <time.h>

enum { UPDATE_ROOM = 512 };             /* one status update is at most about 300 bytes */
enum { AGAIN_BATCH = 8 };               /* flows at once in the first round of second turns; then ever fewer */
enum { AGAIN_SECONDS = 1 };             /* for all second turns together, as new connections are held off meanwhile */

nfk_primer *nfk_primer_open(nfk_flows *flows, int recreate, int rejects, int rounds, size_t batch,
                            const uint32_t nonces[5], const nfk_tap *taps, size_t n_taps, int raw,
                            const void *question, size_t length, int *error)
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
    if (length) {
        uint8_t *copy = buffer_extend(&p->question, length);
        if (!copy)
            goto failed;
        memcpy(copy, question, length);
    }
    if (flows->count && (*error = prime_ask(p)))
        goto failed;
    if (recreate && flows->count) {
        p->guardian = guardian_start(p->batch * UPDATE_ROOM, flows->ctnetlink.fd, error);
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
    buffer_free(&p->question);
    buffer_free(&p->told);
    free(p);
}

const nfk_primed *nfk_primer_result(const nfk_primer *p) { return &p->result; }
int nfk_primer_guardian(const nfk_primer *p) { return p->guardian ? guardian_pid(p->guardian) : 0; }

static void load_flow(nfk_primer *p, struct flow *flow, const uint8_t *id)
{
    struct work *w = &p->works[p->count];
    *w = (struct work){.flow = flow, .again = id != NULL};
    if (flow->left_out || !flow_entry(p->flows, flow, &w->dumped))
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
    struct flow *flow = w->flow;
    const struct tuple *t = d ? &flow->reply : &flow->original;
    int32_t sender = d ? flow->reply_sender : flow->original_sender;
    int32_t other = d ? flow->original_sender : flow->reply_sender;
    int hook = farthest_hook(flow->passages >> (d * NFK_HOOKS), sender == NFK_LOCAL);
    const nfk_tap *tap = sender > 0 ? tap_of(p, sender) : NULL;
    uint8_t frame[128], *packet = frame + NFK_FRAME_HEAD;
    int error;
    if (hook < 0 || sender == NFK_UNKNOWN)
        return;
    /* A SYN/ACK must not acknowledge 0 or the SYN just sent. */
    int opening = farthest_hook(flow->passages, flow->original_sender == NFK_LOCAL);
    uint32_t acknowledge = 0x6e666b70;
    acknowledge += opening >= 0 && p->nonces[opening] + 1 == acknowledge;
    size_t length = nfk_packet(packet, sizeof(frame) - NFK_FRAME_HEAD, p->flows->family, t->protocol, t->source,
                               t->destination, t->source_port, t->destination_port, d, p->nonces[hook], acknowledge);
    if (sender > 0 && !tap)
        error = ENODEV;
    else
        error = length ? packet_send(tap, p->raw, p->flows->family, packet, length, t, other) : EPROTONOSUPPORT;
    if (error) {
        p->result.send_error = error;
        return;
    }
    p->result.packets[hook]++;
    flow->sent[d]++;
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
    error = prime_rebuild(p);
    if (between)
        between();
    if (!error && !prime_unchanged(p))
        error = prime_leave_word(p);
    if (!error)
        error = prime_repair(p);
    if (!error)
        error = prime_loosen(p);
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
        last_sequence = (uint32_t)i * OPERATIONS + OP_PROBE;
        prime_probe(p, i);
    }
    int error = prime_exchange(p, last, last_sequence), sent = 0;
    prime_hear_probes(p);
    for (size_t i = 0; i < p->count && !error; i++)
        if (may_reply(&p->works[i])) {
            send_packet(p, &p->works[i], 1);
            sent = 1;
        }
    return error ? error : sent;
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
    for (int pass = 0; pass < 3 && !error; pass++)
        error = prime_complete(p, pass);
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
