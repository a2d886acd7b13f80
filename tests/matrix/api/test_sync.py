"""The stream of events of a user: nothing twice, nothing lost, and no end while the homeserver is away."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.api.sync import SyncStream, build_filter, events_of
from mxrtc_bridge.matrix.api.transport import Transport
from tests.conftest import HomeserverFactory
from tests.matrix.conftest import MakePerson

ROOM = RoomId("!room:example.org")
TYPES = ("m.call.invite", "m.call.hangup", "m.room.member")


def raw(number: int | str, kind: str = "m.call.invite", **more: object) -> dict[str, Any]:
    return {
        "event_id": f"${number}",
        "type": kind,
        "sender": "@alice:example.org",
        "origin_server_ts": 1,
        "content": {},
        **more,
    }


def answer(token: str, *events: object, state: tuple[object, ...] = (), section: str = "join") -> dict[str, object]:
    room = {"state": {"events": list(state)}, "timeline": {"events": list(events)}}
    return {"next_batch": token, "rooms": {section: {ROOM: room}}}


class Script:
    """Answers as prepared; ends the test's stream by an error that is not a homeserver's."""

    def __init__(self, *answers: dict[str, object] | HomeserverError) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str | None, float]] = []
        self.filters: list[Mapping[str, object]] = []
        self.slept: list[float] = []
        self.told: list[bool] = []

    async def sync(
        self, *, filter_json: Mapping[str, object], since: str | None, wait_s: float, timeout_s: float
    ) -> dict[str, object]:
        assert timeout_s > wait_s
        self.asked.append((since, wait_s))
        self.filters.append(filter_json)
        if not self.answers:
            raise EOFError
        result = self.answers.pop(0)
        if isinstance(result, HomeserverError):
            raise result
        return result

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def stream(self, **options: Any) -> SyncStream:
        return SyncStream(
            self,
            types=TYPES,
            sleep=self.sleep,
            jitter=lambda: 0.5,
            on_change=lambda error: self.told.append(error is None),
            **options,
        )


async def all_of(stream: SyncStream) -> list[str]:
    return [event.event_id for event, _ in await drain(stream)]


async def drain(stream: SyncStream) -> list[tuple[RoomEvent, str | None]]:
    """All events until the script ends, each with the stream's point at that moment."""
    taken: list[tuple[RoomEvent, str | None]] = []
    try:
        async for event in stream.events():
            taken.append((event, stream.since))  # noqa: PERF401 - a comprehension would lose them at the end
    except EOFError:
        return taken
    raise AssertionError("the stream ended by itself")


async def test_stream_starts_now_and_goes_on_from_each_answer() -> None:
    script = Script(answer("s1", raw("old")), answer("s2", raw(1), raw(2)), answer("s3"), answer("s4", raw(3)))
    assert await all_of(script.stream()) == ["$1", "$2", "$3"]
    assert script.asked == [(None, 0), ("s1", 30), ("s2", 30), ("s3", 30), ("s4", 30)]


async def test_stream_goes_on_from_a_given_point() -> None:
    script = Script(answer("s9", raw(1)))
    assert await all_of(script.stream(since="s8")) == ["$1"]
    assert script.asked[0] == ("s8", 30)


async def test_point_moves_only_after_the_events_were_taken() -> None:
    stream = Script(answer("s1"), answer("s2", raw(1), raw(2)), answer("s3")).stream()
    seen = [since for _, since in await drain(stream)]
    assert (seen, stream.since) == (["s1", "s1"], "s3")


async def test_state_comes_before_the_timeline_and_departures_are_seen() -> None:
    gone = raw(2, "m.room.member", state_key="@b:example.org")
    script = Script(answer("s1"), answer("s2", raw(3), state=(gone,)), answer("s3", raw(4), section="leave"))
    assert await all_of(script.stream()) == ["$2", "$3", "$4"]


async def test_repeated_event_is_given_once() -> None:
    script = Script(answer("s1"), answer("s2", raw(1), raw(1)), answer("s3", raw(1), raw(2)))
    assert await all_of(script.stream()) == ["$1", "$2"]


async def test_events_that_a_consumer_did_not_take_are_given_to_the_next() -> None:
    script = Script(answer("s1"), answer("s2", raw(1), raw(2), raw(3)), answer("s3", raw(1), raw(2), raw(3)))
    stream = script.stream()
    events = stream.events()
    assert (await anext(events)).event_id == "$1"
    await events.aclose()  # type: ignore[attr-defined]
    assert await all_of(stream) == ["$2", "$3"]
    assert [since for since, _ in script.asked] == [None, "s1", "s1", "s3"]


async def test_memory_of_seen_events_is_bounded() -> None:
    stream = Script(answer("s0"), *(answer(f"s{n + 1}", raw(n)) for n in range(30))).stream(max_seen=10)
    assert len(await all_of(stream)) == 30
    assert stream.remembered == 10


async def test_types_that_were_not_asked_for_are_left_out() -> None:
    script = Script(answer("s1"), answer("s2", raw(1, "m.room.message"), raw(2)))
    assert await all_of(script.stream()) == ["$2"]


async def test_stream_outlives_an_outage_without_losing_its_place() -> None:
    away = HomeserverError("away", 0)
    script = Script(answer("s1"), answer("s2", raw(1)), away, HomeserverError("", 502), away, answer("s3", raw(2)))
    assert await all_of(script.stream()) == ["$1", "$2"]
    assert script.slept == [0.25, 0.5, 1.0]
    # While it is lost the requests do not wait, so that "found again" is noticed at once.
    assert script.asked[2:] == [("s2", 30), ("s2", 0), ("s2", 0), ("s2", 0), ("s3", 30)]
    assert script.told == [False, True]


async def test_pause_between_attempts_is_bounded() -> None:
    script = Script(answer("s1"), *(HomeserverError("away", 0) for _ in range(50)))
    await all_of(script.stream())
    assert max(script.slept) == 4.0
    assert script.told == [False]


async def test_homeserver_that_asks_for_a_longer_pause_gets_it() -> None:
    script = Script(answer("s1"), HomeserverError("too often", 429, wait_s=90.0), answer("s2"))
    await all_of(script.stream())
    assert script.slept == [90.0]


async def test_stream_ends_when_the_session_was_logged_out() -> None:
    script = Script(answer("s1"), HomeserverError("token", 401, "M_UNKNOWN_TOKEN"))
    with pytest.raises(HomeserverError, match="token"):
        await drain(script.stream())
    assert script.slept == []


async def test_start_does_not_wait_for_a_homeserver_that_is_away() -> None:
    with pytest.raises(HomeserverError, match="away"):
        await Script(HomeserverError("away", 0)).stream().start()


@pytest.mark.parametrize("token", [None, "", 5, "x" * 4097])
async def test_answer_without_a_usable_token_is_refused(token: object) -> None:
    with pytest.raises(HomeserverError, match="next_batch"):
        await Script({"next_batch": token}).stream().start()


async def test_watched_rooms_can_change() -> None:
    script = Script(answer("s1"), answer("s2", raw(1)))
    stream = script.stream(rooms=[ROOM])
    async for _ in stream.events():
        stream.watch([RoomId("!b:example.org")])
        break
    with pytest.raises(EOFError):
        await anext(stream.events())
    assert [item["room"]["rooms"] for item in script.filters[1:]] == [[ROOM], ["!b:example.org"]]  # type: ignore[index]


async def test_first_request_is_never_the_same_and_asks_for_no_events() -> None:
    """A homeserver that caches first answers must not make an old point of now."""
    filters = []
    for _ in range(3):
        script = Script(answer("s1"))
        await script.stream(rooms=[ROOM]).start()
        filters += script.filters
    assert all(len(item["room"]["rooms"]) == 1 and ROOM not in item["room"]["rooms"] for item in filters)  # type: ignore[index,operator,arg-type]
    assert len({str(item) for item in filters}) == 3


def test_filter_lets_nothing_else_through() -> None:
    built = build_filter(TYPES, None)
    nothing = {"types": [], "limit": 0}
    assert built == {
        "presence": nothing,
        "account_data": nothing,
        "room": {
            "timeline": {"types": sorted(TYPES), "limit": 100},
            "state": {"types": ["m.room.member"]},
            "ephemeral": nothing,
            "account_data": nothing,
            "include_leave": False,
        },
    }


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["rooms", "join", "leave", ROOM, "bad room", "state", "timeline", "events", "event_id"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["rooms", "next_batch"]), json_values))
def test_answer_of_any_form_is_read_without_an_error(value: dict[str, object]) -> None:
    assert all(isinstance(event, RoomEvent) for event in events_of(value))


def test_malformed_events_are_left_out_and_the_others_stay() -> None:
    mixed = answer("s", 5, raw(1), {"event_id": "$x"}, raw(2, sender="nobody"), raw(3))
    mixed["rooms"]["join"]["no room id"] = {"timeline": {"events": [raw(4)]}}  # type: ignore[index]
    assert [event.event_id for event in events_of(mixed)] == ["$1", "$3"]
    assert {event.room_id for event in events_of(mixed)} == {ROOM}


# --- against a real homeserver


async def take(events: AsyncIterator[RoomEvent], count: int) -> list[RoomEvent]:
    async with asyncio.timeout(40):
        return [await anext(events) for _ in range(count)]


@pytest.mark.asyncio(loop_scope="session")
async def test_real_stream_gives_only_the_wanted_events_of_the_wanted_room(make_person: MakePerson) -> None:
    alice, bob = await make_person(), await make_person()
    room = await alice.homeserver.create_direct_room(bob.user_id)
    other = await alice.homeserver.create_direct_room(bob.user_id)
    await bob.homeserver.join(room)
    await bob.homeserver.send_event(room, "m.call.invite", {"n": "before"}, "t0")
    stream = SyncStream(alice.homeserver, types=TYPES, rooms=[room])
    await stream.start()
    await alice.homeserver.send_event(other, "m.call.invite", {"n": "other room"}, "t0")
    await bob.homeserver.send_event(room, "m.room.message", {"msgtype": "m.text", "body": "not wanted"}, "t1")
    for number in range(40):
        await bob.homeserver.send_event(room, "m.call.invite", {"n": number}, f"c{number}")
        if number == 15:
            events = stream.events()
            first = await take(events, 16)
    await bob.homeserver.leave(room)
    rest = await take(events, 25)
    await events.aclose()  # type: ignore[attr-defined]
    assert [event.content["n"] for event in [*first, *rest[:-1]]] == list(range(40))
    assert (rest[-1].type, rest[-1].state_key, rest[-1].content["membership"]) == (
        "m.room.member",
        bob.user_id,
        "leave",
    )


@pytest.mark.asyncio(loop_scope="session")
async def test_real_streams_one_after_the_other_give_nothing_from_before_their_own_start(
    make_person: MakePerson,
) -> None:
    """What happened to an earlier command of the same user is not news to the next one."""
    alice = await make_person()
    room = await alice.homeserver.create_direct_room(UserId("@nobody:example.test"))
    for number in range(3):
        stream = SyncStream(alice.homeserver, types=TYPES)
        await stream.start()
        await alice.homeserver.send_event(room, "m.call.invite", {"n": number}, f"t{number}")
        events = stream.events()
        assert [event.content["n"] for event in await take(events, 1)] == [number]
        await events.aclose()  # type: ignore[attr-defined]


async def test_real_stream_survives_a_restart_of_the_homeserver(make_homeserver: HomeserverFactory) -> None:
    synapse = await make_homeserver()
    await synapse.register_user("alice", "secret")
    login = await synapse.login("alice", "secret")
    told: list[bool] = []
    async with Homeserver(Transport(synapse.url, login.access_token)) as alice:
        room = await alice.create_direct_room(UserId(synapse.user_id("nobody")))
        stream = SyncStream(alice, types=TYPES, rooms=[room], on_change=lambda error: told.append(error is None))
        await stream.start()
        received: list[object] = []

        async def follow() -> None:
            async for event in stream.events():
                received.append(event.content["n"])  # noqa: PERF401 - watched while it grows

        async def received_all(count: int) -> None:
            async with asyncio.timeout(40):
                while len(received) < count:
                    await asyncio.sleep(0.05)

        task = asyncio.create_task(follow())
        try:
            await alice.send_event(room, "m.call.invite", {"n": 1}, "t1")
            await received_all(1)
            synapse.kill()
            async with asyncio.timeout(20):
                while told != [False]:
                    await asyncio.sleep(0.05)
            await synapse.start()
            await alice.send_event(room, "m.call.invite", {"n": 2}, "t2")
            await received_all(2)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    assert received == [1, 2]
    assert told == [False, True]
