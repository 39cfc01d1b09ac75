/* Shared by the two halves of rule text: the guard that turns libxtables' exits into errors, and the option parser. */
#ifndef NFK_XTABLES_TEXT_H
#define NFK_XTABLES_TEXT_H

#include <getopt.h>

#include "xtables_world.h"

/* A rule as far as it is parsed; libxtables owns `matches` and `target` until nfk_rule_release(). */
struct nfk_rule {
    int family;
    union {
        struct ipt_entry v4;
        struct ip6t_entry v6;
    } head;
    struct xtables_rule_match *matches;
    struct xtables_target *target;
    char *protocol;
    const char *jump;
    const char *source, *destination;
    bool protocol_used;
};

/* Reports through the guard and does not return. */
__attribute__((noreturn, format(printf, 2, 3))) void nfk_fail(enum xtables_exittype status, const char *format, ...);

/* Runs `work` under the guard with the C library's output going to memory; the text becomes out->text. */
void nfk_guard_run(int family, struct nfk_text *out, void (*work)(void *), void *context);

/* Zeros for an entry of this length, and more of them behind it, until the next one is asked for. */
unsigned char *nfk_entry_room(size_t length);
/* Prints an entry that lies there, and that nfk_is_entry() takes for one, as iptables-save does from the first option on, each behind a space. */
void nfk_entry_print(int family, const unsigned char *entry);

/* The extension behind a target's name in a family, NULL if there is none (then it may be a chain's name). */
struct xtables_target *nfk_find_target(int family, const char *name);
/* Has libxtables look for a target again; that it is not there is no error. */
void nfk_attempt_target(const char *name);

void nfk_rule_options(struct nfk_rule *rule, int argc, char **argv);
void nfk_rule_release(struct nfk_rule *rule);

extern const struct option nfk_rule_long_options[];

#endif
