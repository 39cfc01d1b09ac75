/* The inside of the walker: images of tables made ready, a packet on its way, and what is known of extensions. */
#ifndef NFK_XTABLES_WALK_H
#define NFK_XTABLES_WALK_H

#include "xtables_world.h"

enum answer { NO, YES, MAYBE };

/* What of the packet's conntrack entry a table sees. */
enum tracking { CT_NOT_YET, CT_TEMPLATE, CT_UNTRACKED, CT_TRACKED };

/* Which parts of a packet the rules behind it have made unknown. */
enum { UNKNOWN_MARK = 1, UNKNOWN_CT_MARK = 2, UNKNOWN_TOS = 4, UNKNOWN_TCP_FLAGS = 8, UNKNOWN_OUT = 16,
       UNKNOWN_STATE = 32, UNKNOWN_MSS = 64 };

/* What rules can change of a packet. Compared and hashed as bytes: always begun by memset. */
struct packet {
    uint32_t mark, ct_mark;
    uint16_t length, mss; /* mss 0: no such option */
    uint8_t ttl, tos, tcp_flags, tracking, unknown, forwarded;
};

/* A table's turn on the way. */
struct stage {
    uint16_t table;
    uint8_t hook;
    uint8_t tracked;         /* behind conntrack */
    uint8_t new_destination; /* behind the destination's translation */
    uint8_t new_source;
    uint8_t forwarded; /* behind the routing that takes one from the TTL */
    uint8_t by_lo;     /* a packet of this host to itself has come back in */
};

/* The packet at a stage. */
struct view {
    const struct nfk_probe *probe;
    struct packet *packet;
    const struct stage *stage;
    const uint8_t *source, *destination; /* 16 bytes, zero behind those of IPv4 */
    const uint8_t *in_name, *out_name;   /* 16 bytes; NULL: not known */
    uint16_t source_port, destination_port;
    uint8_t source_type, destination_type;
};

enum harm {
    HARMLESS,
    HARMFUL,
    HARMFUL_ELSEWHERE, /* than in the watched table, whose state is new anyway */
    COUNTS_FLOWS,      /* those that are to be counted: what it answers depends on the packets before */
};

/* A match by name and revision. Without `evaluate` nobody can tell its answer. */
struct match_kind {
    const char *name;
    int revision; /* -1: any */
    size_t size;  /* of its data, at least */
    enum answer (*evaluate)(const struct view *view, const void *data);
    enum harm harm;
    bool (*harms)(const void *data); /* NULL: always, if `harm` says so */
};

enum after { GO_ON, END_DROPPED, END_UNKNOWN };

struct target_kind {
    const char *name;
    int revision;
    size_t size;
    void (*change)(struct view *view, const void *data); /* NULL: nothing that a rule could see */
    enum after after;
    enum harm harm;
};

static inline enum answer answer_of(bool yes) { return yes ? YES : NO; }

static inline enum answer inverted(enum answer answer, bool invert)
{
    return answer == MAYBE || !invert ? answer : answer == YES ? NO : YES;
}

static inline enum answer both(enum answer left, enum answer right)
{
    return left == NO || right == NO ? NO : left == YES && right == YES ? YES : MAYBE;
}

static inline enum answer marked(uint32_t mark, bool unknown, uint32_t wanted, uint32_t mask, bool invert)
{
    if (unknown && mask)
        return MAYBE;
    return answer_of(((mark & mask) == wanted) != invert);
}

/* xtables_walk_conntrack.c */
enum answer walk_connmark(const struct view *view, const void *data);
enum answer walk_conntrack_v1(const struct view *view, const void *data);
enum answer walk_conntrack_v2(const struct view *view, const void *data);
enum answer walk_conntrack_v3(const struct view *view, const void *data);
enum answer walk_state(const struct view *view, const void *data);

/* The last of each: what holds for an extension that is not in the tables. */
const struct match_kind *match_kind_of(const char *name, int revision, size_t size);
const struct target_kind *target_kind_of(const char *name, int revision, size_t size);

struct walk_match {
    const struct match_kind *kind;
    const struct xt_entry_match *match; /* in the table's image */
};

enum verdict { VERDICT_ACCEPT, VERDICT_DROP, VERDICT_QUEUE, VERDICT_RETURN, VERDICT_JUMP, VERDICT_GOTO, VERDICT_TARGET };

struct walk_rule {
    uint32_t at;    /* its entry's offset in the image */
    uint32_t match; /* its first one among the table's; the next rule's first one ends them */
    uint32_t to;    /* of a jump: the rule */
    uint8_t verdict;
    uint8_t told; /* the answer for what nobody can tell beforehand; MAYBE: not told */
    const struct target_kind *target;
};

/* What most rules fail on, close together: IPv4 source and destination, or the source of IPv6. The packet's bits under
 * `mask` are those of `want`; where an address is inverted there is no mask. */
struct walk_key { uint64_t mask, want; };

struct walk_table {
    char name[XT_TABLE_MAXNAMELEN];
    int family;
    int priority;
    bool watched;
    unsigned int hooks; /* bits */
    unsigned char *image;
    size_t size;
    struct walk_rule *rules; /* and one more, which is no rule but ends the last one's matches */
    size_t n_rules;
    struct walk_key *keys; /* for each rule one, or two for IPv6; and as many that fit any packet */
    struct walk_match *matches;
    size_t n_matches;
    uint32_t start[NF_INET_NUMHOOKS], underflow[NF_INET_NUMHOOKS];
    uint32_t deepest; /* as xt_table_info.stacksize */
    uint64_t *packets, *bytes, *doubts, *possible;
};

/* 0 or an errno: EINVAL for an image that no kernel would have, ELOOP for one that would never end. */
int walk_table_make(struct walk_table *table, const void *image, size_t size, unsigned int hooks,
                    const uint32_t *start, const uint32_t *underflow);
void walk_table_free(struct walk_table *table);

static inline const struct xt_entry_target *walk_target(const struct walk_table *table, const struct walk_rule *rule)
{
    return nfk_target(table->family, table->image + rule->at);
}

enum { WALK_MOST_TABLES = 8, WALK_MOST_STAGES = 4 * WALK_MOST_TABLES, WALK_MOST_WAYS = 2048, WALK_SEEN_ROOM = 4096 };

struct path {
    struct stage stages[WALK_MOST_STAGES];
    unsigned int count;
    bool exists;
};

/* The other way at a doubt, where the rule matches. */
struct fork {
    struct packet packet;
    uint32_t rule, depth;
    unsigned int stage;
};

struct seen { uint64_t hash; uint64_t turn; };

/* Whether flows are counted by key at limits on connections, and whether that is done. */
enum tallying { NO_TALLY, TALLYING, TALLIED };

struct nfk_walk {
    int family;
    struct walk_table tables[WALK_MOST_TABLES];
    size_t n_tables;
    struct path paths[2][NF_INET_NUMHOOKS]; /* by from_here and sunk_at */
    uint32_t *stack;
    struct fork *forks;
    size_t n_forks;
    uint32_t *stacks; /* of the forks, one behind the other */
    size_t stacks_length, stacks_room;
    struct seen *seen;
    size_t n_seen;
    uint64_t turn;
    enum tallying tallying;
    struct tally *tallies;
    size_t n_tallies, tallies_room;
    bool tally_failed;
    bool all_arrive;
};

/* A packet on its way. */
struct run {
    struct nfk_walk *walk;
    const struct nfk_probe *probe;
    const struct path *path;
    struct packet packet;
    struct view view;
    uint32_t address4[2];
    uint64_t keys[2];
    uint32_t rule, depth;
    unsigned int stage;
    uint32_t times; /* how often it is counted */
    uint32_t number; /* of the probe, from 1 */
    bool doubtful;  /* there was a doubt: what it meets it may meet */
    size_t steps;
    struct nfk_walked *out;
};

enum end { AT_SINK, DROPPED, LEFT, IN_DOUBT, TOO_LONG, NO_MEMORY };

/* The connection marks in which ways end, as far as they agree. */
struct left_mark { uint32_t mark; bool any, unknown; };

/* xtables_walk_flows.c */
enum answer walk_connlimit(struct run *run, const struct walk_table *table, const struct xt_entry_match *match);
void walk_forget_tally(struct nfk_walk *walk);

/* xtables_walk_step.c. begin_stage: IN_DOUBT if it is no end. go_on: from the rule where the run stands to an end or a
 * doubt; `matched`: this first rule is known to match. */
bool walk_look_again(struct run *run);
enum end walk_begin_stage(struct run *run);
enum end walk_go_on(struct run *run, bool matched);
void walk_note_hazard(struct run *run, const char *name, bool surely);

/* xtables_walk_ways.c: every way that a run can take from its first doubt on. */
enum end walk_all_ways(struct run *run, struct left_mark *left);
void walk_note_end(struct left_mark *left, const struct run *run);

#endif
