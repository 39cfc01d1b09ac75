/*
 * The words of a rule, through getopt and libxtables' merged option tables, into an nfk_rule.
 * Every error ends in nfk_fail(), which leaves by longjmp: nothing here may hold memory of its own across a call.
 */
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>

#include "xtables_text.h"

#define OF_COMMAND 2 /* as letters go, no other option's */

const struct option nfk_rule_long_options[] = {
    {.name = "source", .has_arg = 1, .val = 's'},
    {.name = "src", .has_arg = 1, .val = 's'},
    {.name = "destination", .has_arg = 1, .val = 'd'},
    {.name = "dst", .has_arg = 1, .val = 'd'},
    {.name = "protocol", .has_arg = 1, .val = 'p'},
    {.name = "in-interface", .has_arg = 1, .val = 'i'},
    {.name = "out-interface", .has_arg = 1, .val = 'o'},
    {.name = "fragments", .has_arg = 0, .val = 'f'},
    {.name = "match", .has_arg = 1, .val = 'm'},
    {.name = "jump", .has_arg = 1, .val = 'j'},
    {.name = "goto", .has_arg = 1, .val = 'g'},
    {.name = "set-counters", .has_arg = 1, .val = 'c'},
    {.name = "ipv4", .has_arg = 0, .val = '4'},
    {.name = "ipv6", .has_arg = 0, .val = '6'},
    /* What is no part of a rule is here so that a shortened name means what it means to iptables, or nothing. */
    {.name = "append", .val = OF_COMMAND},
    {.name = "delete", .val = OF_COMMAND},
    {.name = "check", .val = OF_COMMAND},
    {.name = "insert", .val = OF_COMMAND},
    {.name = "replace", .val = OF_COMMAND},
    {.name = "list", .val = OF_COMMAND},
    {.name = "list-rules", .val = OF_COMMAND},
    {.name = "flush", .val = OF_COMMAND},
    {.name = "zero", .val = OF_COMMAND},
    {.name = "new-chain", .val = OF_COMMAND},
    {.name = "delete-chain", .val = OF_COMMAND},
    {.name = "rename-chain", .val = OF_COMMAND},
    {.name = "policy", .val = OF_COMMAND},
    {.name = "table", .val = OF_COMMAND},
    {.name = "numeric", .val = OF_COMMAND},
    {.name = "verbose", .val = OF_COMMAND},
    {.name = "wait", .val = OF_COMMAND},
    {.name = "wait-interval", .val = OF_COMMAND},
    {.name = "exact", .val = OF_COMMAND},
    {.name = "version", .val = OF_COMMAND},
    {.name = "help", .val = OF_COMMAND},
    {.name = "line-numbers", .val = OF_COMMAND},
    {.name = "modprobe", .val = OF_COMMAND},
    {.name = NULL},
};

static void once(unsigned int *seen, char option, const char *letters)
{
    unsigned int bit = 1u << (strchr(letters, option) - letters);

    if (*seen & bit)
        nfk_fail(PARAMETER_PROBLEM, "multiple -%c flags not allowed", option);
    *seen |= bit;
}

static bool is_verdict(const char *name)
{
    return strcmp(name, "ACCEPT") == 0 || strcmp(name, "DROP") == 0 || strcmp(name, "QUEUE") == 0
        || strcmp(name, "RETURN") == 0;
}

/* The family's own inversion bit for one of -p -s -d -i -o -f; they have the same values in both families. */
static uint8_t inversion(char option)
{
    switch (option) {
    case 's':
        return IPT_INV_SRCIP;
    case 'd':
        return IPT_INV_DSTIP;
    case 'i':
        return IPT_INV_VIA_IN;
    case 'o':
        return IPT_INV_VIA_OUT;
    case 'f':
        return IPT_INV_FRAG;
    default:
        return XT_INV_PROTO;
    }
}

static void merge(const struct xt_option_entry *modern, const struct option *classic, unsigned int *offset)
{
    struct option *merged;

    if (modern)
        merged = xtables_options_xfrm(xt_params->orig_opts, xt_params->opts, modern, offset);
    else
        merged = xtables_merge_options(xt_params->orig_opts, xt_params->opts, classic, offset);
    if (!merged)
        nfk_fail(RESOURCE_PROBLEM, "out of memory");
    xt_params->opts = merged;
}

static void start_match(struct xtables_match *match)
{
    size_t size = XT_ALIGN(sizeof(struct xt_entry_match)) + match->size;

    match->m = xtables_calloc(1, size);
    match->m->u.match_size = size;
    strcpy(match->m->u.user.name, match->real_name ? match->real_name : match->name);
    match->m->u.user.revision = match->revision;
    if (match->udata_size) {
        free(match->udata);
        match->udata = xtables_calloc(1, match->udata_size);
    }
    if (match->init)
        match->init(match->m);
    /* A second use of a match in one rule is a clone, which shares the first one's options. */
    if (match != match->next && (match->x6_options || match->extra_opts))
        merge(match->x6_options, match->extra_opts, &match->option_offset);
}

static void check_name(const char *name, const char *what)
{
    if (!*name)
        nfk_fail(PARAMETER_PROBLEM, "Invalid %s name (too short)", what);
    if (strlen(name) >= XT_EXTENSION_MAXNAMELEN)
        nfk_fail(PARAMETER_PROBLEM, "Invalid %s name `%s' (%u chars max)", what, name, XT_EXTENSION_MAXNAMELEN - 1);
    for (const char *c = name; *c; c++)
        if (isspace((unsigned char)*c))
            nfk_fail(PARAMETER_PROBLEM, "Invalid %s name `%s'", what, name);
}

static void take_match(struct nfk_rule *rule, const char *name)
{
    check_name(name, "match");
    /* The name becomes part of a file's path in libxtables. */
    if (strchr(name, '/'))
        nfk_fail(PARAMETER_PROBLEM, "Couldn't load match `%s':No such file or directory", name);
    start_match(xtables_find_match(name, XTF_LOAD_MUST_SUCCEED, &rule->matches));
}

static void take_jump(struct nfk_rule *rule, const char *name)
{
    struct xtables_target *target;
    size_t size;

    check_name(name, "target");
    rule->jump = name;
    target = nfk_find_target(rule->family, name);
    if (!target)
        return; /* a chain, or nothing: the table will tell */
    rule->target = target;
    size = XT_ALIGN(sizeof(struct xt_entry_target)) + target->size;
    target->t = xtables_calloc(1, size);
    target->t->u.target_size = size;
    strcpy(target->t->u.user.name, target->real_name ? target->real_name : name);
    target->t->u.user.revision = target->revision;
    if (target->udata_size) {
        free(target->udata);
        target->udata = xtables_calloc(1, target->udata_size);
    }
    if (target->init)
        target->init(target->t);
    if (target->x6_options || target->extra_opts)
        merge(target->x6_options, target->extra_opts, &target->option_offset);
}

static void take_protocol(struct nfk_rule *rule, char *name, bool invert)
{
    uint16_t protocol;

    for (char *c = name; *c; c++)
        *c = (char)tolower((unsigned char)*c);
    rule->protocol = name;
    protocol = xtables_parse_protocol(name);
    if (protocol == 0 && invert)
        nfk_fail(PARAMETER_PROBLEM, "rule would never match protocol");
    if (rule->family == AF_INET6) {
        rule->head.v6.ipv6.proto = protocol;
        rule->head.v6.ipv6.flags |= IP6T_F_PROTO;
    } else {
        rule->head.v4.ip.proto = protocol;
    }
}

static void take_interface(const char *name, char *into, unsigned char *mask)
{
    if (!*name)
        nfk_fail(PARAMETER_PROBLEM, "Empty interface is likely to be undesired");
    xtables_parse_interface(name, into, mask);
}

static void take_counters(struct nfk_rule *rule, int argc, char **argv)
{
    struct xt_counters *counters = nfk_counters(rule->family, &rule->head);
    char *bytes = strchr(optarg, ','), *end;

    if (bytes)
        *bytes++ = '\0';
    else if (optind < argc && argv[optind][0] != '-' && argv[optind][0] != '!')
        bytes = argv[optind++];
    if (!bytes)
        nfk_fail(PARAMETER_PROBLEM, "-c requires packet and byte counter");
    counters->pcnt = strtoull(optarg, &end, 10);
    if (end == optarg || *end)
        nfk_fail(PARAMETER_PROBLEM, "-c packet counter not numeric");
    counters->bcnt = strtoull(bytes, &end, 10);
    if (end == bytes || *end)
        nfk_fail(PARAMETER_PROBLEM, "-c byte counter not numeric");
}

/* The extension that -p names, loaded when a word turns out to be one of its options ("-p tcp --dport 22"). */
static struct xtables_match *protocol_match(struct nfk_rule *rule, enum xtables_tryload load,
                                            struct xtables_rule_match **matches)
{
    const char *name = rule->protocol;
    unsigned int number;

    if (xtables_strtoui(name, NULL, &number, 0, UINT8_MAX)) {
        name = NULL;
        for (unsigned int i = 0; xtables_chain_protos[i].name; i++)
            if (xtables_chain_protos[i].num == number) {
                name = xtables_chain_protos[i].name;
                break;
            }
    }
    return name && !strchr(name, '/') ? xtables_find_match(name, load, matches) : NULL;
}

/* One option that belongs to an extension. Returns true if getopt has to look at the same word again. */
static bool take_extension_option(struct nfk_rule *rule, int option, char **argv, bool invert)
{
    struct xtables_target *target = rule->target;
    struct xtables_match *match;
    void *head = &rule->head;

    if (target && (target->parse || target->x6_parse) && option >= (int)target->option_offset
        && option < (int)target->option_offset + 256) {
        xtables_option_tpcall(option, argv, invert, target, head);
        return false;
    }
    for (struct xtables_rule_match *each = rule->matches; each; each = each->next) {
        match = each->match;
        if (each->completed || (!match->x6_parse && !match->parse) || option < (int)match->option_offset
            || option >= (int)match->option_offset + 256)
            continue;
        xtables_option_mpcall(option, argv, invert, match, head);
        return false;
    }
    if (rule->protocol && (!protocol_match(rule, XTF_DONT_LOAD, NULL) || !rule->protocol_used)) {
        match = protocol_match(rule, XTF_TRY_LOAD, &rule->matches);
        if (match) {
            rule->protocol_used = true;
            start_match(match);
            optind--;
            return true;
        }
    }
    if (option == ':')
        nfk_fail(PARAMETER_PROBLEM, "option \"%s\" requires an argument", argv[optind - 1]);
    if (option == '?')
        nfk_fail(PARAMETER_PROBLEM, "unknown option \"%s\"", argv[optind - 1]);
    nfk_fail(PARAMETER_PROBLEM, "Unknown arg \"%s\"", optarg ? optarg : argv[optind - 1]);
}

void nfk_rule_options(struct nfk_rule *rule, int argc, char **argv)
{
    static const char letters[] = "psdiojfc";
    bool v6 = rule->family == AF_INET6;
    uint8_t *inverted = v6 ? &rule->head.v6.ipv6.invflags : &rule->head.v4.ip.invflags;
    unsigned int seen = 0;
    bool invert = false;
    int option;

    for (struct xtables_match *match = xtables_matches; match; match = match->next)
        match->mflags = 0;
    for (struct xtables_target *target = xtables_targets; target; target = target->next) {
        target->tflags = 0;
        target->used = 0;
    }
    optind = 0; /* glibc: start anew */
    opterr = 0;
    xt_params->opts = xt_params->orig_opts;
    while ((option = getopt_long(argc, argv, "-:p:s:d:i:o:j:g:m:c:f46", xt_params->opts, NULL)) != -1) {
        switch (option) {
        case 1:
            if (strcmp(optarg, "!") != 0)
                nfk_fail(PARAMETER_PROBLEM, "Bad argument `%s'", optarg);
            if (invert)
                nfk_fail(PARAMETER_PROBLEM, "multiple consecutive ! not allowed");
            invert = true;
            continue;
        case 'm':
        case 'j':
        case 'g':
        case 'c':
            if (invert)
                nfk_fail(PARAMETER_PROBLEM, "unexpected ! flag before -%c", option);
            break;
        }
        if (option < 128 && strchr("psdiofc", option) && option) {
            once(&seen, (char)option, letters);
            if (invert)
                *inverted |= inversion((char)option);
        }
        switch (option) {
        case 'p':
            take_protocol(rule, optarg, invert);
            break;
        case 's':
            rule->source = optarg;
            break;
        case 'd':
            rule->destination = optarg;
            break;
        case 'i':
            take_interface(optarg, v6 ? rule->head.v6.ipv6.iniface : rule->head.v4.ip.iniface,
                           v6 ? rule->head.v6.ipv6.iniface_mask : rule->head.v4.ip.iniface_mask);
            break;
        case 'o':
            take_interface(optarg, v6 ? rule->head.v6.ipv6.outiface : rule->head.v4.ip.outiface,
                           v6 ? rule->head.v6.ipv6.outiface_mask : rule->head.v4.ip.outiface_mask);
            break;
        case 'f':
            if (v6)
                nfk_fail(PARAMETER_PROBLEM, "`-f' is not supported in IPv6, use -m frag instead");
            rule->head.v4.ip.flags |= IPT_F_FRAG;
            break;
        case '4':
        case '6':
            if (v6 != (option == '6'))
                nfk_fail(PARAMETER_PROBLEM, "-%c: this rule is for the other family, not for %s", option,
                         v6 ? "IPv6" : "IPv4");
            break;
        case 'c':
            take_counters(rule, argc, argv);
            break;
        case 'm':
            take_match(rule, optarg);
            break;
        case 'g':
            once(&seen, 'j', letters);
            check_name(optarg, "target");
            if (is_verdict(optarg))
                nfk_fail(PARAMETER_PROBLEM, "goto '%s' is not a chain", optarg);
            rule->jump = optarg;
            if (v6)
                rule->head.v6.ipv6.flags |= IP6T_F_GOTO;
            else
                rule->head.v4.ip.flags |= IPT_F_GOTO;
            break;
        case 'j':
            once(&seen, 'j', letters);
            take_jump(rule, optarg);
            break;
        case OF_COMMAND:
            nfk_fail(PARAMETER_PROBLEM, "`%s' belongs to a command of iptables, not to a rule", argv[optind - 1]);
        default:
            if (take_extension_option(rule, option, argv, invert))
                continue; /* keep the `!` for the word's second reading */
        }
        invert = false;
    }
    if (optind < argc)
        nfk_fail(PARAMETER_PROBLEM, "unknown arguments found on commandline");
    if (invert)
        nfk_fail(PARAMETER_PROBLEM, "nothing appropriate following !");
    for (struct xtables_rule_match *each = rule->matches; each; each = each->next)
        xtables_option_mfcall(each->match);
    if (rule->target)
        xtables_option_tfcall(rule->target);
}

void nfk_rule_release(struct nfk_rule *rule)
{
    xtables_rule_matches_free(&rule->matches);
    if (rule->target) {
        struct xtables_target *target = rule->target;

        free(target->t);
        target->t = NULL;
        free(target->udata);
        target->udata = NULL;
        if (target == target->next)
            free(target);
        rule->target = NULL;
    }
    xtables_free_opts(1);
}
