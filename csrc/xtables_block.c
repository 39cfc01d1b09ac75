/*
 * A table of 50,000 rules takes 20 MB for the time of a change.  Fetched from the system anew each time, that is a page
 * fault for every 4 KiB, which costs as much as the kernel's own work on the table.  So a few blocks are kept, of which
 * any thread may take one.
 */
#include <stdalign.h>
#include <stdlib.h>
#include <string.h>

#include "xtables_block.h"

enum { KEPT = 6, LARGEST_KEPT = 32 << 20, SMALLEST_KEPT = 16 << 10 };

struct block {
    size_t size;
    alignas(max_align_t) unsigned char bytes[];
};

static struct block *kept[KEPT];

/* Into its place again, unless somebody has filled that meanwhile. */
static void put_back(int place, struct block *block)
{
    struct block *none = NULL;

    if (block && !__atomic_compare_exchange_n(&kept[place], &none, block, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        free(block);
}

/* The smallest one that is large enough: the six of one change find their places again in the next. */
static struct block *take(size_t size)
{
    struct block *all[KEPT];
    int best = -1;

    for (int i = 0; i < KEPT; i++) {
        all[i] = __atomic_exchange_n(&kept[i], NULL, __ATOMIC_ACQ_REL);
        if (all[i] && all[i]->size >= size && (best < 0 || all[i]->size < all[best]->size))
            best = i;
    }
    for (int i = 0; i < KEPT; i++)
        if (i != best)
            put_back(i, all[i]);
    return best < 0 ? NULL : all[best];
}

void *nfk_block(size_t size)
{
    struct block *block = size < SMALLEST_KEPT ? NULL : take(size);

    if (block)
        return block->bytes;
    block = malloc(sizeof(*block) + size);
    if (!block)
        return NULL;
    block->size = size;
    return block->bytes;
}

void *nfk_block_zeroed(size_t size)
{
    void *block = nfk_block(size);

    if (block)
        memset(block, 0, size);
    return block;
}

/* Into an empty place, or that of a smaller block: so the largest ones stay. */
void nfk_block_free(void *bytes)
{
    struct block *block = bytes ? (struct block *)((unsigned char *)bytes - offsetof(struct block, bytes)) : NULL;

    if (!block || block->size < SMALLEST_KEPT || block->size > LARGEST_KEPT) {
        free(block);
        return;
    }
    for (int i = 0; i < KEPT && block; i++) {
        struct block *other = __atomic_exchange_n(&kept[i], NULL, __ATOMIC_ACQ_REL);

        if (!other || other->size < block->size) {
            put_back(i, block);
            block = other;
        } else {
            put_back(i, other);
        }
    }
    free(block);
}
