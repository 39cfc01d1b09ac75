"""One nfnetlink socket: sends a batch and says which message the kernel refused, or asks and collects the answers.

The kernel works a message off within send() (netlink_unicast_kernel() in net/netlink/af_netlink.c), so all answers
are there when it returns: nothing here waits, and no descriptor is too high, as one is for select(2).
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence

import attrs

from nfkeep.errors import CommitError, NfkeepError, PermissionDeniedError, UnsupportedError
from nfkeep.nft.messages import NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWRULE, NLM_F_REQUEST, Message, batch, frame
from nfkeep.nft.wire import MESSAGE_HEAD, attributes, attributes_at

_SOL_NETLINK = 270
_NETLINK_NO_ENOBUFS, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 5, 10, 11  # linux/netlink.h
_NETLINK_NETFILTER = 12
_SO_SNDBUFFORCE = 32  # asm-generic/socket.h
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NFT_MSG_GETGEN = 16
_NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x300, 0x10
_NLMSGERR_ATTR_MSG, _NLMSGERR_ATTR_OFFS = 1, 2
_NLM_F_ACK_TLVS = 0x200
_HEAD = struct.Struct("=IHHII")  # struct nlmsghdr
_ERROR = struct.Struct("=i")  # struct nlmsgerr, before the header of the message that was meant
_MISSING = {errno.EOPNOTSUPP, errno.ENOENT, errno.EINVAL, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT}


@attrs.frozen(slots=True)
class Refusal:
    """Why the kernel refused: its errno, the number of the message (0 is the batch as a whole), what that one is."""

    errno: int
    index: int
    what: str
    said: str = ""

    def error(self) -> NfkeepError:
        """The error to raise: nothing of the batch is in force."""
        if self.errno == errno.EPERM:
            return PermissionDeniedError("changing nftables")
        words = f"the kernel refused {self.what} (message {self.index}): {os.strerror(self.errno)}"
        if self.said:
            words += f" ({self.said})"
        if self.errno in _MISSING:
            return UnsupportedError(words, f"nf_tables: {self.what}")
        return CommitError(words, applied=False, errno=self.errno)


class BatchSocket:
    """An nfnetlink socket in the network namespace that is current when it is made; for one thread at a time."""

    def __init__(self) -> None:
        self._socket = open_nfnetlink()
        for option in (_NETLINK_NO_ENOBUFS, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 1

    def generation(self) -> int:
        """The number of the ruleset: every transaction, whoever makes it, is a new one."""
        [answer] = self.ask([Message(_NFT_MSG_GETGEN, 0, b"", "the generation of the ruleset")])
        return int.from_bytes(dict(attributes(answer))[1], "big")  # NFTA_GEN_ID

    def send(self, messages: Sequence[Message], generation: int | None = None) -> Refusal | None:
        """Send the messages as one transaction: all or nothing is in force. None, or the first refusal.

        With a `generation` it is refused (ERESTART) if there was a change since.
        """
        first = self._next(len(messages) + 2)
        self._transmit(batch(messages, first, generation))
        acknowledged = False
        for _, _, sequence, data, flags in self._answers():
            refusal = _refusal(messages, sequence - first, data, flags)
            if refusal is not None:
                self._drain()
                return refusal
            acknowledged = acknowledged or sequence == first + len(messages)
        return None if acknowledged else Refusal(errno.EIO, 0, "the batch", "no answer came")

    def run(self, messages: Sequence[Message]) -> None:
        """Send the messages as one transaction; raise what speaks against it.

        PermissionDeniedError, UnsupportedError where the kernel lacks what a message asks for, else CommitError.
        """
        refusal = self.send(messages)
        if refusal is not None:
            raise refusal.error()

    def ask(self, questions: Sequence[Message]) -> list[bytes]:
        """Send questions outside of any transaction, in one go; the attributes of each answer, in order.

        Raises as `run` does.
        """
        refusal, answers = self.try_ask(questions)
        if refusal is not None:
            raise refusal.error()
        return answers

    def try_ask(self, questions: Sequence[Message]) -> tuple[Refusal | None, list[bytes]]:
        """The same, with the first refusal as a value."""
        first = self._next(len(questions))
        self._transmit(b"".join([frame(each, first + number) for number, each in enumerate(questions)]))
        answers = []
        for kind, _, sequence, data, flags in self._answers():
            if kind != _NLMSG_ERROR:
                answers.append(data[4:])  # behind struct nfgenmsg
                continue
            refusal = _refusal(questions, sequence - first + 1, data, flags)
            if refusal is not None:
                self._drain()
                return refusal, answers
        if len(answers) != len(questions):
            said = f"{len(answers)} answers to {len(questions)} questions"
            return Refusal(errno.EIO, 0, "a question", said), answers
        return None, answers

    def dump(self, kind: int, body: bytes = b"", family: int = socket.AF_UNSPEC) -> list[tuple[int, bytes]]:
        """All that the kernel lists for a request (NFT_MSG_GET*): of each answer the family and the attributes.

        A list that changed while it was read is read again, as often as it takes. Raises as `run` does.
        """
        while True:
            found: list[tuple[int, bytes]] = []
            sequence = self._next(1)
            head = MESSAGE_HEAD.size, NFNL_SUBSYS_NFTABLES << 8 | kind, NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0
            self._transmit(MESSAGE_HEAD.pack(head[0] + len(body), *head[1:], family, 0, 0) + body)
            if not self._collect(sequence, found):
                return found

    def _collect(self, sequence: int, found: list[tuple[int, bytes]]) -> bool:
        """Add what is dumped; whether there was a change meanwhile. The kernel goes on with a dump as it is read."""
        changed = False
        head, size, unpack = _HEAD.size, _HEAD.size + 4, _HEAD.unpack_from
        while True:
            data, at = self._socket.recv(1 << 17), 0
            while at + head <= len(data):  # not by `_messages`: there are too many
                length, kind, flags, of, _ = unpack(data, at)
                if of == sequence:
                    changed = changed or bool(flags & _NLM_F_DUMP_INTR)
                    if kind == _NLMSG_DONE:
                        return changed
                    if kind == _NLMSG_ERROR:
                        raise Refusal(-_ERROR.unpack_from(data, at + head)[0], 0, "a listing").error()
                    found.append((data[at + head], data[at + size : at + length]))  # nfgenmsg begins with the family
                at += max(length + (-length & 3), head)

    def fileno(self) -> int:
        """The socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the socket; soon after a deletion this waits for an RCU grace period, some milliseconds. Idempotent."""
        self._socket.close()

    def _next(self, count: int) -> int:
        if self._sequence + count > 0xFFFFFFFF:
            self._sequence = 1
        first, self._sequence = self._sequence, self._sequence + count
        return first

    def _transmit(self, data: bytes) -> None:
        # netlink_sendmsg() wants room for the whole message; the halving undoes the kernel's doubling
        if len(data) + 1024 > self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2:
            try:
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, len(data) + 1024)
            except PermissionError:
                pass  # it may fit; if not, send() says so
        try:
            self._socket.sendto(data, (0, 0))
        except PermissionError as error:
            raise PermissionDeniedError("changing nftables") from error
        except OSError as error:
            number = error.errno or errno.EIO
            raise Refusal(number, 0, f"a batch of {len(data)} bytes").error() from error

    def _answers(self) -> Iterator[tuple[int, int, int, bytes, int]]:
        """Of each message in the queue: type, length, sequence, what is behind the netlink header, flags."""
        while True:
            try:
                data = self._socket.recv(16384, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            yield from _messages(data)

    def _drain(self) -> None:
        for _ in self._answers():
            pass


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes, int]]:
    """Of each message in a datagram: type, length, sequence, what is behind the netlink header, flags."""
    at = 0
    while at + _HEAD.size <= len(data):
        length, kind, flags, sequence, _ = _HEAD.unpack_from(data, at)
        yield kind, length, sequence, data[at + _HEAD.size : at + length], flags
        at += max(length + (-length & 3), _HEAD.size)


def _refusal(messages: Sequence[Message], index: int, data: bytes, flags: int) -> Refusal | None:
    """What an NLMSG_ERROR says of message `index` (from 1; 0 is the beginning of the batch); None if all is well."""
    number = -_ERROR.unpack_from(data)[0]
    if not number:
        return None
    said, offset = "", 0
    if flags & _NLM_F_ACK_TLVS:
        for kind, content in attributes(data[_ERROR.size + _HEAD.size :]):
            if kind == _NLMSGERR_ATTR_MSG:
                said = content.rstrip(b"\0").decode(errors="replace")
            elif kind == _NLMSGERR_ATTR_OFFS:
                offset = struct.unpack("=I", content)[0]
    if not 1 <= index <= len(messages):
        return Refusal(number, 0, "the batch", said)
    message = messages[index - 1]
    name = _expression_at(message, offset - MESSAGE_HEAD.size)
    return Refusal(number, index, f"{name} in {message.what}" if name else message.what, said)


def _expression_at(message: Message, offset: int) -> str:
    """The name of the expression that begins at this offset of a rule's attributes; "" if none does."""
    if message.kind != NFT_MSG_NEWRULE:
        return ""
    for start, kind, content in attributes_at(message.body):
        if kind == 4:  # NFTA_RULE_EXPRESSIONS
            for inner, _, expression in attributes_at(content):
                if start + 4 + inner == offset:
                    return next(attributes(expression))[1].rstrip(b"\0").decode()
    return ""


def open_nfnetlink() -> socket.socket:
    """A socket of nfnetlink with an address that no other ever has. Raises UnsupportedError."""
    try:
        opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    except OSError as error:
        raise UnsupportedError(f"no nfnetlink socket: {error}", "nfnetlink") from error
    _bind(opened)
    return opened


def _bind(opened: socket.socket) -> None:
    """Give the socket such an address.

    The kernel would choose the process id, and that again as soon as the socket that has it begins to close. It drops
    the tables that a socket owns by address, some milliseconds later (nft_rcv_nl_event() in nf_tables_api.c), and with
    them those of the next socket.
    """
    for _ in range(_TRIES_TO_BIND):
        try:
            opened.bind((int.from_bytes(os.urandom(8), "big") % _ADDRESSES + _FIRST_ADDRESS, 0))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                opened.close()
                raise UnsupportedError(f"no nfnetlink socket: {error}", "nfnetlink") from error
        else:
            return
    opened.close()
    raise UnsupportedError("no nfnetlink socket: no address is free", "nfnetlink")


# Beyond the largest process id (2**22) and below those that the kernel gives away (netlink_autobind()).
_FIRST_ADDRESS, _ADDRESSES = 1 << 23, (1 << 31) - (1 << 23)
_TRIES_TO_BIND = 100
