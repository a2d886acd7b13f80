"""Messages between devices: read strictly, put into order, bounded."""

from __future__ import annotations

from dataclasses import replace
from time import process_time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.call.events import Answer, CallMessage, Hangup, Invite, Reject, SelectAnswer, Version
from mxrtc_bridge.core.call.to_device import (
    MAX_EARLY,
    MAX_EARLY_OF_ALL,
    MAX_EARLY_OF_USER,
    MAX_SENT_MS,
    MAX_SEQ,
    CallOrder,
    CallToDevice,
    call_to_device_content,
    parse_call_to_device,
)
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import CallId, DeviceId, PartyId, UserId

ALICE, PEER, DEVICE = UserId("@alice:example.org"), UserId("@rtc_build:example.org"), DeviceId("ALICES")
CALL, PARTY = CallId("call"), PartyId("party")
INVITE = Invite(CALL, PARTY, Version.V1, "v=0\r\n", 60_000)
SELECT = SelectAnswer(CALL, PARTY, Version.V1, PARTY)


@pytest.mark.parametrize(
    "message",
    [
        INVITE,
        Answer(CALL, PARTY, Version.V1, "v=0\r\n"),
        SELECT,
        Reject(CALL, PARTY, Version.V1, "untrusted_device"),
        Hangup(CALL, PARTY, Version.V1),
    ],
)
def test_what_is_written_can_be_read(message: CallMessage) -> None:
    signal = CallToDevice(7, 1_700_000_000_000, message)
    assert parse_call_to_device(call_to_device_content(signal)) == signal


GOOD = call_to_device_content(CallToDevice(0, 5, INVITE))


@pytest.mark.parametrize(
    "change",
    [
        {"seq": None},
        {"seq": -1},
        {"seq": MAX_SEQ + 1},
        {"seq": True},
        {"seq": 1.0},
        {"seq": "0"},
        {"sent_ms": None},
        {"sent_ms": -1},
        {"sent_ms": MAX_SENT_MS + 1},
        {"type": None},
        {"type": "m.room.message"},
        {"type": ["m.call.invite"]},
        {"content": None},
        {"content": []},
        {"content": {}},
        {"content": {**GOOD["content"], "version": 0}},  # type: ignore[dict-item]
        {"content": {**GOOD["content"], "party_id": None}},  # type: ignore[dict-item]
        {"type": "m.call.answer", "content": {**GOOD["content"], "answer": {"type": "answer", "sdp": "x" * 20_000}}},  # type: ignore[dict-item]
    ],
)
def test_what_is_no_message_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(EventError):
        parse_call_to_device({**GOOD, **change})


values = st.recursive(
    st.none() | st.integers() | st.text(max_size=5), lambda inner: st.dictionaries(st.text(max_size=5), inner)
)


@given(st.dictionaries(st.sampled_from(["type", "content", "seq", "sent_ms", "x"]), values))
def test_odd_contents_raise_nothing_else(content: dict[str, Any]) -> None:
    try:
        parse_call_to_device(content)
    except EventError:
        pass
    else:
        pytest.fail("none of these is a message")


def numbered(seq: int, message: CallMessage = SELECT) -> CallToDevice:
    return CallToDevice(seq, 0, message)


@given(st.permutations(range(MAX_EARLY)), st.lists(st.integers(0, MAX_EARLY - 1)))
def test_every_order_comes_out_in_order_and_once(order: list[int], repeated: list[int]) -> None:
    ordered = CallOrder()
    out: list[int] = []
    for seq in [*order, *repeated]:
        out += [signal.seq for signal in ordered.put(ALICE, DEVICE, numbered(seq))]
    assert out == list(range(MAX_EARLY))


def test_calls_of_other_devices_are_other_calls() -> None:
    ordered = CallOrder()
    assert ordered.put(ALICE, DEVICE, numbered(0))
    assert ordered.put(ALICE, DeviceId("OTHER"), numbered(0))
    assert ordered.put(PEER, DEVICE, numbered(0))
    assert not ordered.put(ALICE, DEVICE, numbered(0))


def test_a_gap_ends_the_call_here() -> None:
    ordered = CallOrder()
    assert ordered.put(ALICE, DEVICE, numbered(MAX_EARLY)) == []
    with pytest.raises(EventError, match="where 0 is next"):
        ordered.put(ALICE, DEVICE, numbered(MAX_EARLY + 1))
    assert ordered.put(ALICE, DEVICE, numbered(0)) == []


@pytest.mark.parametrize("end", [Hangup(CALL, PARTY, Version.V1), Reject(CALL, PARTY, Version.V1)])
def test_an_end_is_acted_on_at_once_and_nothing_after_it(end: CallMessage) -> None:
    ordered = CallOrder()
    ordered.put(ALICE, DEVICE, numbered(3))
    assert ordered.put(ALICE, DEVICE, numbered(9, end)) == [numbered(9, end)]
    assert ordered.put(ALICE, DEVICE, numbered(0)) == []
    assert ordered.put(ALICE, DEVICE, numbered(1, end)) == []


@pytest.mark.parametrize("flood", ["@m{0}:evil.test", "@m:evil.test", "@m{0}:example.org", "@m:example.org"])
def test_flood_of_others_pushes_no_call_out_of_its_order(flood: str) -> None:
    ordered = CallOrder(max_calls=20)
    assert ordered.put(ALICE, DEVICE, numbered(0))
    for number in range(200):
        user = UserId(flood.format(number % 3))
        ordered.put(user, DEVICE, CallToDevice(0, 0, replace(SELECT, call_id=CallId(f"c{number}"))))
    assert ordered.put(ALICE, DEVICE, numbered(1)) == [numbered(1)]
    assert len(ordered) == 20


def test_strangers_of_many_servers_push_out_no_call_of_somebody_with_a_right() -> None:
    ordered = CallOrder(max_calls=20)
    callers = [UserId(f"@caller{number}:example.org") for number in range(10)]
    for caller in callers:
        assert ordered.put(caller, DEVICE, numbered(0))
    for number in range(200):
        ordered.put(UserId(f"@m:s{number}.evil.example"), DEVICE, numbered(0), has_right=False)
    assert [ordered.put(caller, DEVICE, numbered(1)) for caller in callers] == [[numbered(1)]] * 10
    assert len(ordered) == 30


def test_what_comes_too_early_is_bounded_for_a_user_and_not_kept_of_whoever_may_not_call() -> None:
    ordered = CallOrder()
    calls = [DeviceId(f"D{number}") for number in range(MAX_EARLY_OF_USER + 10)]
    for device in calls:
        ordered.put(ALICE, device, numbered(1))
        ordered.put(PEER, device, numbered(1), has_right=False)
    assert sum(len(ordered.put(ALICE, device, numbered(0))) for device in calls) == MAX_EARLY_OF_USER + len(calls)
    assert sum(len(ordered.put(PEER, device, numbered(0), has_right=False)) for device in calls) == len(calls)


def test_what_comes_too_early_of_any_number_of_users_is_bounded_and_pushes_out_nothing_of_others() -> None:
    """A rule may give a right to everybody of a server, who can make up as many users as they like."""
    ordered = CallOrder()
    ordered.put(ALICE, DEVICE, numbered(1))
    crowd = [UserId(f"@m{number}:evil.test") for number in range(MAX_EARLY_OF_ALL // MAX_EARLY + 50)]
    for user in crowd:
        for seq in range(1, MAX_EARLY + 1):
            ordered.put(user, DEVICE, numbered(seq))
    assert ordered.put(ALICE, DEVICE, numbered(0)) == [numbered(0), numbered(1)]
    assert sum(len(ordered.put(user, DEVICE, numbered(0))) for user in crowd) < MAX_EARLY_OF_ALL + len(crowd)


def test_what_comes_too_early_costs_no_more_by_the_calls_that_a_user_has_made() -> None:
    def cost_s(calls: int) -> float:
        ordered = CallOrder()
        for number in range(calls):
            ordered.put(ALICE, DeviceId(f"D{number}"), numbered(0))
        began = process_time()
        for number in range(200):
            ordered.put(ALICE, DeviceId(f"E{number}"), numbered(2))
        return process_time() - began

    assert cost_s(15_000) < 10 * cost_s(1) + 0.05


def test_what_is_remembered_is_bounded() -> None:
    ordered = CallOrder(max_calls=3)
    for number in range(10):
        ordered.put(ALICE, DeviceId(f"D{number}"), numbered(0))
    assert len(ordered) == 3
