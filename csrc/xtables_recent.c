/* One address into a list of xt_recent, within a turn that is taken and given here (nfkeep.bans.turns): five system
 * calls that from Python would cost as much again. */
#include "xtables_world.h"
#include <errno.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>
#include <linux/sock_diag.h>                    /* SK_MEMINFO_RMEM_ALLOC */

/* 1: written. 0: another program has had a turn since, and nothing was done. -errno of the write or of the lock. */
int nfk_recent_write(int list, int lock, int ear, const char *command, size_t length)
{
    uint32_t waiting[SK_MEMINFO_VARS];
    socklen_t size = sizeof(waiting);
    int result;
    while (flock(lock, LOCK_EX))
        if (errno != EINTR)
            return -errno;
    if (getsockopt(ear, SOL_SOCKET, SO_MEMINFO, waiting, &size))
        result = -errno;
    else if (waiting[SK_MEMINFO_RMEM_ALLOC])
        result = 0;
    else                                        /* the kernel takes one command a call, at the beginning of the file */
        result = lseek(list, 0, SEEK_SET) || write(list, command, length) < 0 ? -errno : 1;
    flock(lock, LOCK_UN);
    return result;
}
