"""Floods of every kind of event, by one sender and by as many users, servers and ports as can be made up.

Whoever has a right is answered meanwhile, the log says what there was in few lines, and nothing is left in memory.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from mxrtc_bridge.engine.rate_limited_log import SUBJECTS
from tests.bridge.homeserver import ALICE, DOMAIN, PEER, ROOM, FakeHomeserver
from tests.bridge.test_bridge import invite, running
from tests.long import size
from tests.waiting import until

OF_EACH = size(40, 20)
"""Of each crowd: together more than the log may have lines for."""
CROWDS: tuple[Callable[[int], str], ...] = (
    lambda _: "@m:evil.test",
    lambda number: f"@m{number}:evil.test",
    lambda number: f"@m{number}:{DOMAIN}",
    lambda number: f"@m:evil{number}.test",
    lambda number: f"@m:e{number}.evil.test",
    lambda number: f"@m:evil.test:{number + 1}",
)
SENDER = object()
"""Stands for the state key that is whose event it is."""


def _relation(kind: str, **more: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": kind, "event_id": "$other", **more}}


def _call(number: int, **more: Any) -> dict[str, Any]:
    return {"call_id": f"flood{number}", "party_id": "p", "version": "1", **more}


KINDS: dict[str, Callable[[int], dict[str, Any]]] = {
    "invitations": lambda n: {
        "type": "m.room.member",
        "room_id": f"!made-up-{n}:evil.test",
        "state_key": PEER,
        "content": {"membership": "invite"},
    },
    "knocks": lambda _: {"type": "m.room.member", "state_key": SENDER, "content": {"membership": "knock"}},
    "joins": lambda _: {"type": "m.room.member", "state_key": SENDER, "content": {"membership": "join"}},
    "departures": lambda _: {"type": "m.room.member", "state_key": SENDER, "content": {"membership": "leave"}},
    "members that cannot be read": lambda n: {
        "type": "m.room.member", "state_key": SENDER, "content": {"membership": n},
    },
    "reactions": lambda _: {"type": "m.reaction", "content": _relation("m.annotation", key="\N{THUMBS UP SIGN}")},
    "redactions": lambda n: {"type": "m.room.redaction", "redacts": f"$it{n}", "content": {"redacts": f"$it{n}"}},
    "edits": lambda _: {
        "type": "m.room.message",
        "content": {"msgtype": "m.text", "body": "* help", "m.new_content": {"body": "help"}, **_relation("m.replace")},
    },
    "commands": lambda _: {"type": "m.room.message", "content": {"msgtype": "m.text", "body": "help"}},
    "messages without a key": lambda n: {
        "type": "m.room.encrypted",
        "content": {
            "algorithm": "m.megolm.v1.aes-sha2",
            "session_id": f"{n:043d}",
            "sender_key": f"{n:043d}",
            "ciphertext": "AwgA",
            "device_id": "D",
        },
    },
    "calls": lambda n: {"type": "m.call.invite", "content": {**invite(n)["content"], "call_id": f"flood{n}"}},
    "calls of long ago": lambda n: {
        "type": "m.call.invite", "content": invite(n)["content"], "origin_server_ts": 1,
    },
    "calls that cannot be read": lambda n: {"type": "m.call.invite", "content": {"odd": n}},
    "hangups of no call": lambda n: {"type": "m.call.hangup", "content": _call(n)},
    "candidates of no call": lambda n: {"type": "m.call.candidates", "content": _call(n, candidates=[])},
    "ids that are too long": lambda n: {
        "type": "m.room.message", "event_id": f"${'x' * 300}{n}", "content": {"body": "x"},
    },
    "rooms that are none": lambda n: {"type": "m.call.invite", "room_id": n, "content": {}},
}  # fmt: skip


@pytest_asyncio.fixture
async def homeserver(tmp_path: Path) -> AsyncIterator[FakeHomeserver]:
    async with FakeHomeserver(tmp_path) as server:
        server.members[ROOM] = [ALICE, PEER]
        yield server


def flood(kind: str) -> list[dict[str, Any]]:
    """Events of one kind by all crowds, mixed."""
    found: list[dict[str, Any]] = []
    for crowd in CROWDS:
        for number in range(OF_EACH):
            sender = crowd(number)
            event = {
                "event_id": f"$flood{len(found)}",
                "room_id": ROOM,
                "sender": sender,
                "origin_server_ts": time.time_ns() // 1_000_000,
                **KINDS[kind](len(found)),
            }
            found.append({key: sender if value is SENDER else value for key, value in event.items()})
    random.Random(7).shuffle(found)
    return found


@pytest.mark.parametrize("kind", KINDS)
async def test_flood_leaves_a_call_its_answer_the_log_readable_and_nothing_in_memory(
    homeserver: FakeHomeserver, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    async with running(homeserver) as (bridge, _stores, _reload):
        caplog.set_level(logging.INFO, "mxrtc_bridge")
        caplog.clear()
        events = flood(kind)
        half = len(events) // 2
        assert await homeserver.push(*events[:half]) == 200
        assert await homeserver.push(*events[half:], invite(1)) == 200
        await until(lambda: any(content.get("call_id") == "c1" for _, content in homeserver.sent))
        await bridge.inbox.idle()
        assert bridge.inbox.status().waiting == bridge.inbox.status().held_chars == 0
        lines = Counter(record.msg for record in caplog.records if record.levelno >= logging.INFO)
        assert all(count <= SUBJECTS for count in lines.values()), lines
        assert sum(lines.values()) <= 2 * SUBJECTS, lines
        # Nor is anything held against whoever has a right.
        assert await asyncio.wait_for(homeserver.push(invite(2)), 5) == 200
        await until(lambda: any(content.get("call_id") == "c2" for _, content in homeserver.sent))
