/*
 * Finding a target's extension in either family.  libxtables drops, while it loads a file, the targets of every family
 * but the current one (xtables_register_target()), and remembers a name that it did not find as no target at all
 * (notargets).  Both hold for the life of the process, so here a file is loaded once more, from a copy, when a target
 * turns out to be missing in the second family.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "xtables_text.h"

struct tried {
    struct tried *next;
    int family;
    char name[XT_EXTENSION_MAXNAMELEN];
};

/* Names whose file was loaded from a copy, or that have no file: once is enough for each family. */
static struct tried *tried_before;

static bool try_once(int family, const char *name)
{
    struct tried *entry;

    for (entry = tried_before; entry; entry = entry->next)
        if (entry->family == family && strcmp(entry->name, name) == 0)
            return false;
    entry = xtables_calloc(1, sizeof(*entry));
    entry->family = family;
    strcpy(entry->name, name);
    entry->next = tried_before;
    tried_before = entry;
    return true;
}

/* Loads the file behind `path` as if it were another one: the loader knows files by device and inode, */
static void load_copy(const char *path)
{
    static unsigned int copies;
    char copy_path[PATH_MAX];
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC), copy;
    off_t offset = 0;

    if (file < 0)
        return;
    copy = memfd_create("nfkeep-extension", MFD_CLOEXEC);
    if (copy >= 0 && fstat(file, &status) == 0) {
        while (offset < status.st_size && sendfile(copy, file, &offset, status.st_size - offset) > 0)
            ;
        /* By name as well, and descriptors come again: every copy has one slash more. */
        copies = copies % 512 + 1;
        snprintf(copy_path, sizeof(copy_path), "/proc/self/fd%*s%d", (int)copies, "/", copy);
        for (char *blank = copy_path; (blank = strchr(blank, ' '));)
            *blank = '/';
        if (offset == status.st_size)
            dlopen(copy_path, RTLD_NOW); /* stays loaded, like every extension */
    }
    if (copy >= 0)
        close(copy);
    close(file);
}

static void load_for_this_family(const char *name)
{
    const char *folders = getenv("XTABLES_LIBDIR");
    char path[PATH_MAX];

    if (!folders)
        folders = NFK_XTABLES_LIBDIR;
    while (*folders) {
        size_t length = strcspn(folders, ":");

        snprintf(path, sizeof(path), "%.*s/libxt_%s.so", (int)length, folders, name);
        if (access(path, R_OK) == 0) {
            load_copy(path);
            return;
        }
        folders += length + (folders[length] == ':');
    }
}

static bool registered(int family, const char *name)
{
    uint16_t wanted = family == AF_INET6 ? NFPROTO_IPV6 : NFPROTO_IPV4;

    for (const struct xtables_target *target = xtables_targets; target; target = target->next)
        if ((target->family == wanted || target->family == NFPROTO_UNSPEC) && strcmp(target->name, name) == 0)
            return true;
    return false;
}

struct xtables_target *nfk_find_target(int family, const char *name)
{
    struct xtables_target *target = NULL;

    if (strchr(name, '/')) /* the name would become part of a file's path */
        return NULL;
    if (!registered(family, name)) {
        target = xtables_find_target(name, XTF_TRY_LOAD);
        if (!target && try_once(family, name)) {
            load_for_this_family(name);
            nfk_attempt_target(name);
        }
    }
    if (!target && registered(family, name))
        target = xtables_find_target(name, XTF_LOAD_MUST_SUCCEED);
    return target;
}
