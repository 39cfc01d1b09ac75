/*
 * A change of a table in which nothing keeps state, in two calls around what is edited: the system calls of such a
 * change of a small table take 15 us in all, and every call from Python half a microsecond.  Whatever is out of the
 * ordinary is left to the calls for each step, which also know what to say of it.
 */
#include <errno.h>
#include <time.h>
#include <unistd.h>

#include "xtables_table.h"

enum { MOMENT_NS = 1000000 };

static int64_t now_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * INT64_C(1000000000) + now.tv_nsec;
}

const struct nfk_begun *nfk_change_begin(int family, const char *name, const struct nfk_surroundings *around)
{
    int lock = nfk_lock_try(around->lock_variable, around->lock);
    nfk_table *table;
    int64_t began;

    if (lock < 0)
        return NULL;
    began = now_ns();
    table = nfk_is_absent(around->run_variable, around->run) ? nfk_table_open(family, name) : NULL;
    if (!table) {
        close(lock);
        return NULL;
    }
    table->lock = lock;
    table->read_at = now_ns();
    table->read_ns = table->read_at - began;
    table->begun = (struct nfk_begun){table, nfk_table_has(table, around->names, around->count)};
    return &table->begun;
}

int nfk_change_end(nfk_table *table, const struct nfk_surroundings *around)
{
    int64_t took = now_ns() - table->read_at;
    int result;

    if (took > MOMENT_NS && took > table->read_ns)
        return NFK_STEP_BY_STEP;
    if (nfk_table_has(table, around->names, around->count))
        return NFK_STEP_BY_STEP;
    result = nfk_table_commit(table);
    if (result == 0)
        nfk_table_close(table);
    return result;
}
