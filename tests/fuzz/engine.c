/*
 * A small fuzzer for plain gcc: it changes seeds at random and keeps what reaches new edges of the code under test,
 * which is compiled with -fsanitize-coverage=trace-pc.  An input lies in a file while it is tried, so that whatever kills
 * the process leaves it behind.
 *
 * engine SECONDS RANDOM-SEED INPUT-FILE SEED-FILE…
 * engine again 0 INPUT-FILE SEED-FILE…                  tries such an input once more
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "fuzz.h"

enum { LONGEST = 1 << 13, MOST = 1 << 14, EDGES = 1 << 16, SECONDS_EACH = 10 };

struct input { uint8_t *bytes; size_t size; };

static struct input corpus[MOST];
static size_t corpus_count;
static uint8_t edges[EDGES], known[EDGES];
static uintptr_t previous;
static uint64_t state;

int fuzz_is_seed;

void __sanitizer_cov_trace_pc(void);

/* Not instrumented itself: this file is compiled without coverage. */
void __sanitizer_cov_trace_pc(void)
{
    uintptr_t here = (uintptr_t)__builtin_return_address(0);
    size_t edge = ((here >> 1) ^ (previous * 31)) & (EDGES - 1);

    edges[edge] += edges[edge] < 255;
    previous = here;
}

static uint32_t chance(uint32_t below)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return below ? (uint32_t)((state >> 16) % below) : 0;
}

/* Numbers of times in steps, as 1, 2, 3 and 4 or more; whether any step is new. */
static int something_new(void)
{
    int is_new = 0;

    for (size_t i = 0; i < EDGES; i++) {
        uint8_t bit = edges[i] ? 1u << (edges[i] < 4 ? edges[i] - 1 : edges[i] < 16 ? 3 : 4) : 0;

        is_new |= bit & ~known[i];
        known[i] |= bit;
    }
    return is_new;
}

static int try_input(const uint8_t *bytes, size_t size)
{
    uint8_t *exact = malloc(size ? size : 1);

    memcpy(exact, bytes, size);
    memset(edges, 0, sizeof(edges));
    previous = 0;
    alarm(SECONDS_EACH);
    fuzz_one(exact, size);
    alarm(0);
    free(exact);
    return something_new();
}

static void keep(const uint8_t *bytes, size_t size)
{
    struct input *into = &corpus[corpus_count < MOST ? corpus_count++ : chance(MOST)];

    free(into->bytes);
    into->bytes = malloc(size ? size : 1);
    into->size = size;
    memcpy(into->bytes, bytes, size);
}

/* A number that code is often wrong about, or one near the old one. */
static uint64_t number(uint64_t old, size_t size)
{
    static const uint64_t some[] = {0, 1, 2, 3, 4, 7, 8, 15, 16, 32, 40, 0x7f, 0x80, 0xff, 0x100, 0x7fff, 0x8000, 0xfff8,
                                    0xffff, 0x10000, 0x7fffffff, 0x80000000, 0xfffffff8, 0xfffffffe, 0xffffffff};

    switch (chance(4)) {
    case 0:
        return some[chance(sizeof(some) / sizeof(*some))];
    case 1:
        return old + (chance(2) ? 1 : -1) * (int64_t)(1ull << chance(8));
    case 2:
        return size + 8 - chance(17);
    default:
        return chance(UINT32_MAX);
    }
}

static size_t change(uint8_t *bytes, size_t size)
{
    size_t at = chance(size), length, to;
    const struct input *other;
    uint64_t value = 0;

    if (!size)
        return size;
    switch (chance(9)) {
    case 0:
        bytes[at] ^= 1u << chance(8);
        return size;
    case 1:
        bytes[at] = number(bytes[at], size);
        return size;
    case 2: /* a length, an offset or the like, where such things stand */
    case 3:
        length = 2u << chance(2);
        at -= at % length;
        if (at + length > size)
            return size;
        memcpy(&value, bytes + at, length);
        value = number(value, size);
        memcpy(bytes + at, &value, length);
        return size;
    case 4: /* ends early */
        return chance(4) ? size - chance(size < 16 ? size : 16) : at;
    case 5: /* a part twice, or somewhere else */
        length = chance(size - at < 256 ? size - at : 256);
        to = chance(size - length);
        memmove(bytes + to, bytes + at, length);
        return size;
    case 6: /* a part put in */
        length = chance(size - at < 256 ? size - at : 256) & ~3u;
        if (size + length > LONGEST)
            return size;
        memmove(bytes + at + length, bytes + at, size - at);
        return size + length;
    case 7: /* a part taken out */
        length = chance(size - at < 256 ? size - at : 256) & ~3u;
        memmove(bytes + at, bytes + at + length, size - at - length);
        return size - length;
    default: /* a part of another one */
        other = &corpus[chance(corpus_count)];
        if (!other->size)
            return size;
        to = chance(other->size) & ~3u;
        length = chance(other->size - to);
        length = length < size - at ? length : size - at;
        memcpy(bytes + at, other->bytes + to, length);
        return size;
    }
}

static size_t read_file(const char *path, uint8_t *into)
{
    FILE *file = fopen(path, "rb");
    size_t size;

    if (!file) {
        perror(path);
        exit(2);
    }
    size = fread(into, 1, LONGEST, file);
    fclose(file);
    return size;
}

static double now(void)
{
    struct timespec time;

    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

/* The input that is being tried, in the file. */
static struct shared { uint64_t size; uint8_t bytes[LONGEST]; } *current;

static void map_current(const char *path, int fresh)
{
    int file = open(path, O_RDWR | (fresh ? O_CREAT | O_TRUNC : 0), 0600);

    if (file < 0 || (fresh && ftruncate(file, sizeof(*current)))) {
        perror(path);
        exit(2);
    }
    current = mmap(NULL, sizeof(*current), PROT_READ | PROT_WRITE, fresh ? MAP_SHARED : MAP_PRIVATE, file, 0);
    if (current == MAP_FAILED)
        exit(2);
    close(file);
}

static void try_seeds(char **paths)
{
    static uint8_t seed[LONGEST];

    fuzz_is_seed = 1;
    for (; *paths; paths++) {
        size_t size = read_file(*paths, seed);

        try_input(seed, size);
        keep(seed, size);
    }
    fuzz_is_seed = 0;
}

static unsigned long fuzz(double seconds)
{
    double end = now() + seconds;
    unsigned long tries = 0;

    for (; now() < end; tries++) {
        const struct input *from = &corpus[chance(corpus_count)];

        current->size = from->size;
        memcpy(current->bytes, from->bytes, from->size);
        for (uint32_t i = 0, changes = 1u << chance(4); i < changes; i++)
            current->size = change(current->bytes, current->size);
        if (try_input(current->bytes, current->size))
            keep(current->bytes, current->size);
    }
    return tries;
}

int main(int argc, char **argv)
{
    int again = argc > 1 && strcmp(argv[1], "again") == 0;
    unsigned long tries;

    if (argc < 5)
        return 2;
    map_current(argv[3], !again);
    try_seeds(argv + 4);
    if (again) {
        try_input(current->bytes, current->size);
        return 0;
    }
    state = strtoull(argv[2], NULL, 10) * 0x9e3779b97f4a7c15ull + 1;
    tries = fuzz(atof(argv[1]));
    printf("%lu inputs, %zu of them to new places\n", tries, corpus_count);
    unlink(argv[3]);
    return 0;
}
