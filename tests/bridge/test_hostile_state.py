"""A whole bridge whose homeserver passes on anything: in the state of rooms, and before, in and behind redactions."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mxrtc_bridge.bridge.bridge import Bridge
from mxrtc_bridge.bridge.build import Pace
from mxrtc_bridge.core.access.ban_lists import RULE_TYPES
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.rooms.refresh import Gap
from tests.bridge.homeserver import ALICE, DOMAIN, PEER, ROOM, FakeHomeserver
from tests.bridge.test_bridge import running
from tests.bridge.test_revocation import CAROL, LIST, TEAM, state, user
from tests.hostile_json import FOREIGN, TEXT
from tests.long import LONG, examples
from tests.waiting import until

EXAMPLES = 200 if LONG else examples(6)
BOT, CHAT, EVE = f"@rtcbot:{DOMAIN}", RoomId(f"!chat:{DOMAIN}"), f"@eve:{DOMAIN}"
CONFIG: dict[str, Any] = {
    "grants": [{"id": "team", "from": [f"room:{TEAM}"], "to": ["build/echo"]}],
    "policy_lists": [LIST],
    "admins": [ALICE],
    "peers": {"build": {"services": {"echo": {"target": "tcp:127.0.0.1:1", "grantable_to": ["*"]}}}},
}
Story = Callable[[Bridge, FakeHomeserver, int, Any], Any]


def each_example(folder: Path, story: Story, strategy: st.SearchStrategy[Any]) -> None:
    """Run a story with each example at one bridge, each with a number of its own."""
    pace = Pace(gap=Gap(0.0, 0.0), commands_per_minute=10**6)
    numbers = itertools.count()
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        server = runner.run(stack.enter_async_context(FakeHomeserver(folder)))
        everybody = [user(number) for number in range(EXAMPLES * 10)]
        server.members = {ROOM: [ALICE, PEER], TEAM: [ALICE, BOT, *everybody], LIST: [BOT], CHAT: [ALICE, BOT]}
        server.rules[LIST] = []
        try:
            bridge, _, _ = runner.run(stack.enter_async_context(running(server, pace, **CONFIG)))

            @settings(max_examples=EXAMPLES, deadline=None, database=None, phases=[Phase.generate])
            @given(strategy)
            def each(drawn: Any) -> None:
                runner.run(story(bridge, server, next(numbers), drawn))

            each()
        finally:
            runner.run(stack.aclose())


JUNK = st.lists(
    FOREIGN
    | st.fixed_dictionaries(
        {
            "type": st.sampled_from([*RULE_TYPES, "m.room.server_acl", "m.room.encryption", "m.room.member"]) | FOREIGN,
            "state_key": TEXT | FOREIGN,
            "content": st.dictionaries(
                st.sampled_from(["entity", "recommendation", "membership", "algorithm", "allow", "deny", "hashes"]),
                FOREIGN,
                max_size=3,
            )
            | FOREIGN,
            "unsigned": FOREIGN,
        }
    ),
    max_size=4,
)
BESIDE = st.dictionaries(TEXT.filter(lambda key: key not in ("redacts", "entity", "recommendation")), FOREIGN)


def redaction(number: int, of: str, room: str, sender: str, form: str, odd: object, beside: dict[str, Any]) -> Any:
    """A redaction as homeservers write it: before room version 11, from then on, with both, with one that is no id."""
    at_top: dict[str, Any] = {"both": {"redacts": of}, "before 11": {"redacts": of}, "no id": {"redacts": odd}}
    inside = beside if form == "before 11" else {**beside, "redacts": of}
    common = {"event_id": f"$redaction{number}", "room_id": room, "type": "m.room.redaction", "sender": sender}
    more = at_top.get(form, {})
    return {"unsigned": beside, **common, "origin_server_ts": time.time_ns() // 1_000_000, "content": inside, **more}


FORMS = st.sampled_from(["before 11", "from 11", "both", "no id"])


def test_rule_of_a_list_and_its_redaction_count_whatever_else_is_in_the_list(tmp_path: Path) -> None:
    """The events of the rules never come; that something was redacted makes the list be read."""

    async def story(bridge: Bridge, server: FakeHomeserver, number: int, drawn: Any) -> None:
        before, behind, inside, beside, kind, form, odd = drawn
        denied = UserId(user(number)) if kind.endswith("user") else UserId(f"@x:server{number}.test")
        entity = denied if kind.endswith("user") else f"server{number}.test"
        rule = state(kind, f"k{number}", {**inside, "entity": entity, "recommendation": "m.ban"}, LIST, **beside)
        rule |= {"type": kind, "state_key": f"k{number}"}
        assert bridge.access.rights.denial(denied) is None
        server.rules[LIST] = [*before, rule, *behind]
        news = redaction(2 * number, f"$any{number}", LIST, CAROL, form, odd, inside)
        assert await server.push(*before, news, *behind) == 200
        await until(lambda: bridge.access.rights.denial(denied) is not None)
        server.rules[LIST] = [*before, {**rule, "content": inside}, *behind]
        assert await server.push(*behind, {**news, "event_id": f"$second{number}"}, *before) == 200
        await until(lambda: bridge.access.rights.denial(denied) is None)

    beside = BESIDE.map(lambda found: {key: found[key] for key in found if key not in ("type", "state_key", "content")})
    drawn = st.tuples(JUNK, JUNK, BESIDE, beside, st.sampled_from(sorted(RULE_TYPES)), FORMS, FOREIGN)
    each_example(tmp_path, story, drawn)


def test_redaction_of_a_membership_or_of_encryption_takes_nothing_back(tmp_path: Path) -> None:
    """Neither is the membership of somebody who was removed given back, nor that of somebody who is in taken."""

    async def story(bridge: Bridge, server: FakeHomeserver, number: int, drawn: Any) -> None:
        before, behind, beside, form, odd, profile = drawn
        removed, stays = UserId(user(number)), UserId(user(EXAMPLES * 10 - 1))
        server.profile = profile
        server.members[TEAM].remove(removed)
        kick = state("m.room.member", removed, {"membership": "leave"}, TEAM, event_id=f"$kick{number}")
        news = redaction(number, f"$kick{number}", TEAM, CAROL, form, odd, beside)
        join = redaction(number, f"$join{number}", TEAM, CAROL, form, odd, beside) | {"event_id": f"$other{number}"}
        encrypted = state("m.room.encryption", "", {}, ROOM, event_id=f"$encryption{number}")
        plain = redaction(number, f"$encryption{number}", ROOM, CAROL, form, odd, beside) | {"event_id": f"$p{number}"}
        assert bridge.access.rooms.rooms_of(removed)
        assert await server.push(*before, kick, news, join, encrypted, plain, *behind) == 200
        assert not bridge.access.rooms.rooms_of(removed)
        await bridge.inbox.idle()
        asked = server.asked.count(f"v3/rooms/{TEAM}/joined_members")
        # What cannot be read has the homeserver asked; its answer agrees.
        assert await server.push({"room_id": TEAM}) == 200  # type: ignore[arg-type]
        await until(lambda: server.asked.count(f"v3/rooms/{TEAM}/joined_members") > asked)
        await until(lambda: TEAM not in bridge.access.rooms.doubtful())
        assert not bridge.access.rooms.rooms_of(removed)
        assert bridge.access.rooms.rooms_of(stays)
        assert bridge.access.index.is_encrypted(RoomId(ROOM))

    each_example(tmp_path, story, st.tuples(JUNK, JUNK, BESIDE, FORMS, FOREIGN, FOREIGN))


def test_redacted_command_gives_nothing_and_takes_unless_its_sender_has_redacted_it(tmp_path: Path) -> None:
    def said(name: str, text: str) -> dict[str, Any]:
        at = time.time_ns() // 1_000_000
        common = {"event_id": f"${name}", "room_id": CHAT, "type": "m.room.message", "sender": ALICE}
        return {**common, "origin_server_ts": at, "content": {"msgtype": "m.text", "body": text}}

    async def story(bridge: Bridge, server: FakeHomeserver, number: int, drawn: Any) -> None:
        before, behind, beside, form, odd, first = drawn
        table = bridge.access.given.table

        async def push(name: str, text: str, redactor: str | None) -> None:
            events = [said(name, text)]
            if redactor is not None:
                news = redaction(0, f"${name}", CHAT, redactor, form, odd, beside) | {"event_id": f"$r{name}"}
                events = [news, *events] if first else [*events, news]
            assert await server.push(*before, *events, *behind) == 200
            # What is said in a room is carried out in order: once this is answered, that has been.
            count = answers()
            assert await server.push(said(f"then{name}", "who")) == 200
            await until(lambda: answers() > count)

        def answers() -> int:
            return sum("no live session" in str(content.get("body")) for _, content in server.sent)

        give = f"grant {EVE} build/echo for 1h"
        for redactor in (ALICE, CAROL):
            await push(f"give{number}{redactor[1]}", give, redactor)
            assert list(table) == []
        await push(f"give{number}", give, None)
        assert len(table) == 1, server.sent[-3:]
        (grant,) = table
        await push(f"kept{number}", f"revoke {grant.number}", ALICE)
        assert list(table) == [grant]
        await push(f"revoke{number}", f"revoke {grant.number}", CAROL)
        assert list(table) == []

    junk = st.lists(FOREIGN, max_size=3)
    each_example(tmp_path, story, st.tuples(junk, junk, BESIDE, FORMS, FOREIGN, st.booleans()))
