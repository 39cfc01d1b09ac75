/* After the batch: flows that were gone, that a packet of their own recreated in between, that the kernel would not
 * create as they were, or that grew up since they were selected. Rare, so one exchange each. */
#include "conntrack_prime.h"

enum { TRIES = 12 };

/* The CREATE brought back an entry that was no longer there; left alone it would count for up to five days. */
static int bury(nfk_primer *p, size_t i)
{
    struct work *w = &p->works[i];
    uint32_t sequence = (uint32_t)i * OPERATIONS + OP_DELETE;
    w->gone = w->vanished = true;
    message_delete(&p->out, p->sequence + sequence, p->flows->family, &w->dumped, CTA_TUPLE_ORIG, false);
    return prime_exchange(p, 0, sequence);
}

/* Creates the entry whatever stands in its place, giving up what the kernel refuses rather than the flow. */
static int rebuild(nfk_primer *p, size_t i)
{
    struct work *w = &p->works[i];
    const struct entry *entry = work_entry(w);
    uint8_t family = p->flows->family;
    uint32_t first = (uint32_t)i * OPERATIONS;
    int error = 0;
    w->created_fresh = w->is_fresh;
    for (int try = 0; try < TRIES; try++) {
        if (w->errors[OP_CREATE] && w->errors[OP_CREATE] != EEXIST && w->level < CREATE_BARE)
            w->level++;
        /* A packet that slipped in may have been taken for the original direction of either tuple. */
        message_delete(&p->out, p->sequence + first + OP_DELETE, family, entry, CTA_TUPLE_ORIG, false);
        message_delete(&p->out, p->sequence + first + OP_DELETE, family, entry, CTA_TUPLE_REPLY, false);
        size_t last = p->out.length;
        message_create(&p->out, p->sequence + first + OP_CREATE, family, entry, w->level);
        w->errors[OP_CREATE] = 0;
        error = prime_exchange(p, last, first + OP_CREATE);
        if (error || !w->errors[OP_CREATE])
            break;
    }
    if (w->errors[OP_CREATE]) {
        w->gone = true;
        p->result.failed[(uint8_t)w->errors[OP_CREATE]]++;
    }
    return error;
}

static int repair_heavy(nfk_primer *p, size_t i)
{
    struct work *w = &p->works[i];
    int deleted = !w->errors[OP_DELETE], created = !w->errors[OP_CREATE];
    if (created && (!w->is_fresh || !deleted))
        return bury(p, i);
    if (!created && (w->is_fresh ? entry_closed(&w->fresh) : !deleted)) {
        w->gone = w->vanished = true;   /* it was over, and what has its place now passed the rules by itself */
        return 0;
    }
    w->vanished = entry_closed(work_entry(w));
    return created ? 0 : rebuild(p, i);
}

int prime_repair(nfk_primer *p)
{
    bool grown = false;
    int error = 0;
    for (size_t i = 0; i < p->count; i++) {
        struct work *w = &p->works[i];
        if (w->heavy)
            continue;
        w->gone = !w->is_fresh;
        w->vanished = w->gone || entry_closed(&w->fresh);
        if (w->is_fresh && p->recreate && w->fresh.status & (IPS_SEEN_REPLY | IPS_ASSURED) && !entry_closed(&w->fresh)) {
            w->heavy = grown = true;
            w->errors[OP_CREATE] = EEXIST;
            w->errors[OP_DELETE] = 0;
        }
    }
    if (grown)
        error = prime_leave_word(p);
    for (size_t i = 0; i < p->count && !error; i++) {
        struct work *w = &p->works[i];
        if (w->heavy)
            error = repair_heavy(p, i);
        if (w->again)
            continue;
        p->result.recreated += w->heavy && !w->gone;
        p->result.vanished += w->vanished;
    }
    return error;
}
