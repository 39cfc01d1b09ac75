/* A table's image as the kernel hands it out, for those who only read it. */
#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#include "xtables_world.h"

/* struct ip6t_getinfo and ip6t_get_entries have the same layout as those of IPv4 (linux/netfilter_ipv6/ip6_tables.h). */
static int read_once(int fd, int family, const char *name, struct nfk_kernel_image *image)
{
    bool v6 = family == AF_INET6;
    int level = v6 ? IPPROTO_IPV6 : IPPROTO_IP, error = 0;
    struct ipt_getinfo info = {0};
    struct ipt_get_entries *entries;
    socklen_t size = sizeof(info);

    strcpy(info.name, name);
    if (getsockopt(fd, level, v6 ? IP6T_SO_GET_INFO : IPT_SO_GET_INFO, &info, &size) < 0)
        return errno;
    size = sizeof(*entries) + info.size;
    entries = calloc(1, size);
    image->entries = malloc(info.size + 1);
    if (!entries || !image->entries)
        error = ENOMEM;
    else {
        strcpy(entries->name, name);
        entries->size = info.size;
        if (getsockopt(fd, level, v6 ? IP6T_SO_GET_ENTRIES : IPT_SO_GET_ENTRIES, entries, &size) < 0)
            error = errno;
    }
    if (!error) {
        memcpy(image->entries, entries->entrytable, info.size);
        image->size = info.size;
        image->count = info.num_entries;
        image->valid_hooks = info.valid_hooks;
        memcpy(image->hook_entry, info.hook_entry, sizeof(image->hook_entry));
        memcpy(image->underflow, info.underflow, sizeof(image->underflow));
    } else
        nfk_image_free(image);
    free(entries);
    return error;
}

int nfk_image_read(int family, const char *name, struct nfk_kernel_image *image)
{
    int fd, error = EAGAIN;

    *image = (struct nfk_kernel_image){0};
    if (strlen(name) >= XT_TABLE_MAXNAMELEN)
        return ENOENT;
    fd = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
    if (fd < 0)
        return errno;
    for (int attempt = 0; attempt < 8 && error == EAGAIN; attempt++) /* it changed its size between the two calls */
        error = read_once(fd, family, name, image);
    close(fd);
    return error;
}

void nfk_image_free(struct nfk_kernel_image *image)
{
    free(image->entries);
    image->entries = NULL;
}
