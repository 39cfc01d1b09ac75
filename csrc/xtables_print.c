/*
 * Rules as iptables-save prints them: the head here, each match and target in the extension's own words.
 */
#include <arpa/inet.h>
#include <netdb.h>
#include <stdio.h>

#include "xtables_image.h"
#include "xtables_text.h"

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
    if (!mask[0]) {
        /* Never met, and so worth a word; iptables 1.8.9 prints nothing, as if it were always met. */
        if (invert)
            printf(" ! -%c +", letter);
        return;
    }
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
    if (exact && data->u.match_size == XT_ALIGN(sizeof(*data)) + exact->size) {
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
    if (exact && data->u.target_size == XT_ALIGN(sizeof(*data)) + exact->size) {
        printf(" -j %s", exact->alias ? exact->alias(data) : name);
        if (exact->save)
            exact->save(head, data);
    } else {
        printf(" -j %s [unsupported revision %d, %zu bytes kept]", name, revision,
               data->u.target_size - sizeof(*data));
    }
}

void nfk_entry_print(int family, const unsigned char *entry)
{
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

/* Extensions believe what is in their data: a text without an end, or a number of parts that are not there, has them
 * read on. Behind the entry they find zeros. */
unsigned char *nfk_entry_room(size_t length)
{
    enum { BEHIND = 1 << 15 };
    static max_align_t room[(UINT16_MAX + 1 + BEHIND) / sizeof(max_align_t)];
    static size_t used;

    memset(room, 0, used);
    used = length;
    return (unsigned char *)room;
}

struct format {
    int family;
    unsigned char *entry;
};

static void format_work(void *context)
{
    const struct format *format = context;

    nfk_entry_print(format->family, format->entry);
}

void nfk_rule_format(int family, const void *entry, size_t length, struct nfk_text *out)
{
    struct format format = {.family = family};

    if (length <= UINT16_MAX)
        format.entry = memcpy(nfk_entry_room(length), entry, length);
    if (!format.entry || !nfk_is_entry(family, format.entry, length)) {
        memset(out, 0, sizeof(*out));
        out->failed = 1;
        snprintf(out->reason, sizeof(out->reason), "these %zu bytes are not a rule", length);
        return;
    }
    nfk_guard_run(family, out, format_work, &format);
}
