/*
 * What the watch over the legacy tables asks of the kernel and Python's library cannot: fanotify and inotify groups, a
 * timer that select() sees, and the mark by which one state of a table is told from another.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/timerfd.h>

#include "xtables_table.h"

static int made(int descriptor)
{
    return descriptor < 0 ? -errno : descriptor;
}

int nfk_doorkeeper_open(void)
{
    return made(fanotify_init(FAN_CLOEXEC | FAN_NONBLOCK | FAN_CLASS_CONTENT | FAN_UNLIMITED_QUEUE | FAN_REPORT_TID,
                              O_RDONLY | O_CLOEXEC));
}

int nfk_doorkeeper_add(int group, int file)
{
    return fanotify_mark(group, FAN_MARK_ADD, FAN_OPEN_PERM | FAN_CLOSE, file, NULL) ? errno : 0;
}

int nfk_listener_open(void)
{
    return made(inotify_init1(IN_NONBLOCK | IN_CLOEXEC));
}

int nfk_listener_add(int group, const char *path, int openings)
{
    uint32_t mask = IN_ATTRIB | IN_MOVE_SELF | (openings ? IN_OPEN | IN_CLOSE : 0);

    return inotify_add_watch(group, path, mask) < 0 ? errno : 0;
}

int nfk_ticker_open(uint64_t nanoseconds)
{
    struct timespec every = {.tv_sec = nanoseconds / 1000000000, .tv_nsec = nanoseconds % 1000000000};
    struct itimerspec times = {.it_interval = every, .it_value = every};
    int ticker = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);

    if (ticker >= 0)
        timerfd_settime(ticker, 0, &times, NULL);
    return made(ticker);
}

/* Eight bytes at a time; no defence against somebody who looks for two tables with one mark. */
static uint64_t mix(uint64_t mark, const void *bytes, size_t length)
{
    const unsigned char *at = bytes;
    uint64_t word = 0;

    for (size_t done = 0; done < length; done += sizeof(word)) {
        memcpy(&word, at + done, length - done < sizeof(word) ? length - done : sizeof(word));
        mark = (mark ^ word) * 0x9e3779b97f4a7c15;
        mark ^= mark >> 29;
    }
    return mark;
}

int nfk_table_size_mark(int socket, int family, const char *name, uint64_t *mark)
{
    bool v6 = family == AF_INET6;
    struct ipt_getinfo info = {0};
    socklen_t size = sizeof(info);

    strncpy(info.name, name, sizeof(info.name) - 1);
    if (getsockopt(socket, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IP6T_SO_GET_INFO : IPT_SO_GET_INFO, &info, &size))
        return errno;
    *mark = mix(1, &info, sizeof(info));
    return 0;
}

int nfk_table_rules_mark(int socket, int family, const char *name, uint64_t *mark)
{
    size_t counters = family == AF_INET6 ? offsetof(struct ip6t_entry, counters) : offsetof(struct ipt_entry, counters);
    size_t head = nfk_head_size(family), next;
    struct nfk_image image = {0};
    int error;

    if (strlen(name) >= XT_TABLE_MAXNAMELEN)
        return ENOENT;
    error = nfk_image_read(family, socket, name, &image);
    if (!error && nfk_image_check(&image))
        error = EBADMSG;
    *mark = 1;
    for (size_t at = 0; !error && at < image.size; at += next) {
        const unsigned char *entry = image.entries + at;

        next = nfk_next_offset(family, entry);
        *mark = mix(mix(*mark, entry, counters), entry + head, next - head);
    }
    nfk_image_free(&image);
    return error;
}
