"""What the rooms that rules name say before they were read: nobody is in, and everybody is denied."""

from __future__ import annotations

from typing import Any, cast

import pytest

from mxrtc_bridge.bridge.access.configured_rooms import NOT_READ, ConfiguredRooms
from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.access.grants import GrantTable
from mxrtc_bridge.core.access.policy import Allow, Deny
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import RoomId
from tests.bridge.access.test_rights import ALICE, BOT, NOW, PEER, SERVICES, Given, config, stored
from tests.fakes import FakeClock


class RuleTable:
    """The rules of the last run; there are none, or the database is broken."""

    def __init__(self) -> None:
        self.broken = False

    async def load(self, rooms: frozenset[RoomId]) -> dict[RoomId, Any]:
        if self.broken:
            raise StorageError("the database is locked")
        return {}


async def test_nobody_has_a_right_before_the_policy_lists_were_read() -> None:
    table, rules = GrantTable(), RuleTable()
    table.add(stored(1, str(ALICE), "web"))
    current = CurrentConfig(config([(str(ALICE), "ssh")], {"web": [str(ALICE)], "db": [str(ALICE)]}))
    rooms = ConfiguredRooms(cast(Any, None), cast(Any, rules), current, table)
    rights = Rights(current, rooms, Given(table), FakeClock(wall_ms=NOW))

    def rights_of_alice() -> list[bool]:
        return [
            isinstance(rights.may_call(ALICE, PEER), Allow),
            isinstance(rights.may_call(ALICE, BOT), Allow),
            rights.has_any(ALICE),
            bool(rights.given_to(ALICE)),
            rights.may_ask(ALICE, PEER, SERVICES[2]),
            rights.could_ask_for_anything(ALICE),
            *(rights.grant(ALICE, PEER, service) is not None for service in SERVICES[:2]),
        ]

    assert rights.may_call(ALICE, PEER) == Deny(NOT_READ)
    assert not any(rights_of_alice())
    rules.broken = True
    with pytest.raises(StorageError):
        await rooms.recall(lambda: None)
    assert not any(rights_of_alice())
    rules.broken = False
    await rooms.recall(lambda: None)
    assert all(rights_of_alice())
