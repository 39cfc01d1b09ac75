/* One batch at work; shared by conntrack_prime.c, conntrack_exchange.c and conntrack_repair.c. */
#ifndef NFK_CONNTRACK_PRIME_H
#define NFK_CONNTRACK_PRIME_H
#include "conntrack.h"

enum { OP_GET, OP_DELETE, OP_CREATE, OP_PROBE, OP_UPDATE, OPERATIONS };

/* A flow that may not have been counted: its turn comes again, by the id that its entry has now. */
struct again { struct flow *flow; uint8_t id[4]; };

struct work {
    struct flow *flow;
    uint8_t id[4];                      /* of its entry, as far as `again` or the check knows */
    struct entry dumped, fresh;         /* as selected; as it was just before it was taken down */
    size_t fresh_at, fresh_length;      /* of the answer, in nfk_primer.fresh */
    int errors[OPERATIONS];             /* errno of each request */
    int level;                          /* CREATE_*: how much of it could be rebuilt */
    bool heavy;                         /* is deleted and created, not only sent through the rules again */
    bool is_fresh, created_fresh;       /* `fresh` is valid; the entry was created from it */
    bool rejected;                      /* a REJECT of its packet closed the live entry */
    bool gone;                          /* no entry of ours stands: no packet, no update */
    bool vanished;                      /* it was over when its turn came */
    bool again;                         /* it had its turn before, and was reported then */
    bool sent, replied;                 /* a packet was sent; also one in the direction of replies */
    bool busy;                          /* its status is more than we know, and may not be told anew */
    bool late;                          /* real packets may have come before ours: it may not be counted */
};

struct nfk_primer {
    nfk_flows *flows;
    struct work *works;
    size_t batch, count, position;
    nfk_tap *taps; size_t n_taps;
    int raw, recreate, rejects;
    struct again *again; size_t again_at, again_count, again_kept, again_room;
    int round, rounds;                  /* 0: each flow's first turn */
    int64_t again_until;                /* then no more second turns; ns, CLOCK_MONOTONIC */
    bool checking;                      /* answers to GET tell what the packets did */
    struct buffer question, told;       /* what to ask about resets, and the last answer; question empty: nothing */
    bool resets;                        /* rules may have answered packets of this batch by resets: read the entries */
    uint32_t nonces[NFK_HOOKS], sequence;
    struct buffer out, fresh;
    struct guardian *guardian;
    nfk_primed result;
};

const struct entry *work_entry(const struct work *w);
int prime_exchange(nfk_primer *p, size_t last, uint32_t last_sequence);
int prime_leave_word(nfk_primer *p);
bool prime_unchanged(const nfk_primer *p);      /* whether all entries were as selected: that word holds good */
int prime_rebuild(nfk_primer *p);               /* reads all entries; takes the heavy ones down and builds them anew */
int prime_repair(nfk_primer *p);
int prime_loosen(nfk_primer *p);
int prime_ask(nfk_primer *p);
void prime_probe(nfk_primer *p, size_t i);      /* appends the request that tells whether real packets came first */
void prime_hear_probes(nfk_primer *p);          /* sets `late` */
int prime_complete(nfk_primer *p, int pass);    /* makes the entries whole; passes 1, 2: what the one before left */
#endif
