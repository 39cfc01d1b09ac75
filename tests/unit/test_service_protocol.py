"""What goes over the socket of nfkeepd: any bytes make a request or a refusal, and an answer is one line of ASCII."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nfkeep import InvalidAddressError, ListGoneError, RefusedBansError
from nfkeep.service import protocol
from nfkeep.service.protocol import Operation, Refusal, Request, Trouble
from nfkeep.service.reading import read_id, read_object, read_request

REQUESTS = {
    "ping": ({"op": "ping"}, Request(Operation.PING)),
    "a ban": ({"op": "ban", "list": "x", "address": "y"}, Request(Operation.BAN, "x", "y")),
    "with all that it takes": (
        {"id": 7, "op": "ban", "list": "x", "address": "y", "timeout": 1.5, "comment": "z"},
        Request(Operation.BAN, "x", "y", timeout=1.5, comment="z"),
    ),
    "the list's own timeout": (
        {"op": "ban", "list": "x", "address": "y", "timeout": None},
        Request(Operation.BAN, "x", "y"),
    ),
    "for ever": (
        {"op": "ban", "list": "x", "address": "y", "timeout": "forever"},
        Request(Operation.BAN, "x", "y", timeout=math.inf),
    ),
    "many": (
        {"op": "ban_many", "list": "x", "addresses": ["a", ["b", 5], ["c", None]], "timeout": 9},
        Request(Operation.BAN_MANY, "x", items=(("a", None), ("b", 5.0), ("c", None)), timeout=9.0),
    ),
    "none": ({"op": "ban_many", "list": "x", "addresses": []}, Request(Operation.BAN_MANY, "x")),
    "unban": ({"op": "unban", "list": "x", "address": "y"}, Request(Operation.UNBAN, "x", "y")),
    "contains": ({"op": "contains", "list": "x", "address": "y"}, Request(Operation.CONTAINS, "x", "y")),
    "a page": ({"op": "bans", "list": "x", "after": "y", "limit": 3}, Request(Operation.BANS, "x", after="y", limit=3)),
}


@pytest.mark.parametrize(("found", "request_"), REQUESTS.values(), ids=REQUESTS)
def test_reads(found: dict[str, object], request_: Request) -> None:
    """What the page on the protocol shows is understood."""
    assert read_request(read_object(json.dumps(found).encode())) == request_


BAN = '{"op": "ban", "list": "x", "address": "y"'
BAD = {
    "nothing": b"",
    "no JSON": b"ban 203.0.113.9",
    "not UTF-8": b'{"op": "ban\xff"}',
    "UTF-16": '{"op": "ping"}'.encode("utf-16"),
    "a byte order mark": '\ufeff{"op": "ping"}'.encode(),
    "a NUL": b'{"op": "ping"}\0',
    "no object": b'["ping"]',
    "a string": b'"ping"',
    "two objects": b'{"op": "ping"} {"op": "ping"}',
    "nested deeply": b'{"id": ' + b"[" * 30_000 + b"]" * 30_000 + b"}",
    "nested deeply, objects": b'{"id": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_000 + b"}",
    "a key twice": b'{"op": "ping", "op": "ban"}',
    "a key twice, further in": b'{"op": "ping", "id": {"a": 1, "a": 2}}',
    "a number without end": b'{"op": "ping", "id": ' + b"9" * 60_000 + b"}",
    "a number beyond all": b'{"op": "ping", "id": 1e999}',
    "NaN": b'{"op": "ping", "id": NaN}',
    "Infinity": f'{BAN}, "timeout": Infinity}}'.encode(),
    "no op": b"{}",
    "op is no string": b'{"op": ["ban"]}',
    "an op that there is not": b'{"op": "flush"}',
    "a key too many": f'{BAN}, "force": true}}'.encode(),
    "a key of another op": f'{BAN}, "limit": 1}}'.encode(),
    "a key too few": b'{"op": "ban", "list": "x"}',
    "a list that is no string": b'{"op": "ban", "list": 1, "address": "y"}',
    "an address that is no string": b'{"op": "ban", "list": "x", "address": 3405803785}',
    "an address that is a list": b'{"op": "ban", "list": "x", "address": ["203.0.113.9"]}',
    "a comment that is no string": f'{BAN}, "comment": null}}'.encode(),
    "a timeout that is true": f'{BAN}, "timeout": true}}'.encode(),
    "a timeout that is text": f'{BAN}, "timeout": "600"}}'.encode(),
    "a timeout of nothing": f'{BAN}, "timeout": 0}}'.encode(),
    "a timeout in the past": f'{BAN}, "timeout": -1}}'.encode(),
    "a timeout beyond all": f'{BAN}, "timeout": 1e300}}'.encode(),
    "addresses that are no list": b'{"op": "ban_many", "list": "x", "addresses": "203.0.113.9"}',
    "an item that is a number": b'{"op": "ban_many", "list": "x", "addresses": [1]}',
    "an item of three": b'{"op": "ban_many", "list": "x", "addresses": [["203.0.113.9", 1, 2]]}',
    "an item without an address": b'{"op": "ban_many", "list": "x", "addresses": [[1, "203.0.113.9"]]}',
    "an item's timeout that is none": b'{"op": "ban_many", "list": "x", "addresses": [["203.0.113.9", []]]}',
    "a limit of nothing": b'{"op": "bans", "list": "x", "limit": 0}',
    "a limit that is true": b'{"op": "bans", "list": "x", "limit": true}',
    "a limit beyond all": b'{"op": "bans", "list": "x", "limit": 1001}',
    "an id that fills a page": b'{"op": "ping", "id": "' + b"x" * 1000 + b'"}',
}


@pytest.mark.parametrize("line", BAD.values(), ids=BAD)
def test_refuses(line: bytes) -> None:
    """What is not understood in one way only is not guessed at."""
    with pytest.raises(Refusal) as caught:
        read(line)
    assert caught.value.kind is Trouble.BAD_REQUEST


def test_refuses_more_than_a_thousand() -> None:
    """What is too much has an error of its own, so that a client knows to send less."""
    line = json.dumps({"op": "ban_many", "list": "x", "addresses": ["203.0.113.9"] * 1001}).encode()
    with pytest.raises(Refusal) as caught:
        read(line)
    assert caught.value.kind is Trouble.TOO_LARGE


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
KEYS = st.sampled_from(["id", "op", "list", "address", "addresses", "timeout", "comment", "after", "limit"])
OPS = st.sampled_from([each.value for each in Operation])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary() | st.dictionaries(KEYS, JSON | OPS | st.just("x")).map(lambda each: json.dumps(each).encode()))
def test_reads_or_refuses_anything(line: bytes) -> None:
    """Whatever a line holds, nothing but a Refusal comes of it, or a request whose id can go into an answer."""
    try:
        id_json = read(line)[1]
    except Refusal:
        return
    assert shown(protocol.answer(id_json, {}))["id"] == json.loads(line).get("id")


def test_keeps_the_id_as_it_is() -> None:
    """Any JSON value is an id, and comes back equal."""
    for value in (None, 0, -1, 1.5, True, "", "ü\n\u2028\ud800", [], {"a": [1, None]}, 2**63):
        found = read_object(json.dumps({"id": value}).encode())
        assert shown(protocol.answer(read_id(found), {"banned": 1})) == {"id": value, "ok": True, "banned": 1}


def test_refusals_have_the_name_of_the_class() -> None:
    """An error of nfkeep is told by the name of its class, one of the service by the name on the page."""
    assert shown(protocol.refusal("1", ListGoneError("x")))["error"]["kind"] == "ListGoneError"
    assert shown(protocol.refusal("1", Refusal(Trouble.TOO_FAST, "later"))) == {
        "id": 1,
        "ok": False,
        "error": {"kind": "TooFast", "message": "later"},
    }


def test_refused_bans_are_told_one_by_one_up_to_a_hundred() -> None:
    """Of many refused bans the first hundred are told, each with its own reason, and how many there are."""
    refused = tuple((f"bad\n{i}", InvalidAddressError(f"bad\n{i}", "no address")) for i in range(250))
    error = shown(protocol.refusal("null", RefusedBansError(refused, 7)))["error"]
    assert (error["kind"], error["banned"], error["refused_count"]) == ("RefusedBansError", 7, 250)
    assert len(error["refused"]) == 100
    assert error["refused"][3]["address"] == "bad\n3"
    assert error["refused"][3]["kind"] == "InvalidAddressError"


def read(line: bytes) -> tuple[Request, str]:
    """As the service reads a line."""
    found = read_object(line)
    id_json = read_id(found)
    return read_request(found), id_json


def shown(line: bytes) -> Any:
    """What an answer says; it is one line of ASCII without control characters."""
    text = line.decode("ascii")
    assert text.endswith("\n")
    assert min(text[:-1]) >= " "
    return json.loads(text)
