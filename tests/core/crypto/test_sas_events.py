"""Messages of a verification: what is read, what is refused, and that nothing else can happen."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.crypto.sas_events import (
    EVENT_TYPES,
    MAX_ITEMS,
    MAX_REASON,
    TYPES,
    Cancel,
    Done,
    Mac,
    Request,
    Start,
    accept_content,
    mac_content,
    parse_sas_event,
    ready_content,
    request_content,
    start_content,
    transaction_of,
)
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import DeviceId
from tests.core.crypto.sas_ends import CONTENT, GOOD

DEVICE = DeviceId("PHONE")


def parse(kind: str, content: dict[str, Any]) -> object:
    return parse_sas_event(f"m.key.verification.{kind}", content)


def test_what_we_write_is_what_we_read() -> None:
    assert parse("request", request_content(DEVICE, 7)) == Request(DEVICE, ("m.sas.v1",), 7)
    assert parse("mac", mac_content(Mac({"ed25519:X": "code"}, "keys"))) == Mac({"ed25519:X": "code"}, "keys")
    start = parse("start", start_content(DEVICE))
    assert isinstance(start, Start)
    assert (start.device, start.method, start.codes) == (DEVICE, "m.sas.v1", ("decimal", "emoji"))
    assert start.canonical.startswith(b'{"from_device":"PHONE","hashes":["sha256"],')
    parse("ready", ready_content(DEVICE))
    parse("accept", accept_content(("emoji",), "commitment"))
    assert parse("done", {}) == Done()


def test_a_request_in_a_room_has_no_time_of_its_own() -> None:
    assert parse("request", {"from_device": DEVICE, "methods": []}) == Request(DEVICE, (), None)


def test_a_start_of_another_method_is_read_without_its_fields() -> None:
    assert parse("start", {"from_device": DEVICE, "method": "m.reciprocate.v1", "secret": 1.5}) == Start(
        DEVICE, "m.reciprocate.v1", (), (), (), (), b""
    )


def test_the_words_of_the_other_side_are_cut() -> None:
    assert parse("cancel", {"code": "m.user", "reason": "x" * 10_000}) == Cancel("m.user", "x" * MAX_REASON)
    assert parse("cancel", {"code": "m.user"}) == Cancel("m.user", "")


NAMES = [("request", "from_device"), ("ready", "from_device"), ("start", "method"), ("accept", "hash"), ("key", "key")]
NAMES += [("accept", "commitment"), ("mac", "keys"), ("cancel", "code")]


@pytest.mark.parametrize(("kind", "field"), NAMES)
@pytest.mark.parametrize("value", [None, "", "x" * 256, "two words", "ä", "\n", 5, ["x"], {}])
def test_names_are_printable_and_short(kind: str, field: str, value: object) -> None:
    with pytest.raises(EventError, match=field):
        parse(kind, {**GOOD[kind], field: value})


@pytest.mark.parametrize(("kind", "field"), [("request", "methods"), ("ready", "methods"), ("start", "hashes")])
@pytest.mark.parametrize("value", [None, "m.sas.v1", [1], ["x"] * (MAX_ITEMS + 1), [""], ["ä"], {"a": 1}])
def test_lists_hold_a_few_names(kind: str, field: str, value: object) -> None:
    with pytest.raises(EventError, match=field):
        parse(kind, {**GOOD[kind], field: value})


@pytest.mark.parametrize("value", [None, [], "x", {"a": 1}, {"": "x"}, {"a": "b c"}, {str(i): "x" for i in range(33)}])
def test_codes_over_keys_are_a_few(value: object) -> None:
    with pytest.raises(EventError, match="mac"):
        parse("mac", {**GOOD["mac"], "mac": value})


@pytest.mark.parametrize("value", [None, 5, "", "x" * 256, "a b"])
def test_a_message_says_which_verification_it_belongs_to(value: object) -> None:
    with pytest.raises(EventError, match="transaction_id"):
        transaction_of({"transaction_id": value})
    assert transaction_of({"transaction_id": "x" * 255}) == "x" * 255


@given(st.sampled_from([*sorted(EVENT_TYPES), "m.key.verification.", "m.key.verification.other", "x"]), CONTENT)
def test_anything_is_read_or_refused(event_type: str, content: dict[str, Any]) -> None:
    with contextlib.suppress(EventError):
        assert type(parse_sas_event(event_type, content)) in TYPES
