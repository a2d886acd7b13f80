from __future__ import annotations

import json
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream import messages
from mxrtc_bridge.core.stream.json_message import MAX_CONTROL_BYTES, MAX_COUNT, MAX_TEXT_CHARS, MessageFormat
from mxrtc_bridge.core.stream.messages import CTL, TCP, ErrCode, ServiceKind, ServiceState
from tests.long import examples

Format = MessageFormat[Any]
PEER = UserId("@rtc_build:example.org")

TABLE: list[tuple[Format, messages.Message, str]] = [
    (TCP, messages.Open("a-B_9"), '{"t":"open","s":"a-B_9"}'),
    (TCP, messages.Ok(262144), '{"t":"ok","w":262144}'),
    (TCP, messages.Err(ErrCode.DENIED, "no"), '{"t":"err","c":"denied","m":"no"}'),
    (TCP, messages.Ack(5, 16384), '{"t":"ack","o":5,"w":16384}'),
    (TCP, messages.Fin(0), '{"t":"fin","o":0}'),
    (TCP, messages.Rst("closed"), '{"t":"rst","c":"closed"}'),
    (CTL, messages.Hello(1, ("tcp.v1.mxrtc",)), '{"t":"hello","v":1,"caps":["tcp.v1.mxrtc"]}'),
    (CTL, messages.Ping(7), '{"t":"ping","n":7}'),
    (CTL, messages.Pong(7), '{"t":"pong","n":7}'),
    (CTL, messages.List(1), '{"t":"list","n":1}'),
    (
        CTL,
        messages.PeerServices(1, PEER, (ServiceName("ssh"), ServiceName("web"))),
        '{"t":"peer","n":1,"peer":"@rtc_build:example.org","services":["ssh","web"]}',
    ),
    (
        CTL,
        messages.PeerServices(
            1, PEER, (ServiceName("in"), ServiceName("web")), (), (ServiceKind.INBOX, ServiceKind.STREAM)
        ),
        '{"t":"peer","n":1,"peer":"@rtc_build:example.org","services":["in","web"],"kinds":["inbox","stream"]}',
    ),
    (
        CTL,
        messages.PeerServices(
            1, PEER, (ServiceName("in"), ServiceName("web")), (), (), (ServiceState.DOWN, ServiceState.UNKNOWN)
        ),
        '{"t":"peer","n":1,"peer":"@rtc_build:example.org","services":["in","web"],"states":["down","unknown"]}',
    ),
    (CTL, messages.List(2, states=True), '{"t":"list","n":2,"states":true}'),
    (CTL, messages.ListEnd(1), '{"t":"end","n":1}'),
    (CTL, messages.Bye("shutdown", "restarting"), '{"t":"bye","c":"shutdown","m":"restarting"}'),
]


@pytest.mark.parametrize(("protocol", "message", "text"), TABLE, ids=lambda value: type(value).__name__)
def test_message_reads_and_writes_as_specified(protocol: Format, message: messages.Message, text: str) -> None:
    assert protocol.encode(message) == text
    assert protocol.decode(text) == message


def test_table_names_every_message() -> None:
    assert {type(message) for _, message, _ in TABLE} == set(get_args(messages.Message))


@pytest.mark.parametrize(("protocol", "message", "text"), TABLE, ids=lambda value: type(value).__name__)
def test_message_is_unknown_on_a_channel_of_another_protocol(protocol: Format, message: object, text: str) -> None:
    other = CTL if protocol == TCP else TCP
    with pytest.raises(WireError, match="is no message of"):
        other.decode(text)


COUNTS = st.sampled_from([0, 1, 65536, MAX_COUNT - 1, MAX_COUNT])
WINDOWS = st.sampled_from([0, 1, messages.MIN_WINDOW, messages.MAX_WINDOW - 1, messages.MAX_WINDOW])
CODES = st.from_regex(r"\A[a-z][a-z0-9_-]{0,31}\Z")
SENTENCES = st.text(st.characters(exclude_categories=["Cs"]), max_size=MAX_TEXT_CHARS)
SERVICES = st.from_regex(r"\A[a-z0-9._-]{1,63}\Z").map(ServiceName)
MESSAGES: st.SearchStrategy[tuple[Format, messages.Message]] = st.one_of(
    st.tuples(
        st.just(TCP),
        st.one_of(
            st.builds(messages.Open, st.from_regex(r"\A[A-Za-z0-9_-]{1,64}\Z")),
            st.builds(messages.Ok, WINDOWS),
            st.builds(messages.Err, st.sampled_from(ErrCode), SENTENCES),
            st.builds(messages.Ack, COUNTS, WINDOWS),
            st.builds(messages.Fin, COUNTS),
            st.builds(messages.Rst, CODES),
        ),
    ),
    st.tuples(
        st.just(CTL),
        st.one_of(
            st.builds(messages.Hello, st.sampled_from([1, 2, MAX_COUNT]), st.lists(CODES, max_size=32).map(tuple)),
            st.builds(messages.Ping, COUNTS),
            st.builds(messages.Pong, COUNTS),
            st.builds(messages.List, COUNTS),
            st.builds(messages.PeerServices, COUNTS, st.just(PEER), st.lists(SERVICES, max_size=32).map(tuple)),
            st.builds(messages.ListEnd, COUNTS),
            st.builds(messages.Bye, CODES, SENTENCES),
        ),
    ),
)


@given(MESSAGES)
@settings(max_examples=examples(200), deadline=None)
def test_message_survives_the_way_over_the_wire(case: tuple[Format, messages.Message]) -> None:
    protocol, message = case
    text = protocol.encode(message)
    assert len(text.encode()) <= MAX_CONTROL_BYTES
    assert protocol.decode(text) == message


def test_text_for_people_is_cut_and_made_sendable() -> None:
    """Neither a novel nor half a surrogate pair keeps a refusal from being sent."""
    text = TCP.encode(messages.Err(ErrCode.LIMIT, "\udc80" + "x" * 600))
    assert TCP.decode(text) == messages.Err(ErrCode.LIMIT, "?" + "x" * 499)


def test_worst_text_for_people_still_fits() -> None:
    for character in ("\x00", "\U0001f600", '"'):
        text = CTL.encode(messages.Bye("a" * 32, character * 600))
        assert len(text.encode()) <= MAX_CONTROL_BYTES


@pytest.mark.parametrize("code", ["brand-new", "x"])
def test_unknown_code_of_err_counts_as_unavailable(code: str) -> None:
    assert TCP.decode(f'{{"t":"err","c":"{code}","m":""}}') == messages.Err(ErrCode.UNAVAILABLE, "")


def test_kind_of_a_later_version_is_one_that_is_not_known() -> None:
    text = '{"t":"peer","n":1,"peer":"@rtc_build:example.org","services":["in","tv"],"kinds":["inbox","video"]}'
    names = (ServiceName("in"), ServiceName("tv"))
    assert CTL.decode(text) == messages.PeerServices(1, PEER, names, (), (ServiceKind.INBOX, None))


def test_state_of_a_later_version_is_one_that_nobody_knows() -> None:
    text = '{"t":"peer","n":1,"peer":"@rtc_build:example.org","services":["in","tv"],"states":["up","asleep"]}'
    names = (ServiceName("in"), ServiceName("tv"))
    states = (ServiceState.UP, ServiceState.UNKNOWN)
    assert CTL.decode(text) == messages.PeerServices(1, PEER, names, (), (), states)


def test_unknown_keys_are_ignored() -> None:
    text = '{"t":"fin","o":3,"later":{"a":[1,2.5,null]},"x":true}'
    assert TCP.decode(text) == messages.Fin(3)


@pytest.mark.parametrize("text", ['{"t":"x-"}', '{"t":"x-test","o":"whatever"}'])
def test_trial_is_ignored(text: str) -> None:
    assert TCP.decode(text) is None
    assert CTL.decode(text) is None


HOSTILE = [
    # not one JSON object
    ("not_json", ""),
    ("not_json", "{"),
    ("not_json", "[]"),
    ("not_json", "null"),
    ("not_json", '"fin"'),
    ("not_json", '{"t":"fin","o":1} {}'),
    ("not_json", '{"t":"fin","o":NaN}'),
    ("not_json", '{"t":"fin","o":-Infinity}'),
    ("not_json", '{"t":"fin","o":1,"o":2}'),
    ("not_json", '{"t":"fin","o":1,"later":{"a":1,"a":2}}'),
    ("not_json", "[" * 4096),
    ("not_json", '{"t":"fin","o":1,"deep":' + "[" * 8 + "]" * 8 + "}"),
    # too long, in characters or only in bytes
    ("too_long", '{"t":"x-' + "a" * 4088 + '"}'),
    ("too_long", '{"t":"x-' + "ä" * 2044 + '"}'),
    # the kind
    ("bad_field", "{}"),
    ("bad_field", '{"t":null}'),
    ("bad_field", '{"t":["fin"],"o":1}'),
    ("unknown_message", '{"t":"resume"}'),
    ("unknown_message", '{"t":"FIN","o":1}'),
    ("unknown_message", '{"t":""}'),
    # the fields
    ("bad_field", '{"t":"fin"}'),
    ("bad_field", '{"t":"fin","o":true}'),
    ("bad_field", '{"t":"fin","o":1.0}'),
    ("bad_field", '{"t":"fin","o":1e3}'),
    ("bad_field", '{"t":"fin","o":"1"}'),
    ("bad_field", '{"t":"fin","o":-1}'),
    ("bad_field", '{"t":"fin","o":9007199254740992}'),
    ("bad_field", '{"t":"fin","o":' + "9" * 4000 + "}"),
    ("bad_field", '{"t":"ok","w":16777217}'),
    ("bad_field", '{"t":"ack","o":1}'),
    ("bad_field", '{"t":"ack","o":1,"w":16777217}'),
    ("bad_field", '{"t":"err","c":"Denied","m":""}'),
    ("bad_field", '{"t":"err","c":"denied"}'),
    ("bad_field", '{"t":"err","c":"denied","m":"' + "x" * 501 + '"}'),
    ("bad_field", '{"t":"rst","c":""}'),
    ("bad_field", '{"t":"rst","c":"' + "x" * 33 + '"}'),
    ("bad_field", '{"t":"rst","c":"a\\n"}'),
    ("bad_field", '{"t":"open","s":""}'),
    ("bad_field", '{"t":"open","s":"' + "s" * 65 + '"}'),
    ("bad_field", '{"t":"open","s":"a b"}'),
]

HOSTILE_CTL = [
    '{"t":"hello","v":0,"caps":[]}',
    '{"t":"hello","v":true,"caps":[]}',
    '{"t":"hello","v":1}',
    '{"t":"hello","v":1,"caps":"tcp.v1.mxrtc"}',
    '{"t":"hello","v":1,"caps":[1]}',
    '{"t":"hello","v":1,"caps":[""]}',
    '{"t":"hello","v":1,"caps":["a b"]}',
    json.dumps({"t": "hello", "v": 1, "caps": ["a"] * 33}),
    json.dumps({"t": "hello", "v": 1, "caps": ["a" * 65]}),
    '{"t":"ping"}',
    '{"t":"pong","n":null}',
    '{"t":"peer","n":1,"peer":"build","services":[]}',
    '{"t":"peer","n":1,"peer":"@a:b.org","services":["UP"]}',
    '{"t":"peer","n":1,"peer":"@a:b.org","services":[null]}',
    '{"t":"peer","n":1,"peer":"@a:b.org","services":{}}',
    json.dumps({"t": "peer", "n": 1, "peer": "@a:b.org", "services": ["a"] * 65}),
    *(f'{{"t":"list","n":1,"states":{wanted}}}' for wanted in ("1", "null", '"true"', "[true]")),
    *(
        f'{{"t":"peer","n":1,"peer":"@a:b.org","services":["a","b"],"{key}":{codes}}}'
        for key in ("kinds", "states")
        for codes in (
            '"inbox"',
            "{}",
            "null",
            "[]",
            '["inbox"]',
            '["inbox","inbox","inbox"]',
            '["inbox",null]',
            '["inbox",["a"]]',
            '["inbox",""]',
            '["inbox","UP"]',
            '["inbox","\\u202e"]',
            json.dumps(["inbox", "a" * 33]),
        )
    ),
    '{"t":"bye","c":"done"}',
]


@pytest.mark.parametrize(("code", "text"), HOSTILE, ids=lambda value: value[:40])
def test_hostile_stream_message_is_refused(code: str, text: str) -> None:
    with pytest.raises(WireError) as refusal:
        TCP.decode(text)
    assert refusal.value.code == code
    assert len(str(refusal.value)) < 200, "a refusal must not carry what was refused"


@pytest.mark.parametrize("text", HOSTILE_CTL, ids=lambda value: value[:60])
def test_hostile_control_message_is_refused(text: str) -> None:
    with pytest.raises(WireError) as refusal:
        CTL.decode(text)
    assert refusal.value.code == "bad_field"


@pytest.mark.parametrize("size", [4095, 4096])
def test_longest_message_is_read(size: int) -> None:
    text = '{"t":"fin","o":1,"pad":"' + "p" * (size - 26) + '"}'
    assert len(text) == size
    assert TCP.decode(text) == messages.Fin(1)


def test_nesting_is_measured_outside_of_strings_only() -> None:
    brackets = json.dumps("[" * 200 + '"\\' + "{" * 200)
    assert TCP.decode(f'{{"t":"fin","o":1,"note":{brackets}}}') == messages.Fin(1)
    deepest = "[" * 7 + "]" * 7
    text = f'{{"t":"fin","o":1,"deep":{deepest},"more":{deepest}}}'
    assert TCP.decode(text) == messages.Fin(1)


def test_unfinished_string_full_of_escapes_costs_linear_time() -> None:
    """Ten brackets make the reader measure the nesting; the string after them never ends."""
    with pytest.raises(WireError):
        TCP.decode("[" * 10 + '"' + '\\"' * 2000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("towcmsnv"), inner, max_size=6),
    max_leaves=10,
)
KINDS = st.sampled_from(
    ["open", "ok", "err", "ack", "fin", "rst", "hello", "ping", "list", "peer", "end", "bye", "x-y"]
)


@given(
    protocol=st.sampled_from([TCP, CTL]),
    text=st.one_of(
        st.text(),
        st.builds(lambda kind, fields: json.dumps({**fields, "t": kind}), KINDS, st.dictionaries(st.text(), JSON)),
        st.text('{}[]":,\\0123456789e.-truefalsn x\ud800', max_size=80),
    ),
)
@settings(max_examples=examples(500), deadline=None)
def test_any_text_is_a_message_a_trial_or_an_error(protocol: Format, text: str) -> None:
    try:
        message = protocol.decode(text)
    except WireError:
        return
    if message is not None:
        assert protocol.decode(protocol.encode(message)) == message
