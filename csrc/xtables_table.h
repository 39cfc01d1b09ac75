/* The inside of an open table, shared by the files that read, change and write it. */
#ifndef NFK_XTABLES_TABLE_H
#define NFK_XTABLES_TABLE_H

#include "xtables_image.h"

#define LONGEST_CHAIN (XT_EXTENSION_MAXNAMELEN - 1) /* what a target's header has room for */

enum ending { TO_VERDICT, TO_NEXT, TO_CHAIN, TO_EXTENSION };

struct chain;

/* One rule. Its bytes are the kernel's form, but for the number in a standard target: that is worked out on writing. */
struct rule {
    unsigned char *bytes; /* in the image, or in the table's own memory */
    struct chain *jump;   /* for TO_CHAIN */
    uint32_t size;
    uint32_t was;         /* 1 + the index of its entry in the image, whose counters it carries on; 0: of none */
    int32_t verdict;      /* for TO_VERDICT, as the kernel wants it */
    uint8_t ending;
    struct xt_counters extra; /* added to those, modulo 2^64: what a new rule starts with, or what zeroing takes away */
};

struct chain {
    char name[XT_FUNCTION_MAXNAMELEN + 2];
    int hook; /* -1: a user chain */
    struct rule *rules;
    size_t count, room;
    bool own;                 /* whether `rules` is its own memory, and not a part of the table's first array */
    unsigned int references;
    struct rule policy;   /* of a base chain: the entry that the kernel falls upon; it has no own bytes if it is new */
    uint32_t start;       /* where its first rule lies: in the image, then in what is written */
};

/* Memory that lives as long as the table. */
struct piece {
    struct piece *next;
    max_align_t bytes[];
};

struct nfk_table {
    int family;
    int fd, lock;                 /* the lock: -1, unless it is the table's */
    int64_t read_at, read_ns;     /* by the monotonic clock, and for how long; only with the lock */
    struct nfk_begun begun;       /* only with the lock */
    char name[XT_TABLE_MAXNAMELEN];
    struct nfk_image image;       /* the kernel's bytes when the table was opened */
    struct chain **chains;        /* in table order: base chains by hook, then user chains */
    size_t chain_count, chain_room;
    struct chain **by_name;       /* the same, sorted */
    struct rule *first_rules;     /* those of the image, chain after chain */
    struct piece *memory;
    struct xt_counters *replaced; /* after a commit: what each entry of the image had counted in the end */
    uint32_t written;             /* after a commit: how many entries the kernel has now */
};

struct chain *nfk_chain_find(const nfk_table *table, const char *name);
/* Takes an image apart into chains and rules; `kernel`: its rules are those that the kernel counts for. */
int nfk_table_take_apart(nfk_table *table, struct nfk_image *image, bool kernel);
void nfk_table_drop_chains(nfk_table *table);
void *nfk_table_memory(nfk_table *table, size_t size);
int nfk_chain_add(nfk_table *table, struct chain *chain);
/* Room for one rule more. */
int nfk_chain_make_room(struct chain *chain);
/* What a rule has counted, as far as is known: what was read, with what is added. */
struct xt_counters nfk_rule_counted(int family, const struct rule *rule);
/* Makes a rule count from the moment of reading on. */
void nfk_rule_zero(int family, struct rule *rule);
/* Whether the rules do the same; both in this table's form. */
bool nfk_rule_same(int family, const struct rule *left, const struct rule *right);

#endif
