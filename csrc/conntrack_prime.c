/* Recreate and prime, a batch at a time: take entries down and build them anew in one send, let their opening packets
 * pass the rules, make the entries whole. begin and finish are the two halves; between them the caller may wait until
 * packets that the kernel queued have passed. What cannot go by the batch is settled one by one in conntrack_repair.c. */
#include "conntrack.h"
#include "conntrack_prime.h"
#include <signal.h>
#include <unistd.h>

enum { UPDATE_ROOM = 512 };             /* one status update is at most about 300 bytes */

nfk_primer *nfk_primer_open(nfk_flows *flows, int recreate, int rejects, size_t batch, const uint32_t nonces[5],
                            const nfk_tap *taps, size_t n_taps, int raw, int *error)
{
    nfk_primer *p = calloc(1, sizeof(*p));
    *error = -ENOMEM;
    if (!p)
        return NULL;
    p->flows = flows;
    p->recreate = recreate;
    p->rejects = rejects;
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
    buffer_free(&p->out);
    buffer_free(&p->fresh);
    free(p);
}

const nfk_primed *nfk_primer_result(const nfk_primer *p) { return &p->result; }
int nfk_primer_guardian(const nfk_primer *p) { return p->guardian ? guardian_pid(p->guardian) : 0; }

const struct entry *work_entry(const struct work *w) { return w->is_fresh ? &w->fresh : &w->dumped; }

/* Sorts an answer to its work by sequence number; the entry that a GET brought is copied for later. */
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
               message->nlmsg_len >= NLMSG_LENGTH(sizeof(struct nfgenmsg)) && p->checking) {
        struct entry now;
        w->rejected = entry_parse((const uint8_t *)message + NLMSG_LENGTH(sizeof(struct nfgenmsg)),
                                  message->nlmsg_len - NLMSG_LENGTH(sizeof(struct nfgenmsg)), p->flows->family, &now) &&
                      now.state == NFK_TCP_CLOSE && !entry_closed(work_entry(w));
    } else if (message->nlmsg_type == (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW) && at % OPERATIONS == OP_GET &&
               message->nlmsg_len >= NLMSG_LENGTH(sizeof(struct nfgenmsg))) {
        w->fresh_length = message->nlmsg_len - NLMSG_LENGTH(sizeof(struct nfgenmsg));
        w->fresh_at = p->fresh.length;
        uint8_t *copy = buffer_extend(&p->fresh, NLA_ALIGN(w->fresh_length));
        if (copy)
            memcpy(copy, (const uint8_t *)message + NLMSG_LENGTH(sizeof(struct nfgenmsg)), w->fresh_length);
        else
            w->fresh_length = 0;
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

static void load_batch(nfk_primer *p)
{
    p->count = 0;
    p->fresh.length = 0;
    for (; p->count < p->batch && p->position < p->flows->count; p->position++) {
        struct work *w = &p->works[p->count];
        *w = (struct work){.flow = &p->flows->flows[p->position]};
        if (!flow_entry(p->flows, w->flow, &w->dumped))
            continue;
        w->heavy = p->recreate && w->flow->status & (IPS_SEEN_REPLY | IPS_ASSURED);
        p->count++;
    }
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

/* One packet per direction is enough: on its way to the farthest hook it passes all the others. */
static int farthest_hook(unsigned hooks, bool from_here)
{
    static const int8_t order[2][NFK_HOOKS] = {
        {NFK_POSTROUTING, NFK_FORWARD, NFK_INPUT, NFK_PREROUTING, NFK_OUTPUT},
        {NFK_INPUT, NFK_PREROUTING, NFK_POSTROUTING, NFK_OUTPUT, NFK_FORWARD}};
    for (int i = 0; i < NFK_HOOKS; i++)
        if (hooks >> order[from_here][i] & 1)
            return order[from_here][i];
    return -1;
}

static void send_opening(nfk_primer *p, const struct work *w)
{
    const struct flow *flow = w->flow;
    uint8_t packet[128];
    uint32_t seen = 0;                  /* what the SYN/ACK must not acknowledge: 0 and the SYN just sent */
    bool sent = false;
    for (int d = 0; d < 2; d++) {
        const struct tuple *t = d ? &flow->reply : &flow->original;
        int32_t sender = d ? flow->reply_sender : flow->original_sender;
        int32_t other = d ? flow->original_sender : flow->reply_sender;
        int hook = farthest_hook(flow->passages >> (d * NFK_HOOKS), sender == NFK_LOCAL);
        uint32_t acknowledge = 0x6e666b70 + (seen == 0x6e666b70);
        const nfk_tap *tap = sender > 0 ? tap_of(p, sender) : NULL;
        int error;
        if (hook < 0 || sender == NFK_UNKNOWN || (d && !(work_entry(w)->status & IPS_SEEN_REPLY)))
            continue;
        size_t length = nfk_packet(packet, sizeof(packet), p->flows->family, t->protocol, t->source, t->destination,
                                   t->source_port, t->destination_port, d, p->nonces[hook], acknowledge);
        if (sender > 0 && !tap)
            error = ENODEV;
        else
            error = length ? packet_send(tap, p->raw, p->flows->family, packet, length, t, other) : EPROTONOSUPPORT;
        if (error) {
            p->result.send_error = error;
            continue;
        }
        seen = d ? seen : p->nonces[hook] + 1;
        p->result.packets[hook]++;
        sent = true;
    }
    if (sent)
        p->result.primed++;
    else
        p->result.unsent++;
}

int nfk_primer_begin(nfk_primer *p, int kill_self)
{
    int error;
    load_batch(p);
    if (!p->count)
        return 0;
    if ((error = prime_leave_word(p))) {
        p->count = 0;
        return error;
    }
    error = rebuild_batch(p);
    if (kill_self)
        kill(getpid(), SIGKILL);        /* for the guardian's test: the worst moment */
    if (!error)
        error = prime_leave_word(p);
    if (!error)
        error = prime_repair(p);
    if (!error)
        error = loosen_opening(p);
    for (size_t i = 0; i < p->count && !error; i++)
        if (!p->works[i].gone && !entry_closed(work_entry(&p->works[i])))
            send_opening(p, &p->works[i]);
    return error ? error : 1;           /* in either case finish makes whole what stands */
}

/* Whether flow `w` needs an update in this round. A second time only those of which the first has shown that a reset
 * closed the entry, or that real packets had already set status bits that we know nothing of. */
static bool wants_update(const struct work *w, int round)
{
    return !w->gone && (!round || w->rejected || w->errors[OP_UPDATE] == EBUSY);
}

int nfk_primer_finish(nfk_primer *p)
{
    int error = 0;
    for (int round = 0; round < 2 && !error; round++) {
        size_t last = 0;
        uint32_t last_sequence = 0;
        p->checking = !round && p->rejects;
        for (size_t i = 0; i < p->count; i++) {
            struct work *w = &p->works[i];
            bool with_status = !round || w->errors[OP_UPDATE] != EBUSY;
            if (!wants_update(w, round))
                continue;
            if (p->checking && w->flow->original.protocol == NFK_TCP)
                message_get(&p->out, p->sequence + (uint32_t)i * OPERATIONS + OP_GET, p->flows->family, work_entry(w));
            last = p->out.length;
            last_sequence = (uint32_t)i * OPERATIONS + OP_UPDATE;
            w->errors[OP_UPDATE] = 0;
            prime_update(p, w, &p->out, p->sequence + last_sequence, with_status);
        }
        error = prime_exchange(p, last, last_sequence);
        p->checking = false;
    }
    if (p->guardian && !error)
        guardian_take(p->guardian, NULL);
    p->count = 0;
    return error;
}
