/* The guardian: a child that completes a batch if its parent is killed in the middle of it. A flow that stays without
 * SEEN_REPLY would be stalled for ever by rules that drop NEW packets which are not SYNs. The parent leaves the
 * netlink bytes that make the batch whole in shared memory; the child reads a pipe that only the parent's death, or
 * its orderly end, can close. It inherits every other descriptor on purpose: locks, TAPs and owner tables stay in
 * force until it is done. After fork it makes async-signal-safe calls only, and never runs Python. */
#include "conntrack.h"
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

struct shared {
    _Atomic uint64_t active;            /* (slot << 32 | length), written last; 0: nothing to complete */
    uint8_t bytes[];                    /* two slots: the one that is active is never written */
};

struct guardian {
    struct shared *shared;
    size_t room;                        /* of one slot */
    int pipe;                           /* the write end */
    pid_t pid;
};

static _Noreturn void stand_guard(int pipe, int pipe_write, int netlink, const struct shared *shared, size_t room)
{
    static const int ignored[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGPIPE, SIGUSR1, SIGUSR2, SIGALRM};
    struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
    sigset_t none;
    char byte;
    ssize_t got;
    setsid();
    prctl(PR_SET_NAME, "nfkeep-guard", 0, 0, 0);
    for (size_t i = 0; i < sizeof(ignored) / sizeof(*ignored); i++)
        signal(ignored[i], SIG_IGN);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    for (int fd = 0; fd < 3; fd++)
        close(fd);
    close(pipe_write);
    do
        got = read(pipe, &byte, 1);
    while (got > 0 || (got < 0 && errno == EINTR));
    uint64_t active = atomic_load_explicit(&shared->active, memory_order_acquire);
    if (active)                         /* the kernel works through all of it before sendto returns */
        sendto(netlink, shared->bytes + (active >> 32 & 1) * room, active & UINT32_MAX, 0,
               (struct sockaddr *)&kernel, sizeof(kernel));
    _exit(0);
}

/* Descriptors 0 to 2 will be closed in the child, so none of its own may sit there. */
static int above_stdio(int fd)
{
    if (fd < 0 || fd > 2)
        return fd;
    int moved = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    close(fd);
    return moved;
}

/* `ctnetlink` is the parent's: when the child closes it the parent still has it, so that nobody waits for the grace
 * periods that the end of an nfnetlink socket waits for behind a change of nftables (nft_rcv_nl_event). */
struct guardian *guardian_start(size_t room, int ctnetlink, int *error)
{
    struct guardian *guardian = calloc(1, sizeof(*guardian));
    int ends[2] = {-1, -1}, netlink = -1;
    sigset_t all, before;
    *error = -ENOMEM;
    if (!guardian)
        return NULL;
    guardian->room = room;
    guardian->pipe = -1;
    guardian->shared = mmap(NULL, sizeof(struct shared) + 2 * room, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (guardian->shared == MAP_FAILED) {
        free(guardian);
        return NULL;
    }
    netlink = fcntl(ctnetlink, F_DUPFD_CLOEXEC, 3);
    if (netlink < 0 || pipe2(ends, O_CLOEXEC)) {
        *error = -errno;
        goto failed;
    }
    ends[0] = above_stdio(ends[0]);
    ends[1] = above_stdio(ends[1]);
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);    /* no handler of the parent may run in the child */
    guardian->pid = fork();
    if (guardian->pid == 0)
        stand_guard(ends[0], ends[1], netlink, guardian->shared, room);
    *error = guardian->pid < 0 ? -errno : 0;
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (*error)
        goto failed;
    close(ends[0]);
    close(netlink);
    guardian->pipe = ends[1];
    return guardian;
failed:
    for (int i = 0; i < 2; i++)
        if (ends[i] >= 0)
            close(ends[i]);
    if (netlink >= 0)
        close(netlink);
    munmap(guardian->shared, sizeof(struct shared) + 2 * room);
    free(guardian);
    return NULL;
}

int guardian_take(struct guardian *guardian, const struct buffer *messages)
{
    uint64_t active = atomic_load_explicit(&guardian->shared->active, memory_order_relaxed);
    uint64_t slot = !(active >> 32 & 1), next = 0;
    if (messages && messages->length) {
        if (messages->failed || messages->length > guardian->room)
            return -E2BIG;
        memcpy(guardian->shared->bytes + slot * guardian->room, messages->data, messages->length);
        next = slot << 32 | messages->length;
    }
    atomic_store_explicit(&guardian->shared->active, next, memory_order_release);
    return 0;
}

int guardian_pid(const struct guardian *guardian) { return guardian->pid; }

void guardian_stop(struct guardian *guardian)
{
    pid_t done;
    if (!guardian)
        return;
    close(guardian->pipe);              /* whatever is still active gets completed by the child */
    do
        done = waitpid(guardian->pid, NULL, 0);
    while (done < 0 && errno == EINTR);
    munmap(guardian->shared, sizeof(struct shared) + 2 * guardian->room);
    free(guardian);
}
