"""The one door to the compiled part of the conntrack world: csrc/conntrack_api.h, call by call.

Each handle owns its C memory and has `close()`; errno values become errors here, by one table.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Any

import attrs

from nfkeep.conntrack._conntrack import ffi as _c_ffi
from nfkeep.conntrack._conntrack import lib as _c_lib
from nfkeep.errors import NfkeepError, PermissionDeniedError, UnsupportedError
from nfkeep.model import Family, Hook

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from nfkeep.conntrack.select import Condition, PortRanges, Selector

ffi: Any = _c_ffi
lib: Any = _c_lib

_MISSING = {errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT, errno.EOPNOTSUPP, errno.ENOSYS}


def fail(number: int, doing: str, feature: str | None = None) -> NfkeepError:
    """The error for an errno (either sign): to be raised by the caller."""
    number = abs(number)
    if number in (errno.EPERM, errno.EACCES):
        return PermissionDeniedError(doing)
    message = f"{doing}: {os.strerror(number)}"
    if number in _MISSING or feature is not None:
        return UnsupportedError(message, feature)
    return NfkeepError(message)


def open_netlink(protocol: int) -> int:
    """A bound netlink socket with large buffers, in the calling thread's namespace; the caller closes it."""
    fd: int = lib.nfk_netlink_open(protocol)
    if fd < 0:
        raise fail(fd, "opening a netlink socket")
    return fd


@attrs.frozen(slots=True)
class Skipped:
    """Flows that match but cannot be primed, by reason; see `Flows.skipped`."""

    offloaded: int
    protocol: int
    expectations: int
    no_interface: int


class FlowsHandle:
    """Owns the selected flows. `pointer` is for this module only."""

    __slots__ = ("pointer",)

    def __init__(self, pointer: Any) -> None:
        self.pointer = pointer

    def __len__(self) -> int:
        return int(lib.nfk_flows_count(self.pointer)) if self.pointer else 0

    @property
    def closed(self) -> bool:
        """Whether the flows are freed."""
        return not self.pointer

    def interfaces(self) -> frozenset[int]:
        """The interfaces behind which remote senders are."""
        room = 64
        while True:
            out = ffi.new("int32_t[]", room)
            count = lib.nfk_flows_interfaces(self.pointer, out, room)
            if count < room:
                return frozenset(out[0:count])
            room *= 4

    def hooks(self) -> frozenset[Hook]:
        """The hooks whose nonces opening packets will carry."""
        bits = lib.nfk_flows_hooks(self.pointer)
        return frozenset(hook for hook in Hook if bits >> hook & 1)

    def has_local_senders(self) -> bool:
        """Whether opening packets have to leave from this host itself."""
        return bool(lib.nfk_flows_local(self.pointer))

    def leave_out(self, indexes: Sequence[int]) -> None:
        """Have these flows not primed; IndexError, with nothing done, if there is no such flow."""
        if any(not 0 <= index < len(self) for index in indexes):
            raise IndexError("no such flow")
        lib.nfk_flows_leave_out(self.pointer, ffi.new("uint32_t[]", list(indexes)), len(indexes))

    def sent(self) -> memoryview:
        """Per flow the packets that were sent in its original direction and in that of replies."""
        out = ffi.new("uint32_t[]", max(1, 2 * len(self)))
        lib.nfk_flows_sent(self.pointer, out)
        return memoryview(bytes(ffi.buffer(out, 8 * len(self)))).cast("I")

    def passages(self, index: int) -> int:
        """Bit `direction * 5 + hook` for each passage of one flow."""
        return int(lib.nfk_flows_passages(self.pointer, index))

    def probes(self, is_new: bool) -> bytes:
        """The opening packets as rules see them; see `Flows.probes`."""
        out = ffi.new("struct nfk_probe[]", 2 * len(self))
        written = lib.nfk_flows_probes(self.pointer, is_new, out) if self.pointer else 0
        return bytes(ffi.buffer(out, written * ffi.sizeof("struct nfk_probe")))

    def close(self) -> None:
        """Free the flows; calling it again does nothing."""
        pointer, self.pointer = self.pointer, None
        if pointer:
            lib.nfk_flows_free(pointer)


def select(
    ctnetlink: int, rtnetlink: int, family: Family, selectors: Sequence[Selector]
) -> tuple[FlowsHandle, tuple[int, ...], Skipped]:
    """One dump, filtered: the flows, how many of them each selector matches, and what was skipped."""
    keep: list[Any] = []
    ports: list[tuple[int, int]] = []
    conditions = [condition for selector in selectors for condition in selector.conditions]
    c_conditions = ffi.new("nfk_condition[]", max(1, len(conditions)))
    c_selectors = ffi.new("nfk_selector[]", max(1, len(selectors)))
    counts = ffi.new("uint32_t[]", max(1, len(selectors)))
    for index, condition in enumerate(conditions):
        _check_family(condition, family)
        _fill_condition(c_conditions[index], condition, ports)
    first = 0
    for index, selector in enumerate(selectors):
        c_selectors[index] = (
            first, len(selector.conditions), selector.hook, selector.destination_translated, selector.replies
        )  # fmt: skip
        first += len(selector.conditions)
    c_ports = ffi.new("nfk_ports[]", ports or [(0, 0)])
    keep += [c_conditions, c_selectors, c_ports]
    query = ffi.new("nfk_filter *", (family.value, c_selectors, len(selectors), c_conditions, c_ports, counts))
    skipped, error = ffi.new("nfk_skipped *"), ffi.new("int *")
    pointer = lib.nfk_select(ctnetlink, rtnetlink, query, skipped, error)
    if not pointer:
        raise fail(error[0], "reading the connection tracking table")
    found = Skipped(skipped.offloaded, skipped.protocol, skipped.expectations, skipped.no_interface)
    return FlowsHandle(pointer), tuple(counts[0 : len(selectors)]), found


def holds(
    condition: Condition, family: Family, protocol: int, source: bytes, destination: bytes,
    source_port: int = 0, destination_port: int = 0, in_name: bytes | None = b"", out_name: bytes | None = b"",
) -> bool:  # fmt: skip
    """Whether a condition holds for one packet; an interface that is None is unknown."""
    ports: list[tuple[int, int]] = []
    c_condition = ffi.new("nfk_condition *")
    _fill_condition(c_condition, condition, ports)
    names = [ffi.NULL if name is None else ffi.new("uint8_t[16]", name) for name in (in_name, out_name)]
    return bool(
        lib.nfk_holds(
            c_condition, ffi.new("nfk_ports[]", ports or [(0, 0)]), family.value, protocol,
            ffi.from_buffer("uint8_t[]", source), ffi.from_buffer("uint8_t[]", destination),
            source_port, destination_port, *names,
        )
    )  # fmt: skip


def _check_family(condition: Condition, family: Family) -> None:
    """Raises ValueError for an address of the other family, which would be compared with the wrong bytes."""
    length = 4 if family is Family.IPV4 else 16
    for name in ("source", "source_mask", "destination", "destination_mask"):
        if len(getattr(condition, name)) not in (0, length):
            raise ValueError(f"{name}: not {length} bytes, as {family} wants")


def _fill_condition(out: Any, condition: Condition, ports: list[tuple[int, int]]) -> None:
    out.protocol, out.protocol_inverted = condition.protocol, condition.protocol_inverted
    for name in ("source", "destination"):
        address: bytes = getattr(condition, name)
        mask: bytes = getattr(condition, f"{name}_mask") or b"\xff" * len(address)
        setattr(out, name, address.ljust(16, b"\0"))
        setattr(out, f"{name}_mask", mask.ljust(16, b"\0"))
        setattr(out, f"{name}_inverted", getattr(condition, f"{name}_inverted"))
    for name in ("in", "out"):
        setattr(out, f"{name}_interface", getattr(condition, f"{name}_interface").ljust(16, b"\0"))
        setattr(out, f"{name}_mask", getattr(condition, f"{name}_interface_mask").ljust(16, b"\0"))
        setattr(out, f"{name}_inverted", getattr(condition, f"{name}_interface_inverted"))
    for name in ("source_ports", "destination_ports", "either_ports"):
        ranges: PortRanges = getattr(condition, name)
        setattr(out, name, (len(ports), len(ranges), getattr(condition, f"{name}_inverted")))
        ports += ranges


SINGLY = 2
"""So many hosts at most are asked for one by one; 0 for never. A filtered dump still walks the whole table: in a fifth
of the time of a dump of all when there is much in it, in nearly the same when there is little. But it makes no pause in
which this CPU could receive packets: ctnetlink_dump_table() has softirqs off until it has filled a message."""


def delete_from(
    ctnetlink: int, family: Family, sources: Sequence[tuple[bytes, int]], services: Sequence[tuple[int, int, int]]
) -> int:
    """Find and delete entries by original source and service; see `Conntrack.delete_from`."""
    width = 4 if family is Family.IPV4 else 16
    for address, prefix in sources:
        if len(address) != width or not 0 <= prefix <= 8 * width:
            raise ValueError(f"{address.hex()}/{prefix} is no {family} host or network")
    for protocol, low, high in services:
        if not (0 <= protocol <= 0xFF and 0 <= low <= high <= 0xFFFF):
            raise ValueError(f"protocol {protocol}, ports {low}-{high}: no such service can be")
    packed = b"".join(address.ljust(16, b"\0") + bytes((prefix,)) for address, prefix in sources)  # as nfk_source
    killed = ffi.new("nfk_killed *")
    error = lib.nfk_kill(
        ctnetlink, family.value, ffi.from_buffer("nfk_source[]", packed), len(sources),
        ffi.new("nfk_service[]", list(services)), len(services), SINGLY, killed,
    )  # fmt: skip
    if error:
        raise fail(error, "deleting entries of the connection tracking table")
    if killed.refused:
        raise UnsupportedError(
            f"{killed.refused} connections are in a flowtable and not deleted: this kernel refuses that (Linux 6.4, "
            f"6.1.32 and 5.15.115 do not); of the others {killed.deleted} were deleted",
            "deletion of offloaded connections",
        )
    return int(killed.deleted)


def open_tap() -> tuple[int, str, bytes]:
    """A new TAP in the calling thread's namespace: its descriptor, name and MAC. It dies with the descriptor.

    Raises UnsupportedError where /dev/net/tun is missing, PermissionDeniedError.
    """
    name, mac = ffi.new("char[16]"), ffi.new("uint8_t[6]")
    fd: int = lib.nfk_tap_open(name, mac)
    if fd < 0:
        missing = -fd in (errno.ENOENT, errno.ENODEV, errno.ENXIO)
        raise fail(fd, "making a TAP device through /dev/net/tun", "/dev/net/tun" if missing else None)
    return fd, ffi.string(name).decode(), bytes(mac)


def open_sysfs() -> int:
    """The sysfs of the calling thread's network namespace, as a directory; where that is refused, what is at /sys."""
    fd: int = lib.nfk_sysfs_open()
    return fd if fd >= 0 else os.open("/sys", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def build_packet(
    family: Family, protocol: int, source: bytes, destination: bytes, source_port: int, destination_port: int,
    nonce: int, *, reply: bool = False, acknowledge: int = 1,
) -> bytes:  # fmt: skip
    """The opening packet of a flow, from the IP header on; empty for a protocol that is neither TCP nor UDP."""
    out = ffi.new("uint8_t[128]")
    length = lib.nfk_packet(
        out, 128, family.value, protocol, ffi.from_buffer("uint8_t[]", source),
        ffi.from_buffer("uint8_t[]", destination), source_port, destination_port, reply, nonce, acknowledge,
    )  # fmt: skip
    return bytes(ffi.buffer(out, length))


@attrs.frozen(slots=True)
class Result:
    """nfk_primed, as values."""

    primed: int
    recreated: int
    vanished: int
    unsent: int
    uncertain: int
    packets: Mapping[Hook, int]
    failed: Mapping[int, int]
    send_error: int


class PrimerHandle:
    """Owns a run of recreate and prime, with its guardian process. Close it in every case."""

    __slots__ = ("_flows", "_pointer")

    def __init__(
        self, flows: FlowsHandle, *, recreate: bool, rejects: bool, rounds: int, batch: int,
        nonces: Mapping[Hook, int],
        taps: Sequence[tuple[int, int, bytes]], raw: int, resets: bytes = b"",
    ) -> None:  # fmt: skip
        c_taps = ffi.new("nfk_tap[]", max(1, len(taps)))
        for index, (ifindex, fd, mac) in enumerate(taps):
            c_taps[index].ifindex, c_taps[index].fd, c_taps[index].mac = ifindex, fd, mac
        error = ffi.new("int *")
        self._flows = flows  # the primer points into it
        self._pointer = lib.nfk_primer_open(
            flows.pointer, recreate, rejects, rounds, batch, [nonces.get(hook, 0) for hook in Hook],
            c_taps, len(taps), raw, ffi.from_buffer(resets), len(resets), error,
        )  # fmt: skip
        if not self._pointer:
            raise fail(error[0], "preparing to rebuild flows")

    def begin(self, between: Callable[[], None] | None = None) -> bool:
        """Rebuild the next batch and send its opening packets; False if none was left. `finish` must follow.

        Also after an error. `between`, for tests, is called after the first and before the second.
        """
        callback = ffi.NULL if between is None else ffi.callback("void(void)", between)
        return self._answer(lib.nfk_primer_begin(self._pointer, callback))

    def reply(self) -> bool:
        """Send the batch's packets in the direction of replies; False if rules count none of these."""
        return self._answer(lib.nfk_primer_reply(self._pointer))

    def finish(self) -> None:
        """Make the batch whole."""
        self._answer(lib.nfk_primer_finish(self._pointer))

    def batch(self, between: Callable[[], None] | None = None) -> bool:
        """`begin`, `reply` and `finish` without a pause; False if no batch was left."""
        callback = ffi.NULL if between is None else ffi.callback("void(void)", between)
        return self._answer(lib.nfk_primer_batch(self._pointer, callback))

    @staticmethod
    def _answer(number: int) -> bool:
        if number < 0:
            raise fail(number, "rebuilding flows")
        return bool(number)

    def guardian(self) -> int:
        """The process id of the guardian, 0 without one."""
        return int(lib.nfk_primer_guardian(self._pointer))

    def packets(self) -> Mapping[Hook, int]:
        """The packets sent so far."""
        sent = lib.nfk_primer_result(self._pointer).packets
        return {hook: sent[hook] for hook in Hook}

    def result(self) -> Result:
        """What was done so far."""
        primed = lib.nfk_primer_result(self._pointer)
        return Result(
            primed.primed, primed.recreated, primed.vanished, primed.unsent, primed.uncertain,
            self.packets(),
            {number: count for number, count in enumerate(ffi.unpack(primed.failed, len(primed.failed))) if count},
            primed.send_error,
        )  # fmt: skip

    def close(self) -> None:
        """Dismiss the guardian, which first completes what is not complete; calling it again does nothing."""
        pointer, self._pointer = self._pointer, None
        if pointer:
            lib.nfk_primer_close(pointer)
