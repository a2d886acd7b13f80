"""The inbox handles what it accepted: once, in order, whatever goes wrong around it."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from mxrtc_bridge.core.errors import RefusedStatementError, StorageError
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.inbox.inbox import InboxLimits
from mxrtc_bridge.metrics import Metrics
from tests.matrix.inbox.bench import (
    ALICE,
    MemoryStore,
    Recorder,
    make_inbox,
    raw_event,
    running,
)


async def test_accepted_events_are_handled_in_order() -> None:
    store, recorder = MemoryStore(), Recorder()
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.accept("1", [raw_event(number, number % 3) for number in range(30)])
        await inbox.accept("2", [raw_event(number, number % 3) for number in range(30, 60)])
        await inbox.idle()
    assert recorder.by_room() == {f"!r{room}:example.org": list(range(room, 60, 3)) for room in range(3)}
    assert store.states() == {"done": 60}


async def test_event_reaches_the_handler_whole() -> None:
    """The same from memory and from the database."""
    store, recorder = MemoryStore(), Recorder()
    stripped = {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": "invite"}}
    raw = raw_event(
        1,
        type="m.room.member",
        state_key="@rtc_build:example.org",
        unsigned={"age": 5, "invite_room_state": [stripped, "odd", {"type": 5}], "prev_content": "odd"},
    )
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.accept("1", [raw])
        await inbox.idle()
    store.rows["$1"].state = "new"
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.idle()
    first, second = recorder.handled
    assert first == second
    assert (first.state_key, first.sender, first.origin_server_ts) == (
        "@rtc_build:example.org", ALICE, 1_700_000_000_000,
    )  # fmt: skip
    assert first.invite_room_state == (stripped,)


async def test_repeated_events_are_handled_once() -> None:
    """In the same transaction, with the same transaction id, and with another one."""
    store, recorder, metrics = MemoryStore(), Recorder(), Metrics()
    async with running(make_inbox(store, recorder, metrics=metrics)) as inbox:
        await inbox.accept("1", [raw_event(1), raw_event(1), raw_event(2)])
        await inbox.accept("1", [raw_event(1), raw_event(2)])
        await inbox.idle()
        await inbox.accept("2", [raw_event(2), raw_event(3)])
        await inbox.idle()
    assert recorder.numbers == [1, 2, 3]
    assert b'mxrtc_events_total{outcome="duplicate"} 4.0' in metrics.render()


async def test_events_of_other_types_are_neither_stored_nor_handled() -> None:
    store, recorder, metrics = MemoryStore(), Recorder(), Metrics()
    async with running(make_inbox(store, recorder, metrics=metrics, types=frozenset({"m.call.invite"}))) as inbox:
        await inbox.accept("1", [raw_event(1, type="m.room.message"), raw_event(2), raw_event(3, type="m.reaction")])
        await inbox.idle()
    assert list(store.rows) == ["$2"]
    assert recorder.numbers == [2]
    assert b'mxrtc_events_total{outcome="ignored"} 2.0' in metrics.render()


@pytest.mark.parametrize(
    ("odd", "at", "content"),
    [
        ({"content": []}, 1_700_000_000_000, {}),
        ({"content": None}, 1_700_000_000_000, {}),
        ({"origin_server_ts": "now"}, 0, {"number": 7}),
        ({"origin_server_ts": None}, 0, {"number": 7}),
        ({"origin_server_ts": -1}, 0, {"number": 7}),
        ({"origin_server_ts": 1.5}, 0, {"number": 7}),
        ({"origin_server_ts": True}, 0, {"number": 7}),
        ({"origin_server_ts": 2**63}, 2**53 - 1, {"number": 7}),
    ],
    ids=repr,
)
async def test_odd_time_or_content_hides_nothing_else(odd: dict[str, Any], at: int, content: dict[str, Any]) -> None:
    """A server may claim any time; an event may be the end of a right all the same."""
    handled = []

    async def handle(event: RoomEvent) -> None:
        handled.append((event.event_id, event.origin_server_ts, event.content))

    async with running(make_inbox(MemoryStore(), handle)) as inbox:
        await inbox.accept("1", [raw_event(7, **odd)])
        await inbox.idle()
    assert handled == [("$7", at, content)]


@pytest.mark.parametrize(
    "poison",
    [
        None,
        17,
        "text",
        [],
        {},
        raw_event(7, event_id=7),
        raw_event(7, event_id="$" + "x" * 255),
        raw_event(7, room_id="r"),
        raw_event(7, room_id=None),
        raw_event(7, sender="alice"),
        raw_event(7, sender={"a": 1}),
        raw_event(7, type=None),
        raw_event(7, type="t" * 256),
        raw_event(7, state_key=5),
        raw_event(7, state_key="k" * 256),
        raw_event(7, content={"sdp": "x" * (512 * 1024)}),
    ],
    ids=lambda poison: repr(poison)[:60],
)
async def test_poison_event_is_set_aside_once_and_the_rest_goes_on(poison: object) -> None:
    store, recorder = MemoryStore(), Recorder()
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.accept("1", [raw_event(1), poison, raw_event(2)])
        await inbox.accept("2", [poison, raw_event(3)])
        await inbox.idle()
    assert recorder.numbers == [1, 2, 3]
    assert store.states() == {"done": 3, "aside": 1}
    (aside,) = (row for row in store.rows.values() if row.state == "aside")
    assert aside.reason
    assert len(aside.payload) <= 4096
    assert aside.key.startswith(("hash:", "$"))
    assert len(aside.key) <= 255


@pytest.mark.parametrize(
    "good",
    [
        raw_event(1, event_id="$" + "x" * 254),
        raw_event(1, type="t" * 255, state_key="k" * 255),
        raw_event(1, origin_server_ts=2**53 - 1),
        raw_event(1, origin_server_ts=0),
        raw_event(1, content={"number": 1, "text": "\ud800\x00 \u202e", "sdp": "x" * (500 * 1024)}),
        raw_event(1, room_id="!withoutserver"),
        raw_event(1, unsigned=["odd"]),
        raw_event(1, unsigned={"invite_room_state": {"odd": 1}}),
        raw_event(1, unsigned={"invite_room_state": [{"type": "t", "state_key": "", "content": {}}] * 1000}),
    ],
    ids=lambda good: repr(good)[:60],
)
async def test_event_at_a_limit_is_handled(good: dict[str, Any]) -> None:
    store, recorder = MemoryStore(), Recorder()
    async with running(make_inbox(store, recorder)) as inbox:
        await inbox.accept("1", [good])
        await inbox.idle()
    assert store.states() == {"done": 1}
    assert len(recorder.handled[0].invite_room_state) <= 64


async def test_handler_that_raises_sets_the_event_aside_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    """The log names event, exception type and place, but never what the exception says."""
    store, handled = MemoryStore(), []

    async def handler(event: RoomEvent) -> None:
        handled.append(event.content["number"])
        if event.content["number"] == 2:
            raise KeyError("a=candidate:192.0.2.1")

    async with running(make_inbox(store, handler)) as inbox:
        await inbox.accept("1", [raw_event(number) for number in (1, 2, 3)])
        await inbox.idle()
    assert handled == [1, 2, 3]
    assert {key: row.state for key, row in store.rows.items()} == {"$1": "done", "$2": "aside", "$3": "done"}
    errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert "$2" in errors[0]
    assert "KeyError at handler" in errors[0]
    assert "192.0.2.1" not in caplog.text


async def test_handler_that_raises_cancelled_does_not_stop_its_room() -> None:
    """A handler that awaits something cancelled elsewhere looks like a cancelled worker, but is not."""
    store, handled = MemoryStore(), []

    async def handler(event: RoomEvent) -> None:
        handled.append(event.content["number"])
        if event.content["number"] == 1:
            raise asyncio.CancelledError

    async with running(make_inbox(store, handler)) as inbox:
        await inbox.accept("1", [raw_event(1), raw_event(2)])
        await inbox.idle()
    assert handled == [1, 2]
    assert store.rows["$1"].reason == "the handler was cancelled from within"


async def test_handler_that_hangs_sets_the_event_aside_and_goes_on() -> None:
    store, handled, metrics = MemoryStore(), [], Metrics()

    async def handler(event: RoomEvent) -> None:
        handled.append(event.content["number"])
        if event.content["number"] == 1:
            await asyncio.Event().wait()
        if event.content["number"] == 2:
            raise TimeoutError("of its own")

    limits = InboxLimits(handler_timeout_s=0.01)
    async with running(make_inbox(store, handler, limits=limits, metrics=metrics)) as inbox:
        await inbox.accept("1", [raw_event(1), raw_event(2), raw_event(3)])
        await inbox.idle()
    assert handled == [1, 2, 3]
    assert store.rows["$1"].reason == "timeout: not handled within 0.01 s"
    assert "TimeoutError at handler" in (store.rows["$2"].reason or "")
    assert b'mxrtc_events_total{outcome="timeout"} 1.0' in metrics.render()


async def test_slow_room_does_not_hold_up_another() -> None:
    go_on, handled = asyncio.Event(), []

    async def handler(event: RoomEvent) -> None:
        if event.room_id == "!r0:example.org":
            await go_on.wait()
        handled.append(event.content["number"])

    async with running(make_inbox(MemoryStore(), handler)) as inbox:
        await inbox.accept("1", [raw_event(1, 0), raw_event(2, 0), raw_event(3, 1), raw_event(4, 1)])
        while len(handled) < 2:
            await asyncio.sleep(0)
        assert handled == [3, 4]
        go_on.set()
        await inbox.idle()
    assert handled == [3, 4, 1, 2]


async def test_users_are_known_by_the_given_rule() -> None:
    inbox = make_inbox(MemoryStore(), Recorder())
    assert inbox.knows_user("@rtc_build:example.org")
    assert not inbox.knows_user(ALICE)


@pytest.mark.parametrize(("refusal", "aside"), [(StorageError("busy"), 0), (RefusedStatementError("not this"), 1)])
async def test_event_that_the_database_refuses_is_tried_again_unless_it_is_refused_for_good(
    refusal: StorageError, aside: int
) -> None:
    store, handled, refusals = MemoryStore(), list[int](), [refusal]

    async def handler(event: RoomEvent) -> None:
        if refusals and event.content["number"] == 2:
            raise refusals.pop()
        handled.append(event.content["number"])

    async with running(make_inbox(store, handler)) as inbox:
        await inbox.accept("1", [raw_event(number) for number in (1, 2, 3)])
        await inbox.idle()
    assert handled == ([1, 3] if aside else [1, 2, 3])
    assert [row.state for row in store.rows.values()].count("aside") == aside


async def test_inbox_whose_parts_have_failed_goes_on_when_it_is_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store, recorder = MemoryStore(), Recorder()
    inbox, count = make_inbox(store, recorder), store.count_waiting
    failures = [KeyError("a defect")]

    async def fails() -> object:
        if failures:
            raise failures.pop()
        return await count()

    monkeypatch.setattr(store, "count_waiting", fails)
    with pytest.raises(ExceptionGroup):
        await inbox.run()
    async with running(inbox):
        await inbox.accept("1", [raw_event(number) for number in (1, 2, 3)])
        await inbox.idle()
    assert [event.content["number"] for event in recorder.handled] == [1, 2, 3]
