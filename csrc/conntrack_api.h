/* What nfkeep.conntrack._ffi calls: the cffi builder reads this file as its cdef (lines that begin with # dropped),
 * and every C file of this world includes it, so that both sides always agree. Functions that can fail return
 * -errno, or NULL with *error set. Nothing here is thread-safe; each handle belongs to one caller at a time. */
#ifndef NFK_CONNTRACK_API_H
#define NFK_CONNTRACK_API_H

/* Inclusive port ranges [first, first + count) in the port array of the filter; count 0: any port, any protocol. */
typedef struct { uint32_t first, count; uint8_t inverted; } nfk_port_set;
typedef struct { uint16_t low, high; } nfk_ports;

/* One rule's conditions; all-zero masks match anything. Interface masks are byte-wise, as in struct ipt_ip. */
typedef struct {
    uint8_t protocol, protocol_inverted, source_inverted, destination_inverted, in_inverted, out_inverted;
    uint8_t source[16], source_mask[16], destination[16], destination_mask[16];
    uint8_t in_interface[16], in_mask[16], out_interface[16], out_mask[16];
    nfk_port_set source_ports, destination_ports, either_ports;
} nfk_condition;

typedef struct {
    uint32_t first, count;                      /* its conditions: all must hold */
    uint8_t hook, destination_translated, replies;
} nfk_selector;

typedef struct {
    uint8_t family;
    const nfk_selector *selectors; uint32_t n_selectors;
    const nfk_condition *conditions;
    const nfk_ports *ports;
    uint32_t *counts;                           /* out, per selector: flows that it matches */
} nfk_filter;

typedef struct { uint64_t offloaded, protocol, expectations, no_interface; } nfk_skipped;

typedef struct nfk_flows nfk_flows;
nfk_flows *nfk_select(int ctnetlink, int rtnetlink, const nfk_filter *filter, nfk_skipped *skipped, int *error);
size_t nfk_flows_count(const nfk_flows *flows);
size_t nfk_flows_interfaces(const nfk_flows *flows, int32_t *out, size_t room);  /* how many there are */
int nfk_flows_local(const nfk_flows *flows);    /* whether a sender is this host itself */
unsigned nfk_flows_hooks(const nfk_flows *flows);    /* bits: the hooks whose nonces packets will carry */
int nfk_flows_leave_out(nfk_flows *flows, const uint32_t *indexes, size_t count);   /* not to be primed */
void nfk_flows_sent(const nfk_flows *flows, uint32_t *out);     /* per flow: packets sent, original and reply */
unsigned nfk_flows_passages(const nfk_flows *flows, size_t index);  /* bit direction * 5 + hook */
/* What rules see of the opening packets: two for each flow, the original direction first. `is_new`: flows are created
 * again before their packets are sent. */
size_t nfk_flows_probes(const nfk_flows *flows, int is_new, struct nfk_probe *out);
void nfk_flows_free(nfk_flows *flows);

int nfk_netlink_open(int protocol);             /* a bound socket with large buffers */

/* Where opening packets enter: a TAP per remote interface, raw sockets for flows that start on this host. */
typedef struct { int32_t ifindex; int fd; uint8_t mac[6]; } nfk_tap;
int nfk_tap_open(char name[16], uint8_t mac[6]);
int nfk_sysfs_open(void);                       /* the sysfs of the calling thread's network namespace: a directory */

typedef struct {
    uint64_t primed, recreated, vanished, unsent, uncertain;
    uint64_t packets[5];                        /* by the hook whose nonce they carry */
    uint32_t failed[256];                       /* flows by errno */
    int32_t send_error;                         /* errno of the last packet that could not be sent */
} nfk_primed;

typedef struct nfk_primer nfk_primer;
/* `rejects`: some rule may answer an opening packet with a reset, which closes the entry (nf_ct_set_closing). The
 * answer to `question`, an nfnetlink request, changes whenever one did; without it every entry is looked at.
 * `rounds`: how often a flow has its turn again if real packets may have come before its opening packet. */
nfk_primer *nfk_primer_open(nfk_flows *flows, int recreate, int rejects, int rounds, size_t batch,
                            const uint32_t nonces[5], const nfk_tap *taps, size_t n_taps, int raw,
                            const void *question, size_t length, int *error);
/* One batch: begin rebuilds its flows and sends their opening packets, reply sends the packets in the direction of
 * replies (where rules count those), finish makes the flows whole. The caller may wait before reply and finish. From
 * begin and reply 1: packets were sent, 0: there was nothing to do. `between`, or NULL, is called when entries are
 * rebuilt and no packet is sent yet: for tests. */
int nfk_primer_begin(nfk_primer *primer, void (*between)(void));
int nfk_primer_reply(nfk_primer *primer);
int nfk_primer_finish(nfk_primer *primer);
/* All three in one call, for packets that have passed the rules when sending them returns. */
int nfk_primer_batch(nfk_primer *primer, void (*between)(void));
const nfk_primed *nfk_primer_result(const nfk_primer *primer);
int nfk_primer_guardian(const nfk_primer *primer);  /* its process id, 0 without one */
void nfk_primer_close(nfk_primer *primer);

/* Whose entries to delete: the first `prefix` bits of the original source are those of `address`. */
typedef struct { uint8_t address[16], prefix; } nfk_source;
/* To which services, by the original tuple; ports inclusive. 0-65535 holds for protocols without ports, too. */
typedef struct { uint8_t protocol; uint16_t low, high; } nfk_service;
/* `refused`: entries in a flowtable, of a kernel that deletes none of these. */
typedef struct { uint64_t deleted, refused; } nfk_killed;
/* Up to `singly` hosts are asked for one by one, so that the kernel filters its dumps. No services: every protocol. */
int nfk_kill(int ctnetlink, uint8_t family, const nfk_source *sources, size_t n_sources,
             const nfk_service *services, size_t n_services, size_t singly, nfk_killed *killed);

/* The opening packet of a flow (addresses 4 or 16 bytes by family); 0 if it does not fit or cannot be made. */
size_t nfk_packet(uint8_t *out, size_t room, uint8_t family, uint8_t protocol, const uint8_t *source,
                  const uint8_t *destination, uint16_t source_port, uint16_t destination_port,
                  int reply, uint32_t nonce, uint32_t acknowledge);
/* Whether one condition holds for one packet; interfaces are 16 bytes, NULL when unknown. For tests. */
int nfk_holds(const nfk_condition *condition, const nfk_ports *ports, uint8_t family, uint8_t protocol,
              const uint8_t *source, const uint8_t *destination, uint16_t source_port, uint16_t destination_port,
              const uint8_t *in_name, const uint8_t *out_name);
#endif
