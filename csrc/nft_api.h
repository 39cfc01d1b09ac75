/* What nfkeep.nft._ffi calls: the cffi builder reads this file as its cdef (lines that begin with # dropped), and
 * every C file of this world includes it, so that both sides always agree. Functions that can fail return -errno, or
 * NULL with *error set. Nothing here is thread-safe; each handle belongs to one caller at a time. */
#ifndef NFK_NFT_API_H
#define NFK_NFT_API_H
#include <stddef.h>
#include <stdint.h>

/* Addresses. A kind is 0 IPv4 host, 1 IPv6 host, 2 IPv4 network, 3 IPv6 network; a key is the address, and of a
 * network its netmask behind it. A guard speaks against addresses: those that lie in it, or those that cover it. */
typedef struct { uint8_t kind, prefix, covered, address[16]; } nfk_guard;
typedef struct {
    uint8_t *keys[4]; uint32_t *positions[4];   /* by kind; the caller's, each with room for all */
    uint32_t counts[4];
    uint32_t *refused; uint8_t *reasons;        /* positions of those that are in no kind, and an NFK_REFUSED_* each */
    uint32_t n_refused;
} nfk_sorted;
enum { NFK_REFUSED_TEXT = 1, NFK_REFUSED_HOST_BITS, NFK_REFUSED_IN_GUARD, NFK_REFUSED_COVERS_GUARD };

/* Its kind, or minus an NFK_REFUSED_*. */
int nfk_address(const char *text, size_t length, const nfk_guard *guards, size_t n_guards, uint8_t key[32]);
/* Lines of text, one address each, sorted by kind, no key twice: of those that come again the last position counts. How
 * many lines there are, of which at most `room` are looked at; -errno. */
int64_t nfk_addresses(const char *text, size_t length, size_t room, const nfk_guard *guards, size_t n_guards,
                      nfk_sorted *out);
/* What `ipset save` prints of elements that are one address each: "add NAME ADDRESS" or, if `timed`, "add NAME ADDRESS
 * timeout SECONDS". To keys of `key_bytes`, 4 or 16, and seconds. How many lines there are, at most `room`; -EINVAL if one
 * says anything else, has an address that ipset would print otherwise, or one that came before; -ENOMEM. */
int64_t nfk_ipset_lines(const char *text, size_t length, const char *name, size_t key_bytes, int timed, size_t room,
                        uint8_t *keys, uint32_t *seconds);

/* Sets. One socket serves any number of them; it stays in the network namespace that it was opened in. */
typedef struct nfk_nft nfk_nft;
nfk_nft *nfk_nft_open(int *error);
void nfk_nft_close(nfk_nft *nft);

typedef struct nfk_set nfk_set;
enum { NFK_LONGEST_KEY = 40 };                  /* two IPv6 addresses with a protocol and a port between them */
/* `family` is that of the table, NFPROTO_*; a key has NFK_LONGEST_KEY bytes at most (-EINVAL). */
nfk_set *nfk_set_open(nfk_nft *nft, uint8_t family, const char *table, const char *name, size_t key_bytes, int *error);
void nfk_set_close(nfk_set *set);

/* A transaction that fails costs a grace period of RCU, 8 ms or so, which all others wait for (__nf_tables_abort()): no
 * step fails in the normal course. ADD renews the timeout of an element that is there, on kernels since 6.12. */
enum { NFK_ADD = 1, NFK_DELETE };
typedef struct {
    const uint8_t *keys; size_t count;
    const uint64_t *timeouts; uint64_t timeout;     /* ms, one each or one for all; 0 for ever */
    const uint64_t *expirations;                    /* ms that are left, one each; NULL: all of the timeout */
    const uint8_t *userdata; size_t userdata_length;    /* NFTA_SET_ELEM_USERDATA of all of them */
} nfk_elements;

/* The steps, each over all elements, as one transaction: all or nothing. */
int nfk_set_change(nfk_set *set, const uint8_t *steps, size_t n_steps, const nfk_elements *elements);
/* The same with one step and one element. */
int nfk_set_one(nfk_set *set, uint8_t step, const uint8_t *key, uint64_t timeout, const uint8_t *userdata,
                size_t userdata_length);
/* What most bans and unbans are, in one call: a host by its text, without a comment, with one step that is enough. 1 done,
 * 0 (unban only) it was not in; -1 anything else, and nothing was done: the long way finds out what it is. */
int nfk_ban(nfk_set *v4, nfk_set *v6, const char *text, size_t length, const nfk_guard *guards, size_t n_guards,
            uint64_t timeout);
int nfk_unban(nfk_set *v4, nfk_set *v6, const char *text, size_t length);
/* Take all elements out. */
int nfk_set_flush(nfk_set *set);

typedef struct { uint8_t key[40]; uint64_t timeout, expires; uint32_t comment, comment_length; } nfk_element;
typedef struct { nfk_element *elements; size_t count; uint8_t *text; int interrupted; } nfk_dump;
/* What is under one key: 1 found, 0 not. The comment is in *text as in a dump; both to be freed with the dump. */
int nfk_set_get(nfk_set *set, const uint8_t *key, nfk_dump *out);
/* All elements; `interrupted` if the kernel says that there were changes meanwhile. */
int nfk_set_dump(nfk_set *set, nfk_dump *out);
void nfk_dump_free(nfk_dump *dump);
/* Which of the keys are there: present[i] is 1 or 0. */
int nfk_set_present(nfk_set *set, const uint8_t *keys, size_t count, uint8_t *present);
/* How many there are; -errno. */
int64_t nfk_set_count(nfk_set *set);

/* Rules, as the kernel lists them: the attributes of a NFT_MSG_NEWRULE each. Where they say something is told as offset and
 * length; without userdata its offset is 0. `counter`: where in the expressions the first counter begins, if `counted`. */
typedef struct {
    uint64_t handle, packets, bytes;
    uint32_t table, table_length, chain, chain_length, expressions, expressions_length, userdata, userdata_length;
    uint32_t counter, counted;
    uint32_t meaning, meaning_length;
} nfk_rule;
/* `count` rules, one behind the other, each of so many bytes as `lengths` says. What each does goes into `meanings`, as
 * netstrings (LENGTH:BYTES): of every expression its name and, unless it is one that counts, its values, with "" for the
 * names of nameless sets; and the userdata. -EBADMSG for what is no rule, -ENOSPC if `room` is too small: it never is if it
 * is twice the length of all, and 8 more for each rule. */
int nfk_rules(const uint8_t *data, size_t length, const uint32_t *lengths, size_t count, nfk_rule *out,
              uint8_t *meanings, size_t room);
#endif
