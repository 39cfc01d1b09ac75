/*
 * The kernel's bytes of a table: reading them, checking every length before anybody walks them, and telling whether
 * another program has replaced the table since.
 */
#include <errno.h>
#include <sys/socket.h>

#include "xtables_block.h"
#include "xtables_image.h"

int nfk_image_read(int family, int fd, const char *name, struct nfk_image *image)
{
    bool v6 = family == AF_INET6;
    int level = v6 ? IPPROTO_IPV6 : IPPROTO_IP, error;
    struct ipt_getinfo info;
    struct ipt_get_entries *block;
    socklen_t size;

    /* struct ip6t_getinfo and ip6t_get_entries have the same layout (linux/netfilter_ipv6/ip6_tables.h). */
    for (int attempt = 0; attempt < 8; attempt++) {
        memset(&info, 0, sizeof(info));
        strcpy(info.name, name);
        size = sizeof(info);
        if (getsockopt(fd, level, v6 ? IP6T_SO_GET_INFO : IPT_SO_GET_INFO, &info, &size) < 0)
            return errno;
        block = nfk_block(sizeof(*block) + info.size);
        if (!block)
            return ENOMEM;
        memset(block, 0, sizeof(*block));
        strcpy(block->name, name);
        block->size = info.size;
        size = sizeof(*block) + info.size;
        if (getsockopt(fd, level, v6 ? IP6T_SO_GET_ENTRIES : IPT_SO_GET_ENTRIES, block, &size) == 0) {
            *image = (struct nfk_image){.family = family, .block = (unsigned char *)block, .size = info.size,
                                        .entries = (unsigned char *)block->entrytable, .number = info.num_entries,
                                        .valid_hooks = info.valid_hooks};
            memcpy(image->hook_entry, info.hook_entry, sizeof(image->hook_entry));
            memcpy(image->underflow, info.underflow, sizeof(image->underflow));
            return 0;
        }
        error = errno;
        nfk_block_free(block);
        if (error != EAGAIN) /* EAGAIN: it changed its size between the two calls */
            return error;
    }
    return EAGAIN;
}

void nfk_image_free(struct nfk_image *image)
{
    nfk_block_free(image->block);
    memset(image, 0, sizeof(*image));
}

/* Of a name the kernel writes no more than up to its NUL; what follows is zeroed, as entries are compared. */
static bool name_ends(char *name)
{
    char *end = memchr(name, '\0', XT_EXTENSION_MAXNAMELEN);

    if (end)
        memset(end, 0, name + XT_EXTENSION_MAXNAMELEN - end);
    return end != NULL;
}

/* The kernel takes a few more, which no rule text can say. */
static bool verdict_known(int verdict)
{
    return verdict >= 0 || verdict == -NF_ACCEPT - 1 || verdict == -NF_DROP - 1 || verdict == -NF_QUEUE - 1
        || verdict == XT_RETURN;
}

/* The length of an entry of which so many bytes are there, 0 if it is none. */
static size_t entry_length(int family, unsigned char *entry, size_t left)
{
    size_t head = nfk_head_size(family), end, next;
    struct xt_entry_target *target;

    if (left < head + sizeof(*target))
        return 0;
    end = nfk_target_offset(family, entry);
    next = nfk_next_offset(family, entry);
    if (next > left || next % __alignof__(struct xt_counters) || end < head || end % __alignof__(struct xt_counters)
        || end + sizeof(*target) > next)
        return 0;
    for (size_t match_at = head; match_at < end;) {
        struct xt_entry_match *match = (void *)(entry + match_at);

        if (end - match_at < sizeof(*match) || match->u.match_size < sizeof(*match)
            || match->u.match_size > end - match_at || match->u.match_size % __alignof__(struct xt_counters)
            || !name_ends(match->u.user.name))
            return 0;
        match_at += match->u.match_size;
    }
    target = (void *)(entry + end);
    if (target->u.target_size < sizeof(*target) || target->u.target_size != next - end
        || !name_ends(target->u.user.name))
        return 0;
    if (!target->u.user.name[0]
        && (target->u.target_size < sizeof(struct xt_standard_target)
            || !verdict_known(((const struct xt_standard_target *)target)->verdict)))
        return 0;
    if (nfk_is_error(target)
        && (target->u.target_size < sizeof(struct xt_error_target)
            /* no longer than what a jump's header has room for */
            || !memchr(((const struct xt_error_target *)target)->errorname, '\0', XT_EXTENSION_MAXNAMELEN)))
        return 0;
    return next;
}

bool nfk_is_entry(int family, unsigned char *bytes, size_t length)
{
    return length && entry_length(family, bytes, length) == length;
}

int nfk_image_check(struct nfk_image *image)
{
    uint32_t hooks = 0, underflows = 0, number = 0;
    size_t at = 0, length;

    for (; at < image->size; at += length, number++) {
        length = entry_length(image->family, image->entries + at, image->size - at);
        if (!length)
            return EINVAL;
        for (int hook = 0; hook < NF_INET_NUMHOOKS; hook++) {
            hooks |= (uint32_t)(image->hook_entry[hook] == at) << hook;
            underflows |= (uint32_t)(image->underflow[hook] == at) << hook;
        }
    }
    if (number != image->number || image->valid_hooks >> NF_INET_NUMHOOKS || !image->valid_hooks)
        return EINVAL;
    for (int hook = 0, last = -1; hook < NF_INET_NUMHOOKS; hook++) {
        if (!(image->valid_hooks >> hook & 1))
            continue;
        if (!(hooks & underflows & 1u << hook) || image->hook_entry[hook] > image->underflow[hook])
            return EINVAL;
        /* one chain after the other, as iptables writes them */
        if (last >= 0 && image->hook_entry[hook] <= image->underflow[last])
            return EINVAL;
        last = hook;
    }
    return 0;
}

bool nfk_image_same(const struct nfk_image *left, const struct nfk_image *right)
{
    /* the kernel writes the hooks that an entry is reached from there; behind it are the counters */
    size_t reached = left->family == AF_INET6 ? offsetof(struct ip6t_entry, comefrom)
                                              : offsetof(struct ipt_entry, comefrom);
    size_t head = nfk_head_size(left->family), at = 0, next;

    if (left->size != right->size || left->number != right->number)
        return false;
    for (; at < left->size; at += next) {
        const unsigned char *a = left->entries + at, *b = right->entries + at;

        next = nfk_next_offset(left->family, a);
        if (memcmp(a, b, reached) != 0 || memcmp(a + head, b + head, next - head) != 0)
            return false;
    }
    return true;
}
