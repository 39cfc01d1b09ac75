/*
 * Rule text: from words to the kernel's bytes and back, in the extension's own code.  libxtables prints to stdout and
 * leaves the process on errors, so every call runs inside a guard: a longjmp instead of exit(), a memory stream
 * instead of the C library's stdout and stderr.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
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
    unsigned int count = 0;

    if (strchr(text, ','))
        nfk_fail(PARAMETER_PROBLEM, "`%s' is a list; a rule here holds one address: give one rule for each", text);
    if (rule->family == AF_INET6) {
        struct in6_addr *address = NULL, mask;
        struct ip6t_ip6 *head = &rule->head.v6.ipv6;

        xtables_ip6parse_any(text, &address, &mask, &count);
        if (count == 1 && source) {
            head->src = *address;
            head->smsk = mask;
        } else if (count == 1) {
            head->dst = *address;
            head->dmsk = mask;
        }
        free(address);
    } else {
        struct in_addr *address = NULL, mask;
        struct ipt_ip *head = &rule->head.v4.ip;

        xtables_ipparse_any(text, &address, &mask, &count);
        if (count == 1 && source) {
            head->src = *address;
            head->smsk = mask;
        } else if (count == 1) {
            head->dst = *address;
            head->dmsk = mask;
        }
        free(address);
    }
    if (count != 1)
        nfk_fail(PARAMETER_PROBLEM, "`%s' stands for %u addresses; a rule here holds one: give one rule for each",
                 text, count);
}

/* Copies an extension's data; what lies past `user_size` belongs to the kernel and stays zero, so that rules compare. */
static void copy_data(unsigned char *into, const void *from, size_t header, size_t user_size, size_t size)
{
    memcpy(into, from, header + (user_size && user_size < size ? user_size : size));
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

        copy_data(out->entry + at, match->m, XT_ALIGN(sizeof(struct xt_entry_match)), match->userspacesize,
                  match->size);
        at += match->m->u.match_size;
    }
    target = (struct xt_entry_target *)(out->entry + at);
    if (rule->target) {
        copy_data(out->entry + at, rule->target->t, XT_ALIGN(sizeof(struct xt_entry_target)),
                  rule->target->userspacesize, rule->target->size);
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

/* Runs `work` under the guard with the C library's output going to memory; the text becomes out->text. */
static void guard_run(int family, struct nfk_text *out, void (*work)(void *), void *context)
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
    struct xt_entry_target *target;

    nfk_rule_options(rule, parse->argc, parse->argv);
    if (rule->source)
        one_address(rule, rule->source, true);
    if (rule->destination)
        one_address(rule, rule->destination, false);
    assemble(rule, guarded);
    target = nfk_target(rule->family, guarded->entry);
    if (rule->go_to && nfk_is_standard(target) && target->u.user.revision != NFK_JUMP)
        nfk_fail(PARAMETER_PROBLEM, "goto '%s' is not a chain", rule->jump);
}

void nfk_rule_parse(int family, int argc, char **argv, struct nfk_text *out)
{
    struct parse parse = {.rule = {.family = family}, .argc = argc, .argv = argv};

    guard_run(family, out, parse_work, &parse);
    nfk_rule_release(&parse.rule);
    if (out->failed)
        nfk_text_free(out);
}

static void print_address(int family, char letter, const void *address, const void *mask, bool invert)
{
    static const struct in6_addr none;
    size_t size = family == AF_INET6 ? 16 : 4;
    char text[INET6_ADDRSTRLEN];
    int prefix;

    if (!invert && memcmp(mask, &none, size) == 0 && (family == AF_INET6 || memcmp(address, &none, size) == 0))
        return;
    prefix = family == AF_INET6 ? xtables_ip6mask_to_cidr(mask) : xtables_ipmask_to_cidr(mask);
    printf("%s -%c %s", invert ? " !" : "", letter, inet_ntop(family, address, text, sizeof(text)));
    if (prefix == -1)
        printf("/%s", inet_ntop(family, mask, text, sizeof(text)));
    else
        printf("/%d", prefix);
}

static void print_interface(char letter, const char *name, const unsigned char *mask, bool invert)
{
    if (!mask[0])
        return;
    printf("%s -%c ", invert ? " !" : "", letter);
    for (unsigned int i = 0; i < IFNAMSIZ; i++) {
        if (!mask[i]) {
            if (name[i - 1])
                putchar('+');
            break;
        }
        if (name[i])
            putchar(name[i]);
    }
}

static void print_protocol(uint16_t protocol, bool invert)
{
    const struct protoent *known;

    if (!protocol)
        return;
    printf("%s -p ", invert ? " !" : "");
    for (unsigned int i = 0; xtables_chain_protos[i].name; i++)
        if (xtables_chain_protos[i].num == protocol) {
            printf("%s", xtables_chain_protos[i].name);
            return;
        }
    known = getprotobynumber(protocol);
    if (known)
        printf("%s", known->p_name);
    else
        printf("%u", protocol);
}

static void print_match(const void *head, const struct xt_entry_match *data)
{
    const char *name = data->u.user.name;
    int revision = data->u.user.revision;
    struct xtables_match *match = NULL, *exact = NULL;

    if (!strchr(name, '/'))
        match = xtables_find_match(name, XTF_TRY_LOAD, NULL);
    if (match)
        exact = xtables_find_match_revision(name, XTF_TRY_LOAD, match, revision);
    if (exact) {
        printf(" -m %s", exact->alias ? exact->alias(data) : name);
        if (exact->save)
            exact->save(head, data);
    } else {
        printf(" -m %s [unsupported revision %d, %zu bytes kept]", name, revision,
               data->u.match_size - sizeof(*data));
    }
}

static void print_target(int family, const void *head, const struct xt_entry_target *data, bool go_to)
{
    const char *name = data->u.user.name;
    int revision = data->u.user.revision;
    struct xtables_target *target = NULL, *exact = NULL;

    if (nfk_is_standard(data)) {
        if (name[0])
            printf(" -%c %s", go_to ? 'g' : 'j', name);
        return;
    }
    target = nfk_find_target(family, name);
    if (target)
        exact = xtables_find_target_revision(name, XTF_TRY_LOAD, target, revision);
    if (exact) {
        printf(" -j %s", exact->alias ? exact->alias(data) : name);
        if (exact->save)
            exact->save(head, data);
    } else {
        printf(" -j %s [unsupported revision %d, %zu bytes kept]", name, revision,
               data->u.target_size - sizeof(*data));
    }
}

struct format {
    int family;
    const unsigned char *entry;
};

static void format_work(void *context)
{
    const struct format *format = context;
    int family = format->family;
    const unsigned char *entry = format->entry;
    const struct ipt_ip *v4 = &((const struct ipt_entry *)entry)->ip;
    const struct ip6t_ip6 *v6 = &((const struct ip6t_entry *)entry)->ipv6;
    const void *head = family == AF_INET6 ? (const void *)v6 : (const void *)v4;
    uint8_t invert = family == AF_INET6 ? v6->invflags : v4->invflags;
    uint8_t flags = family == AF_INET6 ? v6->flags : v4->flags;
    size_t at = nfk_head_size(family), end = nfk_target_offset(family, entry);

    if (family == AF_INET6) {
        print_address(family, 's', &v6->src, &v6->smsk, invert & IP6T_INV_SRCIP);
        print_address(family, 'd', &v6->dst, &v6->dmsk, invert & IP6T_INV_DSTIP);
        print_interface('i', v6->iniface, v6->iniface_mask, invert & IP6T_INV_VIA_IN);
        print_interface('o', v6->outiface, v6->outiface_mask, invert & IP6T_INV_VIA_OUT);
        print_protocol(v6->proto, invert & XT_INV_PROTO);
    } else {
        print_address(family, 's', &v4->src, &v4->smsk, invert & IPT_INV_SRCIP);
        print_address(family, 'd', &v4->dst, &v4->dmsk, invert & IPT_INV_DSTIP);
        print_interface('i', v4->iniface, v4->iniface_mask, invert & IPT_INV_VIA_IN);
        print_interface('o', v4->outiface, v4->outiface_mask, invert & IPT_INV_VIA_OUT);
        print_protocol(v4->proto, invert & XT_INV_PROTO);
        if (flags & IPT_F_FRAG)
            printf("%s -f", invert & IPT_INV_FRAG ? " !" : "");
    }
    while (at < end) {
        const struct xt_entry_match *match = (const void *)(entry + at);

        print_match(head, match);
        at += match->u.match_size;
    }
    print_target(family, head, nfk_target(family, entry), flags & (family == AF_INET6 ? IP6T_F_GOTO : IPT_F_GOTO));
}

/* Whether the lengths inside an entry stay inside it, so that printing cannot read past its end. */
static bool well_formed(int family, const unsigned char *entry, size_t length)
{
    size_t at = nfk_head_size(family), target;

    if (length < at || nfk_next_offset(family, entry) != length)
        return false;
    target = nfk_target_offset(family, entry);
    while (at < target) {
        const struct xt_entry_match *match = (const void *)(entry + at);

        if (target - at < sizeof(*match) || match->u.match_size < sizeof(*match) || match->u.match_size > target - at
            || strnlen(match->u.user.name, sizeof(match->u.user.name)) == sizeof(match->u.user.name))
            return false;
        at += match->u.match_size;
    }
    return at == target && length - target >= sizeof(struct xt_entry_target)
        && nfk_target(family, entry)->u.target_size == length - target
        && strnlen(nfk_target(family, entry)->u.user.name, XT_EXTENSION_MAXNAMELEN) < XT_EXTENSION_MAXNAMELEN;
}

void nfk_rule_format(int family, const void *entry, size_t length, struct nfk_text *out)
{
    struct format format = {family, entry};

    if (!well_formed(family, entry, length)) {
        memset(out, 0, sizeof(*out));
        out->failed = 1;
        snprintf(out->reason, sizeof(out->reason), "these %zu bytes are not a rule", length);
        return;
    }
    guard_run(family, out, format_work, &format);
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

    guard_run(family, out, target_work, &wanted);
    nfk_text_free(out);
}
