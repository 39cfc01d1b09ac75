/*
 * Rule text: from words to the kernel's bytes and back, in the extension's own code.  libxtables prints to stdout and
 * leaves the process on errors, so every call runs inside a guard: a longjmp instead of exit(), a memory stream
 * instead of the C library's stdout and stderr.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "xtables_text.h"

/* libxtables calls back without an argument, so what the callback needs cannot but be global. */
static jmp_buf guard;
static struct nfk_text *guarded;

__attribute__((noreturn, format(printf, 2, 3))) void nfk_fail(enum xtables_exittype status, const char *format, ...)
{
    va_list arguments;
    size_t length;

    (void)status;
    va_start(arguments, format);
    vsnprintf(guarded->reason, sizeof(guarded->reason), format, arguments);
    va_end(arguments);
    length = strlen(guarded->reason);
    while (length && (guarded->reason[length - 1] == '\n' || guarded->reason[length - 1] == ' '))
        guarded->reason[--length] = '\0';
    guarded->failed = 1;
    longjmp(guard, 1);
}

/*
 * Which revision of an extension to use: one that the kernel has.  Where it cannot be asked (no rights) or does not
 * know the extension at all, the newest one will do for text; libxtables' own function would print and exit.
 */
static int kernel_has_revision(const char *name, uint8_t revision, int option)
{
    struct xt_get_revision wanted = {.revision = revision};
    socklen_t size = sizeof(wanted);
    int family = option == IP6T_SO_GET_REVISION_MATCH || option == IP6T_SO_GET_REVISION_TARGET ? AF_INET6 : AF_INET;
    int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW), result, error;

    if (fd < 0)
        return 1;
    strncpy(wanted.name, name, sizeof(wanted.name) - 1);
    result = getsockopt(fd, family == AF_INET6 ? IPPROTO_IPV6 : IPPROTO_IP, option, &wanted, &size);
    error = errno;
    close(fd);
    return result >= 0 || error != EPROTONOSUPPORT;
}

void nfk_attempt_target(const char *name)
{
    jmp_buf outer;

    memcpy(&outer, &guard, sizeof(outer));
    if (!setjmp(guard))
        xtables_find_target(name, XTF_LOAD_MUST_SUCCEED);
    memcpy(&guard, &outer, sizeof(outer));
    guarded->failed = 0;
}

static struct xtables_globals globals = {
    .program_name = "nfkeep",
    .program_version = XTABLES_VERSION,
    .orig_opts = (struct option *)nfk_rule_long_options,
    .exit_err = nfk_fail,
    .compat_rev = kernel_has_revision,
};

static void enter(int family, struct nfk_text *out)
{
    static bool initialised;

    if (!initialised) {
        xtables_init();
        initialised = true;
    }
    xtables_set_params(&globals);
    xtables_set_nfproto(family == AF_INET6 ? NFPROTO_IPV6 : NFPROTO_IPV4);
    memset(out, 0, sizeof(*out));
    guarded = out;
}

void nfk_text_free(struct nfk_text *out)
{
    free(out->entry);
    free(out->text);
    out->entry = NULL;
    out->text = NULL;
}

static void one_address(struct nfk_rule *rule, const char *text, bool source)
{
    struct ipt_ip *v4 = &rule->head.v4.ip;
    struct ip6t_ip6 *v6 = &rule->head.v6.ipv6;
    unsigned int count = 0;

    if (strchr(text, ','))
        nfk_fail(PARAMETER_PROBLEM, "`%s' is a list; a rule here holds one address: give one rule for each", text);
    if (rule->family == AF_INET6) {
        struct in6_addr *found = NULL, *into = source ? &v6->src : &v6->dst;

        xtables_ip6parse_any(text, &found, source ? &v6->smsk : &v6->dmsk, &count);
        if (count == 1)
            *into = *found;
        free(found);
    } else {
        struct in_addr *found = NULL, *into = source ? &v4->src : &v4->dst;

        xtables_ipparse_any(text, &found, source ? &v4->smsk : &v4->dmsk, &count);
        if (count == 1)
            *into = *found;
        free(found);
    }
    if (count != 1)
        nfk_fail(PARAMETER_PROBLEM, "`%s' stands for %u addresses; a rule here holds one: give one rule for each",
                 text, count);
}

static void assemble(struct nfk_rule *rule, struct nfk_text *out)
{
    size_t head = nfk_head_size(rule->family), size = head, at = head;
    size_t target_size = rule->target ? rule->target->t->u.target_size : XT_ALIGN(sizeof(struct xt_standard_target));
    struct xt_entry_target *target;

    for (struct xtables_rule_match *each = rule->matches; each; each = each->next)
        size += each->match->m->u.match_size;
    if (size + target_size > UINT16_MAX)
        nfk_fail(PARAMETER_PROBLEM, "the rule is too long: %zu bytes of %u", size + target_size, UINT16_MAX);
    out->entry_length = size + target_size;
    out->entry = xtables_calloc(1, out->entry_length);
    if (rule->family == AF_INET6) {
        rule->head.v6.target_offset = size;
        rule->head.v6.next_offset = out->entry_length;
    } else {
        rule->head.v4.target_offset = size;
        rule->head.v4.next_offset = out->entry_length;
    }
    memcpy(out->entry, &rule->head, head);
    for (struct xtables_rule_match *each = rule->matches; each; each = each->next) {
        struct xtables_match *match = each->match;

        memcpy(out->entry + at, match->m, match->m->u.match_size);
        at += match->m->u.match_size;
    }
    target = (struct xt_entry_target *)(out->entry + at);
    if (rule->target) {
        memcpy(out->entry + at, rule->target->t, target_size);
        /* The standard extension holds a verdict's number; here its name stands for it, and the table computes it. */
        if (nfk_is_standard(target))
            memset(target->data, 0, target_size - sizeof(*target));
    } else {
        target->u.target_size = target_size;
        if (rule->jump) {
            strcpy(target->u.user.name, rule->jump);
            target->u.user.revision = NFK_JUMP;
        }
    }
}

void nfk_guard_run(int family, struct nfk_text *out, void (*work)(void *), void *context)
{
    FILE *real_output = stdout, *real_errors = stderr;
    FILE *output, *errors;
    char *said = NULL;
    size_t said_length = 0;
    /* libnftables uses libxtables too, with parameters of its own: each has them back after a call. */
    struct xtables_globals *others = xt_params;

    enter(family, out);
    output = open_memstream(&out->text, &out->text_length);
    errors = open_memstream(&said, &said_length);
    if (!output || !errors) {
        out->failed = 1;
        snprintf(out->reason, sizeof(out->reason), "out of memory");
    } else {
        stdout = output;
        stderr = errors;
        if (!setjmp(guard))
            work(context);
        stdout = real_output;
        stderr = real_errors;
    }
    if (output)
        fclose(output);
    if (errors)
        fclose(errors);
    free(said);
    guarded = NULL;
    if (others)
        xtables_set_params(others);
}

struct parse {
    struct nfk_rule rule;
    int argc;
    char **argv;
};

static void parse_work(void *context)
{
    struct parse *parse = context;
    struct nfk_rule *rule = &parse->rule;

    nfk_rule_options(rule, parse->argc, parse->argv);
    if (rule->source)
        one_address(rule, rule->source, true);
    if (rule->destination)
        one_address(rule, rule->destination, false);
    assemble(rule, guarded);
}

void nfk_rule_parse(int family, int argc, char **argv, struct nfk_text *out)
{
    struct parse parse = {.rule = {.family = family}, .argc = argc, .argv = argv};

    nfk_guard_run(family, out, parse_work, &parse);
    nfk_rule_release(&parse.rule);
    if (out->failed)
        nfk_text_free(out);
}

struct wanted {
    int family;
    const char *name;
};

static void target_work(void *context)
{
    const struct wanted *wanted = context;

    if (!nfk_find_target(wanted->family, wanted->name))
        nfk_fail(PARAMETER_PROBLEM, "Couldn't load target `%s':No such file or directory", wanted->name);
}

void nfk_target_known(int family, const char *name, struct nfk_text *out)
{
    struct wanted wanted = {family, name};

    nfk_guard_run(family, out, target_work, &wanted);
    nfk_text_free(out);
}
