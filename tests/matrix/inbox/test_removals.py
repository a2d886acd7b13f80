"""What takes something away counts when it arrives: before it is stored, and before all that waits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.matrix.inbox.inbox import Inbox, InboxLimits
from mxrtc_bridge.matrix.inbox.redactions import MAX_EVENTS, MAX_ROOMS, WithdrawnEvents
from tests.honesty import NO_ANSWERS, Honesty
from tests.matrix.inbox.bench import ALICE, MemoryStore, Recorder, kill, make_inbox, raw_event, running
from tests.waiting import turns

ROOM = "!r0:example.org"


def redaction(number: int, of: int, **changes: Any) -> dict[str, Any]:
    return raw_event(
        number, **{"type": "m.room.redaction", "redacts": f"${of}", "content": {"number": number}, **changes}
    )


async def take(inbox: Inbox, *events: dict[str, Any]) -> None:
    """As the endpoint does."""
    inbox.look(events)
    await inbox.accept("t", events)


class Gate:
    """A handler that waits inside its first event."""

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.opened = asyncio.Event()

    async def __call__(self, event: Any) -> None:
        self.numbers.append(event.content["number"])
        await self.opened.wait()


@pytest.mark.parametrize(
    "form",
    [
        {},
        {"redacts": None, "content": {"redacts": "$2"}},
        {"content": {"redacts": "$3"}},
        {"origin_server_ts": -5},
        {"sender": "@ü:example.org"},
        {"event_id": 7},
        {"unsigned": "odd"},
    ],
    ids=["before version 11", "from version 11", "both", "old", "odd sender", "no id", "odd unsigned"],
)
async def test_redacted_event_is_not_handled_when_it_still_waits(form: dict[str, Any]) -> None:
    store, gate = MemoryStore(), Gate()
    if form.get("redacts", 1) is None:
        form = {key: value for key, value in form.items() if key != "redacts"}
        event = {key: value for key, value in redaction(4, 2, **form).items() if key != "redacts"}
    else:
        event = redaction(4, 2, **form)
    async with running(make_inbox(store, gate)) as inbox:
        await take(inbox, raw_event(1), raw_event(2), raw_event(3))
        await take(inbox, event)
        gate.opened.set()
        await inbox.idle()
    assert [number for number in gate.numbers if number != 4] == [1, 3]
    assert (store.rows["$2"].state, store.rows["$2"].reason) == ("aside", "redacted")


async def test_redaction_in_the_same_transaction_or_before_its_event_counts() -> None:
    store, recorder = MemoryStore(), Recorder()
    async with running(make_inbox(store, recorder)) as inbox:
        await take(inbox, raw_event(1), redaction(2, 1))
        await take(inbox, redaction(3, 4))
        await take(inbox, raw_event(4))
        await inbox.idle()
    assert recorder.numbers == [2, 3]


@pytest.mark.parametrize("kind", ["m.room.message", "m.room.encrypted"])
@pytest.mark.parametrize("events_per_lane", [1, 1000])
@pytest.mark.parametrize("by", ["@eve:example.org", ALICE])
async def test_message_of_somebody_with_a_right_is_taken_back_by_themselves_only(
    kind: str, events_per_lane: int, by: str
) -> None:
    """It may take something away from whoever redacts it; its handler knows that it was redacted, and what it is."""
    store, gate = MemoryStore(), Gate()
    limits = InboxLimits(events_per_lane=events_per_lane, retry_s=0)
    async with running(make_inbox(store, gate, limits=limits, has_right=lambda user: user == ALICE)) as inbox:
        await take(inbox, *(raw_event(number, type=kind) for number in range(4)))
        await take(inbox, redaction(5, 2, sender=by), redaction(6, 3, sender=by, room_id="!r1:example.org"))
        gate.opened.set()
        await inbox.idle()
    assert (2 in gate.numbers) == (by != ALICE)
    assert 3 in gate.numbers


async def test_redaction_counts_whatever_another_one_in_another_room_says_behind_it() -> None:
    store, gate = MemoryStore(), Gate()
    async with running(make_inbox(store, gate)) as inbox:
        await take(inbox, raw_event(1), raw_event(2))
        # Without the memory of this run: what is written down counts after the next start.
        await inbox.accept("t", [redaction(3, 2), redaction(4, 2, room_id="!r1:example.org")])
        gate.opened.set()
        await inbox.idle()
    assert store.rows["$2"].reason == "redacted"


async def test_redaction_of_an_event_of_another_room_means_nothing() -> None:
    store, recorder = MemoryStore(), Recorder()
    async with running(make_inbox(store, recorder)) as inbox:
        await take(inbox, raw_event(1), redaction(2, 1, room_id="!r1:example.org"))
        await inbox.idle()
    assert sorted(recorder.numbers) == [1, 2]


@pytest.mark.parametrize("events_per_lane", [1, 1000])
async def test_redacted_event_is_not_handled_after_a_new_start(events_per_lane: int) -> None:
    """Memory has forgotten it; the database has not."""
    store, gate = MemoryStore(), Gate()
    inbox = make_inbox(store, gate, limits=InboxLimits(events_per_lane=events_per_lane, retry_s=0))
    task = asyncio.create_task(inbox.run())
    inbox.set_ready(True)
    while not inbox.ready:
        await asyncio.sleep(0)
    await take(inbox, *map(raw_event, range(6)))
    await take(inbox, redaction(6, 4))
    await kill(task)
    recorder = Recorder()
    async with running(make_inbox(store, recorder)) as again:
        await again.idle()
    assert recorder.numbers == [0, 1, 2, 3, 5, 6]
    assert store.rows["$4"].reason == "redacted"


async def test_look_comes_before_everything_and_survives_a_defect(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore(fault=lambda: "before")
    seen: list[object] = []

    def arrived(raw: object) -> None:
        seen.append(raw)
        if raw == "odd":
            raise KeyError("a defect")

    inbox = make_inbox(store, Recorder(), arrived=arrived)
    inbox.look(["odd", 5, {"type": "x"}])
    with pytest.raises(StorageError):
        await inbox.accept("t", [{"type": "x"}])
    assert seen == ["odd", 5, {"type": "x"}]
    assert caplog.text.count("was not looked at") == 1


@pytest.mark.parametrize("lie", NO_ANSWERS)
async def test_what_arrives_is_looked_at_whatever_the_database_does(lie: Honesty) -> None:
    store, recorder = MemoryStore(), Recorder()
    seen: list[object] = []
    async with running(make_inbox(store, recorder, arrived=seen.append)) as inbox:
        store.honesty = lie
        events = [raw_event(1), redaction(2, 1)]
        inbox.look(events)
        accepting = asyncio.create_task(inbox.accept("t", events))
        await turns()
        accepting.cancel()
        with pytest.raises((StorageError, asyncio.CancelledError)):
            await accepting
        assert seen == events
        assert recorder.numbers == [], "nothing is handled that is not kept"
        store.honesty = Honesty.TRUE


def test_withdrawn_events_are_bounded_by_room() -> None:
    withdrawn = WithdrawnEvents()
    withdrawn.look(redaction(1, 1, room_id="!mine:example.org"))
    for number in range(MAX_EVENTS * 2):
        withdrawn.look(redaction(number, number))
    assert withdrawn.holds("!mine:example.org", "$1"), "another room pushes nothing out of this one"
    assert [withdrawn.holds(ROOM, f"${number}") for number in (MAX_EVENTS - 1, MAX_EVENTS)] == [False, True]
    for number in range(MAX_ROOMS):
        withdrawn.look(redaction(number, 1, room_id=f"!x{number}:example.org"))
    assert not withdrawn.holds(ROOM, f"${MAX_EVENTS}")


@pytest.mark.parametrize("raw", [None, 5, [], {}, {"type": "m.room.redaction"}, redaction(1, 2, redacts=5, room_id=7)])
def test_odd_redaction_takes_nothing_back(raw: object) -> None:
    withdrawn = WithdrawnEvents()
    withdrawn.look(raw)
    assert not withdrawn.holds(ROOM, "$2")
