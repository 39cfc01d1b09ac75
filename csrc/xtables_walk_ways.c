/*
 * What is behind a doubt: the run goes on both ways, where the rule matches and where it does not, until each way has
 * ended.  Ways that meet again at a doubt, with the same packet and the same way back, are one.
 */
#include "xtables_walk.h"

static uint64_t mixed(uint64_t hash, uint64_t word)
{
    hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
    return hash ^ hash >> 29;
}

/* Whether the run has been at this doubt before, with the same packet and the same way back. */
static bool seen_before(struct run *run)
{
    struct nfk_walk *walk = run->walk;
    uint64_t hash = mixed((uint64_t)run->stage << 32 | run->rule, run->depth), words[3] = {0};
    size_t slot;

    _Static_assert(sizeof(run->packet) <= sizeof(words), "all of the packet is hashed");
    memcpy(words, &run->packet, sizeof(run->packet));
    for (size_t i = 0; i < 3; i++)
        hash = mixed(hash, words[i]);
    for (uint32_t i = 0; i < run->depth; i++)
        hash = mixed(hash, walk->stack[i]);
    slot = (hash >> 20) % WALK_SEEN_ROOM;
    while (walk->seen[slot].turn == walk->turn) {
        if (walk->seen[slot].hash == hash)
            return true;
        slot = (slot + 1) % WALK_SEEN_ROOM;
    }
    walk->seen[slot] = (struct seen){hash, walk->turn};
    walk->n_seen++;
    return false;
}

static bool push_fork(struct run *run)
{
    struct nfk_walk *walk = run->walk;

    if (walk->stacks_length + run->depth > walk->stacks_room) {
        size_t room = 2 * (walk->stacks_length + run->depth);
        uint32_t *bigger = realloc(walk->stacks, room * sizeof(*bigger));

        if (!bigger)
            return false;
        walk->stacks = bigger;
        walk->stacks_room = room;
    }
    if (run->depth)
        memcpy(walk->stacks + walk->stacks_length, walk->stack, run->depth * sizeof(*walk->stack));
    walk->stacks_length += run->depth;
    walk->forks[walk->n_forks++] = (struct fork){run->packet, run->rule, run->depth, run->stage};
    return true;
}

static void pop_fork(struct run *run)
{
    struct nfk_walk *walk = run->walk;
    const struct fork *fork = &walk->forks[--walk->n_forks];

    walk->stacks_length -= fork->depth;
    if (fork->depth)
        memcpy(walk->stack, walk->stacks + walk->stacks_length, fork->depth * sizeof(*walk->stack));
    run->packet = fork->packet;
    run->stage = fork->stage;
    run->rule = fork->rule;
    run->depth = fork->depth;
    walk_look_again(run); /* its TTL was seen to when it first came here */
}

void walk_note_end(struct left_mark *left, const struct run *run)
{
    left->unknown |= run->packet.unknown & UNKNOWN_CT_MARK || (left->any && left->mark != run->packet.ct_mark);
    left->mark = run->packet.ct_mark;
    left->any = true;
}

enum end walk_all_ways(struct run *run, struct left_mark *left)
{
    struct nfk_walk *walk = run->walk;
    enum end end = IN_DOUBT;
    unsigned int ends = 0;

    walk->n_forks = walk->n_seen = walk->stacks_length = 0;
    walk->turn++;
    for (;;) {
        if (end == TOO_LONG || end == NO_MEMORY)
            return end;
        if (end != IN_DOUBT) {
            ends |= 1u << end;
            walk_note_end(left, run);
        } else if (!seen_before(run)) {
            if (walk->n_seen == WALK_MOST_WAYS)
                return TOO_LONG;
            if (!push_fork(run))
                return NO_MEMORY;
            run->rule++;
            end = walk_go_on(run, false);
            continue;
        }
        if (!walk->n_forks)
            break;
        pop_fork(run);
        end = walk_go_on(run, true);
    }
    return ends == 1u << AT_SINK ? AT_SINK : ends == 1u << DROPPED ? DROPPED : LEFT;
}
