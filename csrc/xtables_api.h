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
    const void *entry; /* owned by the table, valid until it changes or closes */
    int jump;          /* whether the rule goes to a user chain */
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

/* A table as libiptc read it, with the kernel's bytes of that moment kept beside it. */
nfk_table *nfk_table_open(int family, const char *name, int *error);
void nfk_table_close(nfk_table *table);
/* 1: the kernel's table is, but for counters, as it was when opened; 0: it is not; negative: -errno. */
int nfk_table_unchanged(nfk_table *table);
/* Writes the table. On failure *applied says whether the new rules are live all the same. */
int nfk_table_commit(nfk_table *table, int *applied);
/* libiptc's words for the error of the call just made on this table. */
const char *nfk_table_strerror(nfk_table *table, int error);

const char *nfk_chain_first(nfk_table *table);
const char *nfk_chain_next(nfk_table *table);
int nfk_chain_exists(nfk_table *table, const char *chain);
int nfk_chain_builtin(nfk_table *table, const char *chain);
/* NULL for a user chain. */
const char *nfk_chain_policy(nfk_table *table, const char *chain, uint64_t *packets, uint64_t *bytes);

const void *nfk_rule_first(nfk_table *table, const char *chain);
const void *nfk_rule_next(nfk_table *table, const void *entry);
size_t nfk_rule_size(nfk_table *table, const void *entry);
/* Copies an entry in the project's own form into nfk_rule_size() bytes. */
void nfk_rule_copy(nfk_table *table, const void *entry, void *into, uint64_t *packets, uint64_t *bytes);

/* Changes to the copy in memory; `index` counts from 0. */
int nfk_rule_append(nfk_table *table, const char *chain, const void *entry, size_t length,
                    uint64_t packets, uint64_t bytes);
int nfk_rule_insert(nfk_table *table, const char *chain, unsigned int index, const void *entry, size_t length,
                    uint64_t packets, uint64_t bytes);
int nfk_rule_replace(nfk_table *table, const char *chain, unsigned int index, const void *entry, size_t length,
                     uint64_t packets, uint64_t bytes);
int nfk_rule_delete(nfk_table *table, const char *chain, const void *entry, size_t length);
int nfk_rule_delete_at(nfk_table *table, const char *chain, unsigned int index);
int nfk_chain_flush(nfk_table *table, const char *chain);
int nfk_chain_zero(nfk_table *table, const char *chain);
int nfk_chain_create(nfk_table *table, const char *chain);
int nfk_chain_delete(nfk_table *table, const char *chain);
int nfk_chain_rename(nfk_table *table, const char *chain, const char *name);
int nfk_chain_set_policy(nfk_table *table, const char *chain, const char *policy);

/* All rules that carry a match or target of one of `names`, and all that go to a user chain. */
int nfk_table_scan(nfk_table *table, const char *const *names, size_t count, struct nfk_hit **hits, size_t *found);
void nfk_hits_free(struct nfk_hit *hits);

/* One command to the open file of a list of xt_recent, in a turn of its own: 1 done; 0 another program has had one since,
 * and nothing was done; -errno. */
int nfk_recent_write(int list, int lock, int ear, const char *command, size_t length);

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
