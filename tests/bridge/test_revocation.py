"""The bridge as a whole, and the ends of rights: at once when they arrive, found out when they never do.

The homeserver here may be silent, stale or wrong: ``members`` says who is in a room, unless a test has it lie.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.bridge import revocation as arrivals_module
from mxrtc_bridge.bridge.access import configured_rooms as module
from mxrtc_bridge.bridge.access.configured_rooms import ComparisonTimes
from mxrtc_bridge.bridge.bridge import Bridge
from mxrtc_bridge.bridge.build import Pace
from mxrtc_bridge.bridge.revocation import Revocation
from mxrtc_bridge.core.access.policy import UNCONFIRMED, Allow
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.live_sessions import LiveSessions
from tests.bridge.homeserver import ALICE, DOMAIN, PEER, ROOM, FakeHomeserver
from tests.bridge.test_bridge import invite, running
from tests.honesty import LIES, NO_ANSWERS, Honesty
from tests.hostile_json import JSON, beside, deep
from tests.long import examples, some
from tests.waiting import turns, until

TEAM, LIST = RoomId(f"!team:{DOMAIN}"), RoomId(f"!list:{DOMAIN}")
MEMBER = UserId(ALICE)
CAROL = f"@carol:{DOMAIN}"
EXAMPLES = examples(8)
"""Of hostile content for each event; the parts are tried with more."""
GRANTS = {"grants": [{"id": "team", "from": [f"room:{TEAM}"], "to": ["build/echo"]}], "policy_lists": [LIST]}


@pytest_asyncio.fixture
async def homeserver(tmp_path: Path) -> AsyncIterator[FakeHomeserver]:
    async with FakeHomeserver(tmp_path) as server:
        server.members = {ROOM: [ALICE, PEER], TEAM: [ALICE, CAROL, f"@rtcbot:{DOMAIN}"]}
        server.rules[LIST] = []
        yield server


def state(kind: str, key: str, content: object, room: str = TEAM, /, **changes: Any) -> dict[str, Any]:
    common = {"event_id": f"${kind}", "room_id": room, "type": kind, "sender": CAROL, "origin_server_ts": 1}
    return {**common, "state_key": key, "content": content} | changes


def kick(room: str = TEAM, /, **changes: Any) -> dict[str, Any]:
    return state("m.room.member", ALICE, {"membership": "leave"}, room, **changes)


def pace_of(**times: float) -> Pace:
    return Pace(comparison=ComparisonTimes(**times))


def is_member(bridge: Bridge) -> bool:
    return bool(bridge.access.rooms.rooms_of(MEMBER))


async def refusal(homeserver: FakeHomeserver, number: int) -> str | None:
    """Call, and return the reason of the rejection: None where there is no right, otherwise the description's."""
    count = len(homeserver.sent)
    assert await homeserver.push(invite(number)) == 200
    await until(lambda: any(kind == "m.call.reject" for kind, _ in homeserver.sent[count:]))
    (reject,) = (content for kind, content in homeserver.sent[count:] if kind == "m.call.reject")
    return reject.get("reason")


ODD: dict[str, dict[str, Any]] = {
    "plain": {},
    "deep before": {"unsigned": {"prev_content": deep(40)}},
    "deep inside": {"content": {"x": deep(40), "membership": "ban"}},
    "deep beside": {"x": deep(500)},
    "before 1970": {"origin_server_ts": -1},
    "no time": {"origin_server_ts": None},
    "far future": {"origin_server_ts": 2**70},
    "a fraction": {"origin_server_ts": 1.5},
    "odd sender": {"sender": "@m\u00fcller:example.org"},
    "no sender": {"sender": None},
    "empty localpart": {"sender": "@:example.org"},
    "odd id": {"event_id": 5},
    "long id": {"event_id": "$" + "x" * 300},
    "no content": {"content": None},
    "list as content": {"content": [{"membership": "join"}]},
    "odd membership": {"content": {"membership": ["join"]}},
    "another membership": {"content": {"membership": "Join"}},
    "large": {"content": {"membership": "leave", "x": "\0" * 60_000}},
    "odd characters": {"content": {"membership": "leave", "\ud800": "\0\ud800"}},
    "huge numbers": {"content": {"membership": "leave", "x": [-(10**400), 1e308]}},
    "odd unsigned": {"unsigned": [{}]},
}


@pytest.mark.parametrize("odd", some(list(ODD), 6))
async def test_kick_counts_when_it_arrives_whatever_else_is_in_it(homeserver: FakeHomeserver, odd: str) -> None:
    """Also when the homeserver goes on to say that the member is there, and the database takes nothing."""
    async with running(homeserver, **GRANTS) as (bridge, stores, _):
        assert is_member(bridge)
        store = stores.inbox.store

        async def refuse(*_: object) -> Any:
            raise StorageError("the disk is full")

        stores.inbox.store = refuse  # type: ignore[method-assign]
        await homeserver.push(kick(**ODD[odd]))
        assert not is_member(bridge)
        stores.inbox.store = store  # type: ignore[method-assign]
        assert await refusal(homeserver, 1) is None


ENDS: dict[str, Callable[[int], dict[str, Any]]] = {
    **{
        f"membership {membership!r}": lambda number, membership=membership: state(  # type: ignore[misc]
            "m.room.member", user(number), {"membership": membership}
        )
        for membership in ("leave", "ban", None, ["join"])
    },
    **{
        f"{kind} of {entity}": lambda number, kind=kind, entity=entity: state(  # type: ignore[misc]
            kind, f"rule{number}", {"entity": entity.format(number), "recommendation": "m.ban"}, LIST
        )
        for kind, entity in (
            ("m.policy.rule.user", "@user{}:example.org"),
            ("m.room.rule.user", "@user{}:*"),
            ("org.matrix.mjolnir.rule.user", "*ser{}:example.org"),
            ("m.policy.rule.server", "server{}.test"),
            ("org.matrix.mjolnir.rule.server", "?erver{}.test"),
        )
    },
    "m.room.encryption": lambda number: state("m.room.encryption", "", {}, f"!room{number}:{DOMAIN}"),
    "m.call.hangup": lambda number: call_event("m.call.hangup", number),
    "m.call.reject": lambda number: call_event("m.call.reject", number),
}
"""Every event of a room by which something ends, for the user or room of a number."""


def user(number: int) -> str:
    return f"@user{number}:{DOMAIN}"


def call_event(kind: str, number: int) -> dict[str, Any]:
    raw = state(kind, "", {"call_id": f"c{number}", "party_id": "p", "version": "1"}, ROOM, event_id=f"${kind}{number}")
    del raw["state_key"]
    return {**raw, "sender": ALICE, "origin_server_ts": time.time_ns() // 1_000_000}


@pytest.mark.parametrize("end", some(list(ENDS), 6))
def test_end_of_a_right_counts_whatever_comes_before_in_and_behind_it(tmp_path: Path, end: str) -> None:
    """Anything that is JSON, in the same transaction and in the event; the homeserver goes on to tell of what was."""
    numbers = itertools.count()

    async def one(bridge: Bridge, server: FakeHomeserver, drawn: tuple[Any, ...]) -> None:
        before, beside_, inside, behind = drawn
        number = next(numbers)
        raw = ENDS[end](number)
        raw = {**beside_, "unsigned": {"prev_content": behind}, **raw, "content": {**inside, **raw["content"]}}
        ended: list[str] = []
        bridge.calls.manager.receive = lambda event, _local: took(ended, event.message.call_id)  # type: ignore[assignment,method-assign]
        room = RoomId(f"!room{number}:{DOMAIN}")
        denied = UserId(f"@x:server{number}.test" if "rule.server" in end else user(number))
        assert end.startswith("m.call") or not is_over(bridge, denied, room)
        assert await server.push(*before, raw, *before, behind) == 200
        if end.startswith("m.call"):
            await bridge.inbox.idle()
            assert ended == [f"c{number}"]
        else:
            assert is_over(bridge, denied, room)

    def is_over(bridge: Bridge, denied: UserId, room: RoomId) -> bool:
        match end.partition(" ")[0]:
            case "membership":
                return not bridge.access.rooms.rooms_of(denied)
            case "m.room.encryption":
                return bridge.access.index.is_encrypted(room)
            case _:
                return bridge.access.rights.denial(denied) is not None

    async def took(ended: list[str], call_id: str) -> None:
        ended.append(call_id)

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        server = runner.run(stack.enter_async_context(FakeHomeserver(tmp_path)))
        server.members = {ROOM: [ALICE, PEER], TEAM: [ALICE, *map(user, range(EXAMPLES * 10)), f"@rtcbot:{DOMAIN}"]}
        server.members |= {f"!room{number}:{DOMAIN}": [user(number), PEER] for number in range(EXAMPLES * 10)}
        server.rules[LIST] = []
        try:
            bridge, _, _ = runner.run(stack.enter_async_context(running(server, **GRANTS)))
            names = ("type", "room_id", "state_key", "content", "event_id", "sender", "origin_server_ts", "redacts")

            @settings(max_examples=EXAMPLES, deadline=None, database=None)
            @given(
                drawn=st.tuples(
                    st.lists(JSON, max_size=3), beside(*names), beside("membership", "entity", "recommendation"), JSON
                )
            )
            def each(drawn: tuple[Any, ...]) -> None:
                runner.run(one(bridge, server, drawn))

            each()
        finally:
            runner.run(stack.aclose())


@pytest.mark.parametrize("kind", ["m.policy.rule.user", "m.room.rule.user", "org.matrix.mjolnir.rule.user"])
@pytest.mark.parametrize("odd", some([name for name in ODD if "content" not in ODD[name]], 4))
async def test_rule_of_a_list_counts_when_it_arrives_whatever_else_is_in_it(
    homeserver: FakeHomeserver, kind: str, odd: str
) -> None:
    async with running(homeserver, **GRANTS) as (bridge, _, _):
        ban = {"entity": ALICE, "recommendation": "m.ban", "reason": deep(40)}
        await homeserver.push(state(kind, "k\0", ban, LIST, **ODD[odd]))
        assert bridge.access.rights.denial(MEMBER) is not None


@pytest.mark.parametrize("odd", some(list(ODD), 6))
async def test_encryption_counts_when_it_arrives_whatever_else_is_in_it(homeserver: FakeHomeserver, odd: str) -> None:
    async with running(homeserver, **GRANTS) as (bridge, _, _):
        assert not bridge.access.index.is_encrypted(RoomId(ROOM))
        await homeserver.push(state("m.room.encryption", "", {}, ROOM, **ODD[odd]))
        assert bridge.access.index.is_encrypted(RoomId(ROOM))


@pytest.mark.parametrize("odd", some(list(ODD), 6))
async def test_departure_from_the_room_of_a_call_counts_when_it_arrives(homeserver: FakeHomeserver, odd: str) -> None:
    async with running(homeserver, **GRANTS) as (bridge, _, _):
        left: list[object] = []
        bridge.calls.manager.live.member_left = lambda room, user: left.append((room, user))  # type: ignore[method-assign]
        await homeserver.push(kick(ROOM, **ODD[odd]))
        assert left[:1] == [(ROOM, ALICE)]
        await until(lambda: bridge.access.index.members(RoomId(ROOM)) != {ALICE, PEER})


@pytest.mark.parametrize("lie", LIES)
async def test_kick_and_rule_count_whatever_the_homeserver_says_then(
    homeserver: FakeHomeserver, lie: Honesty, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(homeserver, pace_of(confirm_s=0.2), **GRANTS) as (bridge, _, _):
        homeserver.honesty = lie
        homeserver.members[TEAM].remove(ALICE)
        ban = state("m.policy.rule.user", "k", {"entity": CAROL, "recommendation": "m.ban"}, LIST, event_id="$rule")
        assert await homeserver.push(kick(), ban) == 200
        asked = homeserver.asked.count(f"v3/rooms/{TEAM}/joined_members")
        bridge.revocation.compare()
        assert await refusal(homeserver, 1) is None
        await until(lambda: homeserver.asked.count(f"v3/rooms/{TEAM}/joined_members") > asked or lie in NO_ANSWERS)
        assert not is_member(bridge)
        assert bridge.access.rights.denial(UserId(CAROL)) is not None


async def test_room_of_which_nothing_was_ever_said_lets_nobody_in(homeserver: FakeHomeserver) -> None:
    homeserver.wrong.add(TEAM)
    async with running(homeserver, **GRANTS) as (bridge, _, _):
        join = state("m.room.member", ALICE, {"membership": "join"}, sender=ALICE)
        assert await homeserver.push(join) == 200
        await bridge.inbox.idle()
        assert not is_member(bridge)
        assert not isinstance(bridge.access.rights.may_call(MEMBER, UserId(PEER)), Allow)


async def test_old_join_that_comes_after_a_kick_gives_nothing(homeserver: FakeHomeserver) -> None:
    async with running(homeserver, **GRANTS) as (bridge, _, _):
        homeserver.members[TEAM].remove(ALICE)
        join = state("m.room.member", ALICE, {"membership": "join"}, event_id="$old", sender=ALICE)
        assert await homeserver.push(kick(), join) == 200
        assert await homeserver.push(join) == 200
        await bridge.inbox.idle()
        assert await refusal(homeserver, 1) is None
        assert not is_member(bridge)


async def test_somebody_who_has_just_joined_may_call(homeserver: FakeHomeserver) -> None:
    """Their call waits for the answer who is in the room."""
    async with running(homeserver, **GRANTS) as (bridge, _, _):
        homeserver.members[TEAM].remove(ALICE)
        assert await homeserver.push(kick()) == 200
        assert await refusal(homeserver, 1) is None
        homeserver.members[TEAM].append(ALICE)
        join = state("m.room.member", ALICE, {"membership": "join"}, sender=ALICE)
        assert await homeserver.push(join, invite(2)) == 200
        await until(lambda: [kind for kind, _ in homeserver.sent].count("m.call.reject") == 2)
        assert homeserver.sent[-1][1].get("reason")
        assert is_member(bridge)


async def test_kick_that_never_comes_refuses_the_next_call(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(homeserver, pace_of(confirmed_s=0.0), **GRANTS):
        assert await refusal(homeserver, 1)
        homeserver.members[TEAM].remove(ALICE)
        assert await refusal(homeserver, 2) is None


@pytest.mark.parametrize("lie", LIES)
async def test_kick_that_never_comes_ends_what_lives_within_a_minute(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch, lie: Honesty
) -> None:
    """Silence ends nothing; the first true answer does."""
    assert module.COMPARE_S <= 60
    assert module.TICK_S <= 10
    judged: list[int] = []
    monkeypatch.setattr(LiveSessions, "rights_changed", lambda _self, _users=None: judged.append(1))
    async with running(homeserver, pace_of(tick_s=0.01, compare_s=0.02), **GRANTS) as (bridge, _, _):
        asked = homeserver.asked.count(f"v3/rooms/{TEAM}/joined_members")
        for _ in range(3):
            bridge.revocation.compare()
            await turns()
        assert homeserver.asked.count(f"v3/rooms/{TEAM}/joined_members") == asked, "nobody in it has a session"
        session = SimpleNamespace(remote=MEMBER, route=RoomId(ROOM))
        monkeypatch.setattr(LiveSessions, "sessions", [session])
        homeserver.honesty = lie
        homeserver.members[TEAM].remove(ALICE)
        await until(lambda: homeserver.asked.count(f"v3/rooms/{TEAM}/joined_members") > asked)
        assert is_member(bridge)
        judged.clear()
        homeserver.honesty = Honesty.TRUE
        await until(lambda: not is_member(bridge))
        assert judged


def machine_that_sleeps(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what lets the machine sleep for a while; the clock that timers go by stands still meanwhile."""
    real, slept = time.clock_gettime_ns, {time.CLOCK_BOOTTIME: 0.0}
    monkeypatch.setattr(time, "clock_gettime_ns", lambda clock: real(clock) + round(slept.get(clock, 0.0) * 1e9))

    def sleep(seconds: float) -> None:
        slept[time.CLOCK_BOOTTIME] += seconds

    return sleep


async def test_what_was_known_before_the_machine_slept_lets_nobody_in(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The monotonic clock stands still meanwhile, so by that an answer is as young as it was before."""
    sleep = machine_that_sleeps(monkeypatch)
    async with running(homeserver, pace_of(confirm_s=0.5), **GRANTS):
        assert await refusal(homeserver, 1) not in (None, UNCONFIRMED)
        homeserver.silent.add(TEAM)
        assert await refusal(homeserver, 2) not in (None, UNCONFIRMED), "it was asked a moment ago"
        sleep(3600.0)
        assert await refusal(homeserver, 3) == UNCONFIRMED
        homeserver.members[TEAM].remove(ALICE)
        homeserver.silent.clear()
        await until_refused_for_good(homeserver)


async def until_refused_for_good(homeserver: FakeHomeserver) -> None:
    """The question of before is still being repeated, with pauses."""
    for number in range(100, 200):
        if await refusal(homeserver, number) is None:
            return
    raise AssertionError("still let in, or asked to try again")


async def test_membership_that_cannot_be_confirmed_lets_in_by_a_young_copy_only(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = machine_that_sleeps(monkeypatch)
    async with running(homeserver, pace_of(confirmed_s=0.0, confirm_s=0.5), **GRANTS):
        homeserver.silent.add(TEAM)
        assert await refusal(homeserver, 1) not in (None, UNCONFIRMED)
        sleep(module.COMPARE_S)
        assert await refusal(homeserver, 2) == UNCONFIRMED
        homeserver.silent.clear()
        # The question of before is still being repeated, with pauses.
        reasons = [await refusal(homeserver, number) for number in range(3, 13)]
        assert reasons[-1] not in (None, UNCONFIRMED)


@pytest.mark.parametrize(
    "unreadable", [{"room_id": TEAM}, "nested too deeply", {"room_id": 5}, kick(type=None)], ids=repr
)
async def test_event_that_cannot_be_read_makes_the_homeserver_be_asked(
    homeserver: FakeHomeserver, unreadable: object
) -> None:
    async with running(homeserver, **GRANTS) as (bridge, _, _):
        homeserver.members[TEAM].remove(ALICE)
        homeserver.rules[LIST] = [state("m.policy.rule.user", "k", {"entity": CAROL, "recommendation": "m.ban"})]
        assert await homeserver.push(unreadable) == 200  # type: ignore[arg-type]
        await until(lambda: not is_member(bridge))
        if not isinstance(unreadable, dict) or unreadable["room_id"] != TEAM:
            await until(lambda: bridge.access.rights.denial(UserId(CAROL)) is not None)


async def test_events_that_name_no_room_ask_about_all_rooms_once_a_minute(homeserver: FakeHomeserver) -> None:
    async with running(homeserver, **GRANTS) as (bridge, _, _):
        asked = homeserver.asked.count(f"v3/rooms/{TEAM}/joined_members")
        assert await homeserver.push("junk") == 200  # type: ignore[arg-type]
        await until(lambda: homeserver.asked.count(f"v3/rooms/{TEAM}/joined_members") == asked + 1)
        asked, now = asked + 1, 1000.0
        revocation = Revocation(
            bridge.access.rooms, bridge.calls.peers.membership, bridge.calls.manager.live, monotonic=lambda: now
        )
        for _ in range(20):
            revocation.look("junk")
        await until(lambda: homeserver.asked.count(f"v3/rooms/{TEAM}/joined_members") == asked + 1)
        await until(lambda: TEAM not in bridge.access.rooms.doubtful())
        now += arrivals_module.ALL_EVERY_S
        revocation.compare()
        assert TEAM in bridge.access.rooms.doubtful()


async def test_rule_that_was_redacted_denies_no_more(homeserver: FakeHomeserver) -> None:
    ban = state("m.policy.rule.user", "k", {"entity": ALICE, "recommendation": "m.ban"}, LIST)
    homeserver.rules[LIST] = [ban]
    async with running(homeserver, **GRANTS) as (bridge, _, _):
        assert bridge.access.rights.denial(MEMBER) is not None
        homeserver.rules[LIST] = [{**ban, "content": {}}]
        redaction = {**ban, "type": "m.room.redaction", "event_id": "$r", "content": {"redacts": ban["event_id"]}}
        assert await homeserver.push({key: value for key, value in redaction.items() if key != "state_key"}) == 200
        await until(lambda: bridge.access.rights.denial(MEMBER) is None)


async def test_rule_that_never_comes_is_found_out(homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch) -> None:
    sleep = machine_that_sleeps(monkeypatch)
    async with running(homeserver, **GRANTS) as (bridge, _, _):
        asked = homeserver.asked.count(f"v3/rooms/{LIST}/state")
        homeserver.rules[LIST] = [state("m.policy.rule.user", "k", {"entity": ALICE, "recommendation": "m.ban"}, LIST)]
        bridge.revocation.compare()
        await asyncio.sleep(0)
        assert homeserver.asked.count(f"v3/rooms/{LIST}/state") == asked, "it is not time yet"
        sleep(module.LISTS_S)
        bridge.revocation.compare()
        await until(lambda: bridge.access.rights.denial(MEMBER) is not None)


async def test_bot_that_was_removed_knows_nobody_and_replaced_room_is_said_once(
    homeserver: FakeHomeserver, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(homeserver, **GRANTS) as (bridge, _, _):
        for _ in range(2):
            await homeserver.push(state("m.room.tombstone", "", {"replacement_room": "!new:example.org"}))
        assert caplog.text.count("was replaced by another room") == 1
        assert is_member(bridge), "a grant means the room that it names"
        bot = f"@rtcbot:{DOMAIN}"
        await homeserver.push(state("m.room.member", bot, {"membership": "ban", "x": deep(40)}))
        assert not is_member(bridge)


def test_samples_are_what_a_homeserver_can_send() -> None:
    assert all(json.loads(json.dumps(odd)) == odd for odd in ODD.values())
