/* Dumps of conntrack entries, expectations and routes from a kernel that says anything: conntrack_select.c and
 * conntrack_kill.c, and what conntrack_messages.c then asks of the kernel about the entries. */
#include "conntrack.h"
#include "fuzz.h"

static void say_everything(const nfk_flows *flows, size_t index)
{
    struct buffer out = {0};
    struct entry entry;

    if (!flow_entry(flows, &flows->flows[index], &entry))
        __builtin_trap();
    message_get(&out, 1, flows->family, &entry);
    message_delete(&out, 2, flows->family, &entry, CTA_TUPLE_ORIG, true);
    for (int level = CREATE_ALL; level <= CREATE_BARE; level++)
        message_create(&out, 3, flows->family, &entry, level);
    message_update(&out, 4, flows->family, &entry, ~0u, entry.status);
    buffer_free(&out);
}

void fuzz_one(const uint8_t *data, size_t size)
{
    static const nfk_ports ports[] = {{1, 65535}};
    static const nfk_condition conditions[] = {
        {.protocol = 0},
        {.protocol = 6, .destination_ports = {.first = 0, .count = 1}},
        {.in_interface = "lo", .in_mask = {255, 255, 255}, .in_inverted = 1}};
    static const nfk_selector selectors[] = {{0, 1, NFK_INPUT, 0, 1}, {1, 2, NFK_FORWARD, 1, 1}, {0, 1, NFK_OUTPUT, 0, 1}};
    static const nfk_service service = {.protocol = 6, .low = 1, .high = 1024};
    uint32_t counts[3] = {0};
    nfk_filter filter = {.selectors = selectors, .n_selectors = 3, .conditions = conditions, .ports = ports,
                         .counts = counts};
    nfk_source sources[2] = {{.prefix = 0}, {.address = {10, 0, 0, 1}, .prefix = 32}};
    int32_t interfaces[16];
    nfk_skipped skipped;
    nfk_killed killed;
    int error;

    if (size < 1)
        return;
    filter.family = *data & 1 ? AF_INET6 : AF_INET;
    fuzz_answers(data + 1, size - 1);
    nfk_flows *flows = nfk_select(-1, -1, &filter, &skipped, &error);
    if (flows) {
        for (size_t i = 0; i < nfk_flows_count(flows); i++)
            say_everything(flows, i);
        nfk_flows_interfaces(flows, interfaces, 16);
        nfk_flows_hooks(flows);
        nfk_flows_free(flows);
    }
    fuzz_answers(data + 1, size - 1);
    nfk_kill(-1, filter.family, sources, 2, *data & 2 ? &service : NULL, *data & 2 ? 1 : 0, *data & 4 ? 8 : 0, &killed);
}
