"""``explain`` decides as the running bridge does: with given grants, members of rooms, and policy lists."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast

import pytest

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.admin.explanations import Explanations
from mxrtc_bridge.bridge.admin.socket import AdminSocket
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.access.grants import GrantTable
from mxrtc_bridge.core.bot.arguments import Names
from mxrtc_bridge.core.errors import AdminError
from mxrtc_bridge.core.ids import LocalAdmin, RoomId, UserId
from tests.bridge.access.test_rights import (
    ALICE,
    BOB,
    GUEST,
    NOW,
    PEER,
    TEAM,
    ZOE,
    Given,
    Rooms,
    config,
    rights,
    stored,
)
from tests.fakes import FakeClock


class Confirmed(Rooms):
    """A homeserver that answers."""

    async def confirm(self, rooms: Collection[RoomId]) -> bool:
        return True


EVERYBODY = ["server:example.org", "server:partner.test"]


async def explained(decides: Rights, *words: str) -> dict[str, Any]:
    made = CurrentConfig(CONFIG)
    none = cast(Any, None)
    socket = AdminSocket(none, none, lambda: Names("example.org"), [Explanations(decides, made, lambda: NOW)])
    answer = await socket.handle(LocalAdmin("root"), ("explain", *words))
    (row,) = cast(list[dict[str, Any]], answer["rows"])
    return row


CONFIG = config(
    grants=[(str(ALICE), "ssh"), (f"room:{TEAM}", "web"), ("guest-accounts:example.org", "db")],
    grantable={"ssh": EVERYBODY},
    deny=["@mallory:example.org"],
)


@pytest.mark.parametrize(
    ("user", "target", "allowed", "rule"),
    [
        (ALICE, "build/ssh", True, "g0"),
        (ALICE, "build", True, "g0"),
        (ALICE, "@rtc_build:example.org/ssh", True, "g0"),
        (BOB, "build/ssh", True, "given 7"),
        (BOB, "build", True, "given 7"),
        (BOB, "build/web", False, "no grant"),
        (ZOE, "build/web", True, "g1"),
        (ZOE, "build/ssh", False, "no grant"),
        (GUEST, "build/db", True, "g2"),
        ("@mallory:example.org", "build/ssh", False, "deny: @mallory:example.org"),
        ("@listed:example.org", "build/ssh", False, "policy list: @listed:example.org"),
    ],
)
async def test_the_rule_in_force_is_named(user: str, target: str, allowed: bool, rule: str) -> None:
    table = GrantTable()
    for grant in (stored(7, str(BOB)), stored(8, "@listed:example.org")):
        table.add(grant)
    rooms = Confirmed({ZOE: frozenset({TEAM})}, lambda user: f"policy list: {user}" if "listed" in user else None)
    decides = Rights(CurrentConfig(CONFIG), rooms, Given(table), FakeClock(wall_ms=NOW))
    assert await explained(decides, user, target) == {
        "allowed": allowed,
        "rule": rule,
        "notes": [],
        "alone": CONFIG.decide(cast(UserId, user), PEER, target.partition("/")[2] or None, NOW).rule,
    }


async def test_what_cannot_be_known_now_is_said() -> None:
    row = await explained(rights(CONFIG, rooms={ZOE: frozenset({TEAM})}), ZOE, "build/web")
    assert row["notes"] == ["Who is in a room that would decide cannot be found out now, so nobody is let in by it."]


@pytest.mark.parametrize(
    ("target", "note"),
    [
        ("build/telnet", "Peer build has no service 'telnet'; known: db, ssh, web."),
        ("biuld/ssh", "There is no peer 'biuld'; known: build."),
        ("biuld", "There is no peer 'biuld'; known: build."),
        ("@rtc_build:partner.test/ssh", "There is no peer '@rtc_build:partner.test'; known: build."),
    ],
)
async def test_a_name_that_nobody_has_is_named(target: str, note: str) -> None:
    row = await explained(rights(CONFIG), ALICE, target)
    assert (row["allowed"], row["notes"]) == (False, [note])


@pytest.mark.parametrize("words", [(), ("@alice:example.org",), ("alice", "build/ssh"), ("@a:b.test", "///")])
async def test_a_question_that_is_none_is_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(AdminError):
        await explained(rights(CONFIG), *words)
