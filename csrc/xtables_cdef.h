/* What Python sees of the legacy world; the meaning of each is said in xtables_world.h. */
typedef struct nfk_table nfk_table;

struct nfk_hit {
    uint32_t chain;
    uint32_t position;
    const void *entry;
    int jump;
    ...;
};

struct nfk_text {
    int failed;
    unsigned char *entry;
    size_t entry_length;
    char *text;
    size_t text_length;
    char reason[1024];
    ...;
};

void nfk_rule_parse(int family, int argc, char **argv, struct nfk_text *out);
void nfk_rule_format(int family, const void *entry, size_t length, struct nfk_text *out);
void nfk_target_known(int family, const char *name, struct nfk_text *out);
void nfk_text_free(struct nfk_text *out);

nfk_table *nfk_table_open(int family, const char *name, int *error);
void nfk_table_close(nfk_table *table);
int nfk_table_unchanged(nfk_table *table);
int nfk_table_commit(nfk_table *table, int *applied);
const char *nfk_table_strerror(nfk_table *table, int error);

const char *nfk_chain_first(nfk_table *table);
const char *nfk_chain_next(nfk_table *table);
int nfk_chain_exists(nfk_table *table, const char *chain);
int nfk_chain_builtin(nfk_table *table, const char *chain);
const char *nfk_chain_policy(nfk_table *table, const char *chain, uint64_t *packets, uint64_t *bytes);

const void *nfk_rule_first(nfk_table *table, const char *chain);
const void *nfk_rule_next(nfk_table *table, const void *entry);
size_t nfk_rule_size(nfk_table *table, const void *entry);
void nfk_rule_copy(nfk_table *table, const void *entry, void *into, uint64_t *packets, uint64_t *bytes);

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

int nfk_table_scan(nfk_table *table, const char *const *names, size_t count, struct nfk_hit **hits, size_t *found);
void nfk_hits_free(struct nfk_hit *hits);
