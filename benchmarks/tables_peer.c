/* The peer of benchmarks/tables.py: one rule appended to the table filter through libip4tc, as a C program would do it.
 * Takes the xtables lock, reads, appends, commits; then deletes the rule again, untimed. Prints microseconds.
 * Argument: the lock file. Each line of stdin says how often, and is answered by one line. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include <libiptc/libiptc.h>

static double microseconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static struct ipt_entry *drop_rule(void)
{
    size_t head = sizeof(struct ipt_entry), target = XT_ALIGN(sizeof(struct xt_standard_target));
    struct ipt_entry *entry = calloc(1, head + target);

    entry->ip.src.s_addr = 0x010200c0; /* 192.0.2.1 */
    entry->ip.smsk.s_addr = 0xffffffff;
    entry->target_offset = head;
    entry->next_offset = head + target;
    ipt_get_target(entry)->u.target_size = target;
    strcpy(ipt_get_target(entry)->u.user.name, "DROP");
    return entry;
}

static void change(const char *lock_path, const struct ipt_entry *entry, int add)
{
    int lock = open(lock_path, O_CREAT | O_CLOEXEC, 0600);
    xt_chainlabel chain = "INPUT";
    struct xtc_handle *table;
    unsigned char *mask;

    if (lock < 0 || flock(lock, LOCK_EX))
        exit(1);
    table = iptc_init("filter");
    if (!table)
        exit(2);
    mask = malloc(entry->next_offset);
    memset(mask, 0xff, entry->next_offset);
    if (!(add ? iptc_append_entry(chain, entry, table) : iptc_delete_entry(chain, entry, mask, table))
        || !iptc_commit(table))
        exit(3);
    iptc_free(table);
    free(mask);
    close(lock);
}

int main(int argc, char **argv)
{
    struct ipt_entry *entry = drop_rule();
    char line[16];

    if (argc != 2)
        return 4;
    while (fgets(line, sizeof(line), stdin)) {
        for (int i = atoi(line); i > 0; i--) {
            double started = microseconds();

            change(argv[1], entry, 1);
            printf("%.1f ", microseconds() - started);
            change(argv[1], entry, 0);
        }
        putchar('\n'); /* only now does the other one go for the lock */
        fflush(stdout);
    }
    return 0;
}
