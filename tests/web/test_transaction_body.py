"""A body becomes events; what is odd in one of them does not touch the others."""

from __future__ import annotations

import gc
import json
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.access.revocations import AmbiguousObject
from mxrtc_bridge.core.crypto.device_changes import DeviceListChanges
from mxrtc_bridge.web import transaction_body
from mxrtc_bridge.web.transaction_body import (
    DECODER,
    LEVELS_AROUND,
    MAX_DEPTH,
    MAX_EVENTS,
    MAX_NEWS,
    TransactionRefused,
    cut_deep_values,
    parse_by_entries,
    read_transaction,
    slices,
)
from tests.long import examples, size


def nested(depth: int) -> Any:
    """An object of so many levels."""
    value: Any = {}
    for _ in range(depth - 1):
        value = {"content": value}
    return value


def body_of(*events: Any, **others: Any) -> bytes:
    return json.dumps({"events": list(events), **others}).encode()


def test_events_are_returned_in_order() -> None:
    assert read_transaction(body_of({"a": 1}, {"b": "ü\U0001f600"}, 3)).events == [{"a": 1}, {"b": "ü\U0001f600"}, 3]
    assert read_transaction(b' {"events" : [ ] } ').events == []


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        (b"", 400, "M_NOT_JSON"),
        (b"{", 400, "M_NOT_JSON"),
        (b'{"events": [}', 400, "M_NOT_JSON"),
        (b'{"events": []} more', 400, "M_NOT_JSON"),
        (b'\xff\xfe{\x00"\x00', 400, "M_NOT_JSON"),
        (b'{"events": ["\xff"]}', 400, "M_NOT_JSON"),
        ('{"events": []}'.encode("utf-16"), 400, "M_NOT_JSON"),
        (b"[" * 1_000_000, 400, "M_NOT_JSON"),
        (b'{"events":' * 100_000, 400, "M_NOT_JSON"),
        (b"[1]", 400, "M_BAD_JSON"),
        (b"null", 400, "M_BAD_JSON"),
        (b'"events"', 400, "M_BAD_JSON"),
        (b"{}", 400, "M_BAD_JSON"),
        (b'{"events": null}', 400, "M_BAD_JSON"),
        (b'{"events": {}}', 400, "M_BAD_JSON"),
        (b"[" * 100 + b"]" * 100, 400, "M_BAD_JSON"),
        (body_of(*range(MAX_EVENTS + 1)), 413, "M_TOO_LARGE"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_body_that_is_no_transaction_is_refused(body: bytes, status: int, errcode: str) -> None:
    with pytest.raises(TransactionRefused) as caught:
        read_transaction(body)
    assert (caught.value.status, caught.value.errcode) == (status, errcode)


def containers_in(value: object) -> int:
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return isinstance(value, list | dict) + sum(map(containers_in, inside))


JUNK = st.recursive(st.just([]), lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text("ab"), inside))


@given(JUNK, st.integers(1, 12))
def test_an_entry_keeps_as_many_containers_as_the_limit_and_those_nearest_to_its_root(junk: object, limit: int) -> None:
    event = {"junk": [junk, junk], "content": {"membership": "leave", "more": {"x": [1]}}, "type": "m.room.member"}
    (read,) = read_transaction(json.dumps({"events": [event]}).encode(), max_containers=limit).events
    assert isinstance(read, dict)
    assert containers_in(read) == min(limit, containers_in(event))
    assert read["type"] == "m.room.member"
    assert (read["content"] is None) == (limit < 3)
    if limit >= 3:
        assert read["content"]["membership"] == "leave"
    if containers_in(event) <= limit:
        assert read == event


def test_an_event_full_of_lists_keeps_what_it_says() -> None:
    event = b'{"a":[' + b"[]," * 20_000 + b'[]],"content":{"membership":"ban"},"state_key":"@a:b"}'
    (read,) = read_transaction(b'{"events":[' + event + b"]}").events
    assert isinstance(read, dict)
    assert (read["content"], read["state_key"]) == ({"membership": "ban"}, "@a:b")
    assert containers_in(read) == transaction_body.MAX_CONTAINERS


def test_as_many_events_as_the_limit_are_taken() -> None:
    assert read_transaction(body_of(*range(MAX_EVENTS))).events == list(range(MAX_EVENTS))


@pytest.mark.parametrize("depth", [MAX_DEPTH - 1, MAX_DEPTH])
def test_event_of_the_greatest_depth_is_left_alone(depth: int) -> None:
    events = [nested(depth), {"a": "[[[[[[{{{{" * 20}, nested(depth)]
    assert read_transaction(body_of(*events)).events == events


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, MAX_DEPTH + 2, 900, 20_000])
def test_value_that_is_too_deep_is_cut_out_and_the_event_around_it_is_not(depth: int) -> None:
    """Even when the parser alone would give up on the whole body."""
    deep = b'{"a":' * depth + b"1" + b"}" * depth
    good = {"text": 'quote " and \\ and [[{{', "n": 1}
    content = b'{"x":%s,"membership":"leave"}' % deep
    news = b'{"type":"m.room.member","unsigned":{"prev_content":%s},"content":%s}' % (deep, content)
    before, first, second, after = read_transaction(
        b'{"events":[%s,%s,%s,%s]}' % ((body_of(good)[12:-2], news) * 2)
    ).events[:4]
    assert before == second == good
    assert first == after
    assert isinstance(first, dict)
    assert (first["type"], first["content"]["membership"]) == ("m.room.member", "leave")
    value, levels = first["content"]["x"], 2
    while value is not None:
        value, levels = value["a"], levels + 1
    assert levels == MAX_DEPTH


def test_object_that_names_a_key_twice_is_marked() -> None:
    (event,) = read_transaction(b'{"events":[{"type":"a","content":{"b":1,"b":2},"type":"c"}]}').events
    assert event == {"type": "c", "content": {"b": 2}}
    assert isinstance(event, AmbiguousObject)
    assert isinstance(event["content"], AmbiguousObject)
    (event,) = read_transaction(b'{"events":[{"type":"a"}]}').events
    assert not isinstance(event, AmbiguousObject)


def test_deep_values_elsewhere_do_not_spoil_the_events() -> None:
    """Keys that we do not read, of extensions that we do not know."""
    deep = "[" * 500 + "]" * 500
    body = f'{{"ephemeral":[{deep},1],"x":{{"y":{deep}}},"events":[{{"a":1}}],"z":{deep}}}'
    assert read_transaction(body.encode()).events == [{"a": 1}]


@pytest.mark.parametrize(
    ("number", "value"),
    [
        ("9007199254740991", 2**53 - 1),
        ("-9223372036854775808", -(2**63)),
        ("9" * 21, None),
        ("9" * 100_000, None),
        ("1e999", None),
        ("-1e999", None),
        ("NaN", None),
        ("Infinity", None),
        ("1.5", 1.5),
    ],
    ids=lambda value: str(value)[:20],
)
def test_number_beyond_any_use_is_null_and_the_rest_goes_on(number: str, value: object) -> None:
    """Python refuses to read 100,000 digits; the homeserver would send them again for ever."""
    assert read_transaction(b'{"events":[{"a":%s},{"b":2}]}' % number.encode()).events == [{"a": value}, {"b": 2}]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.text(max_size=8)
    | st.sampled_from(['"[', "\\{", "\\"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=examples(100), deadline=None)
@given(
    events=st.lists(JSON, max_size=5),
    others=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
    ascii_=st.booleans(),
)
def test_whatever_is_not_too_deep_comes_through_unchanged(
    events: list[Any], others: dict[str, Any], ascii_: bool
) -> None:
    # The many brackets make sure that the body is scanned at all.
    transaction = {"filler": [[]] * 40, **others, "events": events}
    body = json.dumps(transaction, ensure_ascii=ascii_).encode("utf-8", "replace")
    assert cut_deep_values(body) == body
    # And the slow way, which one deep neighbour brings about.
    deep = b"[" * 50 + b"]" * 50
    scanned = cut_deep_values(b"{" + b'"deep":{"x":' + deep + b"}," + body[1:])
    assert scanned.endswith(body[1:])
    assert b'{"x":' + b"[" * MAX_DEPTH + b"null" + b"]" * MAX_DEPTH + b"}" in scanned


def depth_of(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth_of, inner), default=0)


@settings(max_examples=examples(100), deadline=None)
@given(
    st.recursive(
        st.sampled_from([1, '"[{']) | st.builds(dict) | st.builds(list),
        lambda inner: st.lists(inner, max_size=3) | inner.map(lambda value: {"a": value}),
    )
)
def test_depth_is_measured_exactly(value: Any) -> None:
    body = json.dumps([value] * 40).encode()
    depth = depth_of(value) + 1
    assert cut_deep_values(body, max_depth=depth - LEVELS_AROUND) == body
    assert cut_deep_values(body, max_depth=depth - 1 - LEVELS_AROUND) != body


@settings(max_examples=examples(150), deadline=None)
@given(
    st.binary(max_size=60)
    | st.text(alphabet='[]{}",:\\e\n1', max_size=120).map(str.encode)
    | st.lists(st.sampled_from([b"[", b"{", b"]", b"}", b'"', b'{"events":[', b",", b"1"]), max_size=150).map(b"".join)
)
@example(b'"' + b"\\")
@example(b"[" * 40 + b'"\\')
def test_any_bytes_are_taken_or_refused(body: bytes) -> None:
    """Nothing but a refusal is ever raised."""
    for candidate in (body, b"[" * 40 + body):
        try:
            events = read_transaction(candidate).events
        except TransactionRefused:
            continue
        assert isinstance(events, list)


HARD = st.lists(
    st.sampled_from(
        [b'"', b"\\", b'\\"', b"[", b"]", b"{", b"}", b'"a":', b",", b" ", b"1", b"\xc3\xbc", b"[" * 40, b"]" * 40]
    ),
    max_size=60,
).map(b"".join)
"""Anything that matters at a border."""


def in_one_piece(body: bytes) -> bytes:
    """The same by the plainest means: one character after the other."""
    limit, depth, taken, in_string, escaped = MAX_DEPTH + LEVELS_AROUND, 0, 0, False, False
    pieces: list[bytes] = []
    for at, mark in enumerate(body):
        if in_string:
            in_string = escaped or mark != ord('"')
            escaped = not escaped and mark == ord("\\")
        elif mark == ord('"'):
            in_string = True
        elif mark in b"[{":
            depth += 1
            if depth == limit + 1:
                pieces += [body[taken:at], b"null"]
        elif mark in b"]}":
            if depth == limit + 1:
                taken = at + 1
            depth -= 1
    return body if depth > limit else b"".join([*pieces, body[taken:]])


@settings(max_examples=examples(300), deadline=None)
@given(
    inside=HARD,
    strings=st.lists(st.text(alphabet='"\\[]{}aü\x00', max_size=12), max_size=5),
    wrapped=st.booleans(),
    size=st.integers(2, 12) | st.sampled_from([40, 80]),
)
@example(inside=b'"\\\\\\"[" ', strings=[], wrapped=False, size=2)
@example(inside=b"[" * 50 + b'"]\\' * 9 + b'"' + b"]" * 50, strings=[], wrapped=True, size=3)
def test_slices_of_any_size_are_read_as_one_piece(inside: bytes, strings: list[str], wrapped: bool, size: int) -> None:
    """Strings, escapes and depth go on over every border; no slice is smaller than an escape."""
    deep = b"[" * 38 + json.dumps(strings).encode() + b"]" * 38
    body = b'{"events":[{"a":%s,"b":%s}]}' % (deep, inside or b"1") if wrapped else inside
    pieces = [piece for piece, _ in slices(body, size)]
    assert b"".join(pieces) == body
    assert all(0 < len(piece) <= size for piece in pieces)
    assert cut_deep_values(body, slice_bytes=size) == in_one_piece(body)


TOP_LEVEL = st.one_of(
    st.text(alphabet=' \t\n\r{}[]:,"ae1-.0\\\x0bN', max_size=30),
    JSON.map(json.dumps),
    st.lists(st.tuples(st.sampled_from(["events", "a", "a\n"]), JSON | st.lists(JSON)), max_size=4).map(
        lambda pairs: "{" + " , ".join(f"{json.dumps(key)} :\n{json.dumps(value)}" for key, value in pairs) + "}"
    ),
)


@settings(max_examples=examples(300), deadline=None)
@given(text=TOP_LEVEL, cut=st.integers(0, 5))
@example(text='{"a":1,"a":2}', cut=0)
@example(text='{"a":1,}', cut=0)
@example(text='{"a":[1,]}', cut=0)
@example(text='{"a":[NaN, -Infinity, 1e999]}', cut=0)
@example(text="\ufeff{}", cut=0)
def test_what_is_parsed_entry_by_entry_is_what_is_parsed_at_once(text: str, cut: int) -> None:
    text = text[: len(text) - cut]
    try:
        at_once = DECODER.decode(text)
    except ValueError:
        with pytest.raises(ValueError):  # noqa: PT011 - as the parser says it
            parse_by_entries(text)
        return
    entry_by_entry = parse_by_entries(text)
    assert (entry_by_entry, type(entry_by_entry)) == (at_once, type(at_once))


class Seen:
    """A pattern or a decoder that takes down how much it was given at a time."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.longest = 0

    def match(self, body: bytes, at: int, stop: int) -> Any:
        self.longest = max(self.longest, stop - at)
        return self._real.match(body, at, stop)

    def sub(self, new: bytes, body: bytes) -> Any:
        self.longest = max(self.longest, len(body))
        return self._real.sub(new, body)

    def findall(self, body: bytes) -> Any:
        self.longest = max(self.longest, len(body))
        return self._real.findall(body)

    def raw_decode(self, text: str, at: int) -> Any:
        value, end = self._real.raw_decode(text, at)
        self.longest = max(self.longest, end - at)
        return value, end


@pytest.mark.parametrize("unit", [b"[],", b"[" * 100 + b"]" * 100 + b",", b'"\\"[",', b'"' + b"x" * 62_000 + b'",'])
def test_nothing_sees_more_than_a_slice_or_an_event_at_a_time(unit: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a call sees is how long it keeps all other threads waiting."""
    seen = {}
    for name in ("_REST_OF_STRING", "_WHOLE_TOKENS", "_NOT_STRUCTURE", "_TOKEN", "DECODER"):
        seen[name] = Seen(getattr(transaction_body, name))
        monkeypatch.setattr(transaction_body, name, seen[name])
    number = size(20, 4)
    event = b'{"a":[' + unit * (63_000 // len(unit)) + b"1]}"
    body = b'{"events":[%s],"to_device":[%s]}' % ((b",".join([event] * number),) * 2)
    assert len(read_transaction(body).events) == number
    longest = {name: each.longest for name, each in seen.items()}
    assert max(longest.values()) <= 65536, longest
    assert longest["_WHOLE_TOKENS"] == transaction_body.SLICE_BYTES, "and no slice is smaller than it need be"


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 2_000_000,
        b'"\\"' * 700_000,
        b'["' * 40 + b'\\"' * 1_000_000,
        b"[]," * 700_000,
        b'{"a' * 40 + b"x" * 2_000_000,
    ],
    ids=lambda body: repr(body[:12]),
)
def test_scan_of_hostile_bytes_is_linear(body: bytes) -> None:
    """2 MB take far less than a second; a quadratic scan would take minutes."""
    started = time.process_time()
    with pytest.raises(TransactionRefused):
        read_transaction(body)
    assert time.process_time() - started < 5


ALICE, PEER = "@alice:example.org", "@rtc_build:example.org"
MESSAGE = {"to_user_id": PEER, "to_device_id": "BUILD", "type": "m.room.encrypted", "sender": ALICE, "content": {}}


@pytest.mark.parametrize("prefix", ["", "unstable"])
def test_who_has_messages_and_whose_devices_changed_is_read(prefix: str) -> None:
    to_device, lists = ("to_device", "device_lists")
    if prefix:
        to_device, lists = "de.sorunome.msc2409.to_device", "org.matrix.msc3202.device_lists"
    body = body_of(1, **{to_device: [MESSAGE, MESSAGE], lists: {"changed": [ALICE], "left": ["@x:y"]}})
    assert read_transaction(body).news == DeviceListChanges(frozenset({PEER}), frozenset({ALICE}))


def test_a_transaction_of_events_alone_says_nothing_of_devices() -> None:
    assert not read_transaction(body_of(1)).news
    assert not read_transaction(body_of(1, to_device=[], device_lists={"changed": [], "left": []})).news
    assert not read_transaction(body_of(ephemeral=[{"type": "m.typing"}])).news


def test_an_empty_one_may_have_lost_something() -> None:
    """What is sent again after a failure has its events only, and may have had none."""
    assert read_transaction(body_of()).news == DeviceListChanges(incomplete=True)
    assert read_transaction(body_of(ephemeral=[], to_device=[])).news.incomplete


@pytest.mark.parametrize(
    "odd",
    [
        {"to_device": {}},
        {"to_device": [5]},
        {"to_device": [{"to_user_id": 5}]},
        {"to_device": [{"to_user_id": "nobody"}]},
        {"to_device": [MESSAGE] * (MAX_NEWS + 1)},
        {"device_lists": {"changed": {}}},
        {"device_lists": {"changed": [None]}},
        {"device_lists": 5},
        {"to_device": [nested(MAX_DEPTH + 5)]},
    ],
)
def test_odd_news_has_everybody_look_and_spoils_nothing(odd: dict[str, Any]) -> None:
    transaction = read_transaction(body_of({"a": 1}, **odd))
    assert (transaction.events, transaction.news.incomplete) == ([{"a": 1}], True)


def test_the_collector_is_still_while_a_body_is_parsed_and_goes_on_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []
    plain = transaction_body.parse_by_entries

    def parse(text: str, *limits: int) -> object:
        seen.append(gc.isenabled())
        return plain(text, *limits)

    monkeypatch.setattr(transaction_body, "parse_by_entries", parse)
    read_transaction(b'{"events":[]}')
    with pytest.raises(TransactionRefused):
        read_transaction(b'{"events":[}')
    assert (seen, gc.isenabled()) == ([False, False], True)
