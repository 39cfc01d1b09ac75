"""Has the kernel count live flows again: recreate and prime, by batches (csrc/conntrack_prime.c, docs/how-it-works.md).

A batch is never left half-done: C runs it whole, an interrupt takes effect between batches, and a guardian process
completes it even if this one is killed.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import attrs

from nfkeep.conntrack import _ffi

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nfkeep.conntrack.flows import Conntrack, Flows
    from nfkeep.conntrack.inject import Injector
    from nfkeep.model import Hook


_BATCH = 32  # as fast as larger ones, and each flow is without its status for a shorter time
_PATIENT_BATCH = 128


@attrs.frozen(slots=True)
class Primed:
    """What came of it.

    `primed`: flows of which at least one packet was sent. `packets`: those sent, by the hook whose nonce they carry
    (one packet per direction, for the farthest of its hooks: on its way it passes the others). `recreated`: entries
    deleted and created again. `vanished`: flows that were gone or closed when their turn came, and stay so. `failed`:
    errno → flows that the kernel would not create again, whatever was left out. `unsent`: flows whose packet could not
    be sent. `uncertain`: those of `primed` that may not be counted all the same, as in every turn they had real packets
    may have come before their opening packet. `seconds`: for all of it, the guardian's life included.
    """

    primed: int
    packets: Mapping[Hook, int]
    recreated: int
    vanished: int
    failed: Mapping[int, int]
    seconds: float
    unsent: int = 0
    uncertain: int = 0


def prime(
    conntrack: Conntrack,
    flows: Flows,
    injector: Injector,
    *,
    recreate: bool,
    nonces: Mapping[Hook, int],
    batch: int | None = None,
    rejects: bool = True,
    resets: bytes = b"",
    rounds: int = 8,
    settle: Callable[[Mapping[Hook, int]], None] | None = None,
    done: Callable[[], None] | None = None,
    _between: Callable[[], None] | None = None,
) -> Primed:
    """Send the opening packet of each flow through the rules; with `recreate`, as that of a new connection.

    `recreate` is for kernels whose nf_conncount skips ASSURED flows, and for rules that ask for `ctstate NEW`: flows
    that are ASSURED or have SEEN_REPLY are deleted and created again without these bits before, and get them back
    after. They lose their accounting counters and start time, TCP flows the checking of windows; mark, labels, zone,
    NAT, helper and timeout stay. The caller's nft rules drop packets that carry `nonces[hook]` behind that hook (see
    `nfkeep.conntrack.identity`).

    `rejects`: a rule on the way may answer an opening packet by `REJECT --reject-with tcp-reset`, which sets the live
    entry to CLOSE (nf_ct_set_closing()); then each TCP entry is read once more and set right. The reset itself must be
    kept on the host by the caller. `resets`: a request to nfnetlink that is answered differently as soon as there was a
    reset (`OwnedTable.question()`); then entries are only read where there was one.

    `rounds`: with `recreate`, a reply and an acknowledgement of a live flow may come just between CREATE and its
    opening packet, which then does not count it. Each entry shows afterwards whether that can have been; if so, the
    flow has its turn again, up to so many times, in batches of eight flows and in the end of one, and in all for about
    a second at most. `batch`: flows at once; by default few, or more where the caller has to wait for each batch.

    `settle` is called with the packets sent so far, by hook, whenever some packets may still be on their way (see
    `Injector.synchronous`); it returns when they have arrived. Without it nobody can tell what came first there, so no
    flow of such a run has a second turn. `done` is called when all is counted and whole, before the guardian, with
    nothing left to do, has ended (about 1 ms; more on a busy host). `_between`, for tests, is called in each batch
    before its packets are sent.

    `flows` must come from `conntrack`, in the same network namespace, and can be primed once. Raises
    PermissionDeniedError, UnsupportedError, NfkeepError; flows rebuilt until then are whole. ValueError for the wrong
    `conntrack` or a closed one, and if one of `flows.hooks` has no nonce.
    """
    if flows.conntrack is not conntrack or conntrack.closed or flows.handle.closed:
        raise ValueError("flows can only be primed while they and the Conntrack that selected them are open")
    if unmarked := flows.hooks - nonces.keys():
        raise ValueError(f"without a nonce for {sorted(unmarked)} nobody could drop the packets that go there")
    started = time.monotonic()
    injector.prepare(flows.interfaces)
    local = flows.has_local_senders
    queued = local or not all(map(injector.synchronous, flows.interfaces))
    primer = _ffi.PrimerHandle(
        flows.handle,
        recreate=recreate,
        rejects=rejects,
        rounds=0 if queued and settle is None else rounds,
        batch=batch or (_PATIENT_BATCH if queued else _BATCH),
        nonces=nonces,
        taps=[(tap.target, tap.fd, tap.mac) for tap in injector.taps],
        raw=injector.raw_socket(flows.family) if local else -1,
        resets=b"" if queued and settle is None else resets,
    )
    try:
        more = len(flows) > 0
        while more:
            if queued and settle is not None:
                more = _batch_with_pauses(primer, settle, _between)
            else:
                more = primer.batch(_between)
        result = primer.result()
        if done is not None:
            done()
    finally:
        primer.close()  # the guardian completes what an error left
    return Primed(
        result.primed, result.packets, result.recreated, result.vanished, result.failed,
        time.monotonic() - started, result.unsent, result.uncertain,
    )  # fmt: skip


def _batch_with_pauses(
    primer: _ffi.PrimerHandle, settle: Callable[[Mapping[Hook, int]], None], between: Callable[[], None] | None
) -> bool:
    try:
        more = primer.begin(between)
        if more:
            settle(primer.packets())
        if primer.reply():
            settle(primer.packets())
    finally:
        primer.finish()
    return more
