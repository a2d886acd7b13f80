"""A whole bridge whose PostgreSQL lets nobody in for a while, or does not hold what others write."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.bridge.homeserver import ALICE, PEER, ROOM, FakeHomeserver
from tests.bridge.test_bridge import invite, running
from tests.storage.conftest import DATABASES
from tests.waiting import until

pytestmark = pytest.mark.skipif("postgres" not in DATABASES, reason="PostgreSQL is not installed")
LIST = "!list:example.org"


async def test_bridge_whose_database_refuses_the_login_goes_on_when_it_does_not_any_more(
    closable: tuple[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url, admin = closable
    async with FakeHomeserver(tmp_path) as homeserver:
        homeserver.members[ROOM] = [ALICE, PEER]
        async with running(homeserver, database=url) as (bridge, _, _):
            assert await homeserver.push(invite(1)) == 200
            await admin.execute("ALTER DATABASE closable ALLOW_CONNECTIONS false")
            await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'closable'")
            assert await homeserver.push(invite(2)) == 503, "the homeserver gives it again"
            assert bridge.inbox.ready
            await admin.execute("ALTER DATABASE closable ALLOW_CONNECTIONS true")
            assert await homeserver.push(invite(2)) == 200
            await until(
                lambda: len({content["call_id"] for _, content in homeserver.sent if "call_id" in content}) == 2
            )
    assert "Traceback" not in caplog.text


class ListServer(FakeHomeserver):
    """Has a policy list with rules that no database of some kind holds."""

    def _authorized(self, parts: list[str], user: str, body: Any) -> Any:
        if parts[:3] == ["rooms", LIST, "state"] and len(parts) == 3:
            content = {"recommendation": "m.ban", "reason": "spam"}
            return web.json_response(
                [
                    {"type": "m.policy.rule.user", "state_key": key, "content": {**content, "entity": entity}}
                    for key, entity in (("1", "@b\0ad:x.test"), ("\0", "@bad:x.test"), ("3", "@worse:x.test"))
                ]
            )
        if parts[0] == "join":
            return web.json_response({"room_id": LIST})
        return super()._authorized(parts, user, body)


@pytest.mark.parametrize("postgres", [True, False])
async def test_rule_of_a_policy_list_that_the_database_cannot_hold_keeps_no_bridge_from_starting(
    postgres: bool, closable: tuple[str, Any], tmp_path: Path
) -> None:
    database = {"database": closable[0]} if postgres else {}
    for _ in range(2):
        async with ListServer(tmp_path) as homeserver, running(homeserver, policy_lists=[LIST], **database) as made:
            bridge = made[0]
            assert bridge.inbox.ready
            for user in ("@bad:x.test", "@worse:x.test"):
                denied = functools.partial(bridge.access.rooms.denial, user)
                await until(lambda denied=denied: denied() is not None)  # type: ignore[misc]
