"""Peers that would have the account of a person: left out at a start, while all others serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from mxrtc_bridge.bridge.bridge import Bridge
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.virtual_users import UsersRefusedError
from mxrtc_bridge.storage.tables import open_stores
from tests.bridge.homeserver import DOMAIN, PEER, FakeHomeserver
from tests.bridge.test_bridge import running
from tests.waiting import until

BILL = UserId(f"@rtc_bill:{DOMAIN}")
SERVICE = {"services": {"echo": {"target": "tcp:127.0.0.1:1"}}}
PEERS = {"build": SERVICE, "bill": SERVICE}


class PeopleHomeserver(FakeHomeserver):
    """One at which people have made accounts."""

    people: frozenset[str] = frozenset({BILL})
    acted_as: list[str]

    def _authorized(self, parts: list[str], user: str, body: dict[str, Any]) -> web.Response:
        self.acted_as = [*getattr(self, "acted_as", []), user]
        if parts == ["register"] and f"@{body['username']}:{DOMAIN}" in self.people:
            return web.json_response({"errcode": "M_USER_IN_USE", "error": "taken"}, status=400)
        return super()._authorized(parts, user, body)


@pytest_asyncio.fixture
async def homeserver(tmp_path: Path) -> AsyncIterator[PeopleHomeserver]:
    async with PeopleHomeserver(tmp_path) as server:
        yield server


async def test_the_others_serve_nobody_acts_as_the_person_and_a_reload_takes_the_peer_that_is_free(
    homeserver: PeopleHomeserver, caplog: pytest.LogCaptureFixture
) -> None:
    async with running(homeserver, peers=PEERS) as (bridge, _stores, reload):
        (line,) = [each for each in caplog.records if "not everybody is served" in each.message]
        assert (line.levelname, f"{BILL} exists" in line.message, "--adopt" in line.message) == ("WARNING", True, True)
        assert [bridge.calls.peers.is_peer(UserId(user)) for user in (PEER, BILL)] == [True, False]
        assert bridge.devices.why_down(BILL) == "exists, and was not made by this bridge"
        assert bridge.devices.why_down(UserId(PEER)) is None
        assert BILL not in homeserver.acted_as
        reload.set()
        await until(lambda: f"accounts of peers of the new configuration: {BILL} exists" in caplog.text)
        homeserver.people = frozenset()
        reload.set()
        await until(lambda: bridge.calls.peers.is_peer(BILL))
        assert bridge.devices.why_down(BILL) is None


@pytest.mark.parametrize("people", [{PEER, BILL}, {f"@rtcbot:{DOMAIN}"}])
async def test_a_bridge_that_could_serve_nobody_does_not_start(homeserver: PeopleHomeserver, people: set[str]) -> None:
    homeserver.people = frozenset(people)
    config = homeserver.config(peers=PEERS)
    async with open_stores(config.database) as stores:
        with pytest.raises(UsersRefusedError):
            await asyncio.wait_for(Bridge(config, stores).run(asyncio.Event(), asyncio.Event()), 10)
