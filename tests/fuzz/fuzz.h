/* What a harness brings, and what it can use: see engine.c. */
#ifndef NFK_FUZZ_H
#define NFK_FUZZ_H

#include <stddef.h>
#include <stdint.h>

/* Does everything with one input. The bytes lie in memory of exactly this size. */
void fuzz_one(const uint8_t *data, size_t size);

/* Whether the input is a seed, as the kernel has really said it. */
extern int fuzz_is_seed;

/* kernel.c: from now on this is what netlink sockets answer. Every exchange takes a byte, which says how many datagrams
 * it brings, and these, each behind its length in 16 bits; the end of the dump comes by itself. Messages whose sequence
 * is FUZZ_SEQUENCE get the one that is waited for. */
#define FUZZ_SEQUENCE 0xfefefefeu
void fuzz_answers(const uint8_t *data, size_t size);

#endif
