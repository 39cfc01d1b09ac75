/* A whole table as iptables-save prints it. */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>

#include "xtables_table.h"
#include "xtables_text.h"

struct save {
    nfk_table *table;
    struct nfk_text *out;
};

static void print_chain(nfk_table *table, const struct chain *chain)
{
    uint64_t packets = 0, bytes = 0;
    const char *policy = nfk_chain_policy(table, chain->name, &packets, &bytes);

    printf(":%s %s [%" PRIu64 ":%" PRIu64 "]\n", chain->name, policy ? policy : "-", packets, bytes);
}

static void print_rule(const struct save *save, const struct chain *chain, const struct rule *rule)
{
    unsigned char *entry = nfk_entry_room(rule->size);
    uint64_t packets, bytes;
    size_t end;

    nfk_rule_copy(save->table, rule, entry, &packets, &bytes);
    if (!nfk_is_entry(save->table->family, entry, rule->size))
        nfk_fail(PARAMETER_PROBLEM, "%" PRIu32 " bytes of the chain %s are not a rule", rule->size, chain->name);
    printf("[%" PRIu64 ":%" PRIu64 "] -A %s", packets, bytes, chain->name);
    nfk_entry_print(save->table->family, entry);
    fflush(stdout); /* the text is there then: some extensions end theirs with a space */
    for (end = save->out->text_length; isspace((unsigned char)save->out->text[end - 1]); end--)
        ;
    if (end < save->out->text_length)
        fseek(stdout, (long)end, SEEK_SET);
    putchar('\n');
}

static void save_work(void *context)
{
    const struct save *save = context;
    const nfk_table *table = save->table;

    printf("*%s\n", table->name);
    for (size_t i = 0; i < table->chain_count; i++)
        print_chain(save->table, table->chains[i]);
    for (size_t i = 0; i < table->chain_count; i++)
        for (size_t k = 0; k < table->chains[i]->count; k++)
            print_rule(save, table->chains[i], &table->chains[i]->rules[k]);
    printf("COMMIT\n");
}

void nfk_table_format(nfk_table *table, struct nfk_text *out)
{
    struct save save = {table, out};

    nfk_guard_run(table->family, out, save_work, &save);
}
