/*
 * What Python sees of the legacy (xtables) world, for both families; the CFFI definition is made from this very file.
 * Functions that return int give 0 or a positive errno, unless said otherwise.
 *
 * A rule in this project's own form is the kernel's entry (struct ipt_entry or ip6t_entry, matches, target) with
 * counters, nfcache, comefrom and kernel-private bytes zero.  A verdict or a jump stands as its name in the header of
 * a standard target; a jump to a chain has the revision NFK_JUMP (255), so that a chain named like an extension stays
 * a chain.
 */
typedef struct nfk_table nfk_table;

/* A rule that a scan found: the chain's index in table order, the rule's position from 1. */
struct nfk_hit {
    uint32_t chain;
    uint32_t position;
    const void *rule; /* owned by the table, valid until it changes or closes */
    size_t size;
};

/* A table's bytes as the kernel has them, and where its base chains begin and end; -1 for a hook without one. */
struct nfk_layout {
    const unsigned char *entries;
    uint32_t size, number, valid_hooks, hook_entry[5], underflow[5];
};

/* What came of a text function: `failed` and the reason, or the entry, or the text. */
struct nfk_text {
    int failed;
    unsigned char *entry;
    size_t entry_length;
    char *text;
    size_t text_length;
    char reason[1024];
};

/* Rule text. None of these is thread-safe: libxtables and getopt keep process-wide state. */
void nfk_rule_parse(int family, int argc, char **argv, struct nfk_text *out);
void nfk_rule_format(int family, const void *entry, size_t length, struct nfk_text *out);
/* Fails, in libxtables' words, if no extension `name` can be loaded as a target. */
void nfk_target_known(int family, const char *name, struct nfk_text *out);
void nfk_text_free(struct nfk_text *out);

/* A table taken apart, with the kernel's bytes of that moment kept beside it; NULL with errno set. */
nfk_table *nfk_table_open(int family, const char *name);
void nfk_table_close(nfk_table *table);
/* 1: the kernel's table is, but for counters, as it was when opened; 0: it is not; negative: -errno. */
int nfk_table_unchanged(nfk_table *table);
/* The bytes that a commit would write now, counters at zero; they belong to the table. */
int nfk_table_planned(nfk_table *table, struct nfk_layout *layout);
/* Writes the table, once. Negative: -errno, but the new rules are live. */
int nfk_table_commit(nfk_table *table);
/* After a commit: the table as it was when opened, counters going on. */
int nfk_table_revert(nfk_table *table);
/* The bytes of the moment of opening; they belong to the table. */
void nfk_table_layout(nfk_table *table, struct nfk_layout *layout);
/* Puts earlier bytes in the place of everything; EINVAL if they are no table of this kind. */
int nfk_table_load(nfk_table *table, const struct nfk_layout *layout);
/* Whether the kernel's bytes of the moment of opening are these, but for counters; -errno. */
int nfk_table_is(nfk_table *table, const struct nfk_layout *layout);
/* Adds what rules had counted then, and lack now, to those that are there still: how many; -errno. */
int64_t nfk_table_recount(nfk_table *table, const struct nfk_layout *before);
/* Adds, modulo 2^64, to the counters of the entries that the kernel has now; EINVAL if it has another number. */
int nfk_table_count(nfk_table *table, const uint64_t *packets, const uint64_t *bytes, uint32_t number);

/* Chains in table order: base chains by hook, then user chains. NULL behind the last one. */
const char *nfk_chain_name(nfk_table *table, size_t index);
int nfk_chain_exists(nfk_table *table, const char *chain);
/* NULL for a user chain. */
const char *nfk_chain_policy(nfk_table *table, const char *chain, uint64_t *packets, uint64_t *bytes);

/* The table as iptables-save prints it, with counters and without remarks. Not thread-safe, as all rule text. */
void nfk_table_format(nfk_table *table, struct nfk_text *out);

/* How many rules a chain has; -1 without such a chain. */
int64_t nfk_chain_rules(nfk_table *table, const char *chain);
/* A rule, valid until the table changes, and how many bytes it takes; NULL if there is none. */
const void *nfk_rule_at(nfk_table *table, const char *chain, size_t index, size_t *size);
/* Copies a rule in the project's own form. */
void nfk_rule_copy(nfk_table *table, const void *rule, void *into, uint64_t *packets, uint64_t *bytes);
/* After a commit: what the entry that a rule carries on had counted when it was replaced; 0 if it carries on none. */
int nfk_rule_replaced(nfk_table *table, const char *chain, size_t index, uint64_t *packets, uint64_t *bytes);

/* Changes to the copy in memory; `index` counts from 0, -1 appends. EBADMSG for an entry that is none. */
int nfk_rule_insert(nfk_table *table, const char *chain, int64_t index, const void *entry, size_t length,
                    uint64_t packets, uint64_t bytes);
int nfk_rule_replace(nfk_table *table, const char *chain, size_t index, const void *entry, size_t length,
                     uint64_t packets, uint64_t bytes);
/* Gives a rule other bytes; its counters go on. */
int nfk_rule_rewrite(nfk_table *table, const char *chain, size_t index, const void *entry, size_t length);
/* The index of the first rule that is the same; -1 with *error set. */
int64_t nfk_rule_find(nfk_table *table, const char *chain, const void *entry, size_t length, int *error);
int nfk_rule_delete_at(nfk_table *table, const char *chain, size_t index);
int nfk_chain_flush(nfk_table *table, const char *chain);
int nfk_chain_zero(nfk_table *table, const char *chain);
int nfk_chain_create(nfk_table *table, const char *chain);
int nfk_chain_delete(nfk_table *table, const char *chain);
int nfk_chain_rename(nfk_table *table, const char *chain, const char *name);
int nfk_chain_set_policy(nfk_table *table, const char *chain, const char *policy);

/* All rules that carry a match or target of one of `names`, and, with `jumps`, all that go to a user chain. */
int nfk_table_scan(nfk_table *table, const char *const *names, size_t count, int jumps, struct nfk_hit **hits,
                   size_t *found);
void nfk_hits_free(struct nfk_hit *hits);
/* Whether any rule does. */
int nfk_table_has(nfk_table *table, const char *const *names, size_t count);

/* A file, named by an environment variable or else by `otherwise`: opened and locked with flock(2), or -errno;
 * whether there is none. */
int nfk_lock_try(const char *variable, const char *otherwise);
int nfk_is_absent(const char *variable, const char *otherwise);

/* A whole change of a table in two calls: `begin` takes the lock, sees that there is no run directory, and opens the
 * table; closing it gives the lock back. NULL if that is not all there is to it: nothing was done then. `keeps`: whether
 * it had rules with one of `names`. `end` commits and closes the table; NFK_STEP_BY_STEP if it has such rules by now, or
 * if it was read long ago: nothing was done then; else what nfk_table_commit() returns, and the table is open still. */
struct nfk_surroundings {
    const char *lock_variable, *lock, *run_variable, *run;
    const char *const *names;
    size_t count;
};
#define NFK_STEP_BY_STEP 65536
/* A table with its lock; `keeps`: whether its rules keep state. It lives as long as the table. */
struct nfk_begun {
    nfk_table *table;
    int keeps;
};
const struct nfk_begun *nfk_change_begin(int family, const char *name, const struct nfk_surroundings *around);
int nfk_change_end(nfk_table *table, const struct nfk_surroundings *around);

/* One command to the open file of a list of xt_recent, in a turn of its own: 1 done; 0 another program has had one since,
 * and nothing was done; -errno. */
int nfk_recent_write(int list, int lock, int ear, const char *command, size_t length);

/*
 * The walker: which rules of the tables an opening packet (struct nfk_probe) meets, before it is sent. Each table is
 * the kernel's image of it; rules are counted by the index of their entry, from 0, with the heads of chains and the
 * policies. `nat` is not among the tables: an opening packet's entry has its translations already.
 */
typedef struct nfk_walk nfk_walk;

enum nfk_outcome { NFK_NO_PACKET, NFK_REACHED_SINK, NFK_DROPPED_BEFORE, NFK_UNCERTAIN };
enum nfk_hazard { NFK_NO_HAZARD, NFK_MIGHT_HARM, NFK_WOULD_HARM };

/* What becomes of a packet. `certain`: every rule's answer was known, so that its counters are exact; if not, the
 * doubt begins at that rule. A hazard is the first rule that leaves traces, by the name of its extension. */
struct nfk_walked {
    uint8_t outcome, certain, hazard;
    uint8_t lost; /* on some way it goes where the walk does not follow, into a queue for instance */
    uint8_t hazard_table, doubt_table;
    uint8_t reserved[2];
    uint32_t hazard_entry, doubt_entry;
    char name[32];
};

nfk_walk *nfk_walk_new(int family);
void nfk_walk_free(nfk_walk *walk);
/* Tables are numbered as they are added. EINVAL, ELOOP: no kernel has such an image. */
int nfk_walk_add_table(nfk_walk *walk, const char *name, int priority, const void *entries, size_t size,
                       unsigned int valid_hooks, const uint32_t *hook_entry, const uint32_t *underflow, int watched);
/* The packets' ways. A reply behind the packet of its own flow meets the connection mark that this has left. With
 * `times` (one for each probe) its packets are counted so often at every rule up to the first doubt. EINVAL for a probe
 * of another family or a way that there is none of. */
int nfk_walk_flows(nfk_walk *walk, const struct nfk_probe *probes, size_t count, const uint32_t *times,
                   struct nfk_walked *out);
/* Counts the flows of each key at the limits on connections of the watched table, whose lists are empty before these
 * probes are sent: from then on those limits are answered where they cannot be exceeded. */
int nfk_walk_tally(nfk_walk *walk, const struct nfk_probe *probes, size_t count);
size_t nfk_walk_entries(const nfk_walk *walk, size_t table);
/* By entry: what was counted, how many packets had their first doubt there, and how often, at the most, packets match
 * behind a doubt. */
void nfk_walk_counters(const nfk_walk *walk, size_t table, uint64_t *packets, uint64_t *bytes, uint64_t *doubts,
                       uint64_t *possible);
void nfk_walk_zero(nfk_walk *walk);
/* By entry: 0 no, 1 yes, 2 not told: the answer of a rule where nobody can tell it beforehand. */
void nfk_walk_tell(nfk_walk *walk, size_t table, const uint8_t *answers);
/* All packets have reached the sink: where nobody can tell whether a rule matches that would have dropped them, it does
 * not. */
void nfk_walk_all_arrive(nfk_walk *walk);


/* A fanotify group that stops whoever opens a file added to it until it is answered, and tells who closes it; -errno. */
int nfk_doorkeeper_open(void);
int nfk_doorkeeper_add(int group, int file);
/* An inotify group for files: their links and names and, if asked, openings and closings; -errno. */
int nfk_listener_open(void);
int nfk_listener_add(int group, const char *path, int openings);
/* A descriptor that becomes readable every so often; -errno. */
int nfk_ticker_open(uint64_t nanoseconds);

/* A mark of what a table is now, over a raw socket of the family: of its size and hooks only, or of its rules. */
int nfk_table_size_mark(int socket, int family, const char *name, uint64_t *mark);
int nfk_table_rules_mark(int socket, int family, const char *name, uint64_t *mark);
