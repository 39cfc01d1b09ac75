/* Memory for whole tables, kept for the next one: see xtables_block.c. */
#ifndef NFK_XTABLES_BLOCK_H
#define NFK_XTABLES_BLOCK_H

#include <stddef.h>

/* At least `size` bytes of anything; NULL if there is no memory. */
void *nfk_block(size_t size);
/* The same, all zero. */
void *nfk_block_zeroed(size_t size);
/* NULL is allowed. */
void nfk_block_free(void *block);

#endif
