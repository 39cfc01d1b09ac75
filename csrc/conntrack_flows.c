/* The flows that a selection found: what Python may ask about them, and their end. */
#include "conntrack.h"

size_t nfk_flows_count(const nfk_flows *flows) { return flows->count; }

unsigned nfk_flows_passages(const nfk_flows *flows, size_t index)
{
    return index < flows->count ? flows->flows[index].passages : 0;
}

int nfk_flows_leave_out(nfk_flows *flows, const uint32_t *indexes, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (indexes[i] >= flows->count)
            return -ERANGE;
    for (size_t i = 0; i < count; i++)
        flows->flows[indexes[i]].left_out = 1;
    return 0;
}

void nfk_flows_sent(const nfk_flows *flows, uint32_t *out)
{
    for (size_t i = 0; i < flows->count; i++)
        memcpy(out + 2 * i, flows->flows[i].sent, sizeof(flows->flows[i].sent));
}

static bool sends(const struct flow *flow, int direction)
{
    return flow->passages >> (direction * NFK_HOOKS) & ((1u << NFK_HOOKS) - 1);
}

static int32_t sender(const struct flow *flow, int direction)
{
    return direction ? flow->reply_sender : flow->original_sender;
}

int nfk_flows_local(const nfk_flows *flows)
{
    for (size_t i = 0; i < flows->count; i++)
        for (int d = 0; d < 2; d++)
            if (sends(&flows->flows[i], d) && sender(&flows->flows[i], d) == NFK_LOCAL)
                return 1;
    return 0;
}

/* One packet per direction is enough: on its way to the farthest hook it passes all the others. */
int farthest_hook(unsigned hooks, bool from_here)
{
    static const int8_t order[2][NFK_HOOKS] = {
        {NFK_POSTROUTING, NFK_FORWARD, NFK_INPUT, NFK_PREROUTING, NFK_OUTPUT},
        {NFK_INPUT, NFK_PREROUTING, NFK_POSTROUTING, NFK_OUTPUT, NFK_FORWARD}};
    for (int i = 0; i < NFK_HOOKS; i++)
        if (hooks >> order[from_here][i] & 1)
            return order[from_here][i];
    return -1;
}

unsigned nfk_flows_hooks(const nfk_flows *flows)
{
    unsigned hooks = 0;
    for (size_t i = 0; i < flows->count; i++)
        for (int d = 0; d < 2; d++) {
            const struct flow *flow = &flows->flows[i];
            int hook = farthest_hook(flow->passages >> (d * NFK_HOOKS), sender(flow, d) == NFK_LOCAL);
            hooks |= hook < 0 ? 0 : 1u << hook;
        }
    return hooks;
}

size_t nfk_flows_interfaces(const nfk_flows *flows, int32_t *out, size_t room)
{
    size_t count = 0;
    for (size_t i = 0; i < flows->count; i++)
        for (int d = 0; d < 2; d++) {
            int32_t ifindex = sender(&flows->flows[i], d);
            size_t k = 0;
            if (!sends(&flows->flows[i], d) || ifindex <= 0)
                continue;
            while (k < count && k < room && out[k] != ifindex)
                k++;
            if (k == count && count < room)
                out[count++] = ifindex;
        }
    return count;
}

void nfk_flows_free(nfk_flows *flows)
{
    if (!flows)
        return;
    free(flows->flows);
    buffer_free(&flows->arena);
    free(flows->ctnetlink.received);
    free(flows);
}
