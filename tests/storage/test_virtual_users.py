"""Which users are ours outlives a restart, and is known of a database that an earlier version has written."""

from __future__ import annotations

import pytest
from mautrix.util.async_db import Connection

from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.schema import UPGRADES
from mxrtc_bridge.storage.virtual_users import VirtualUserStore

BUILD, LAB = UserId("@rtc_build:example.org"), UserId("@rtc_lab:example.org")
BEFORE = [upgrade.__name__ for upgrade in UPGRADES.upgrades].index("_create_own_user")
"""The version of the schema that has no such table."""


async def test_users_are_remembered_with_how_they_became_ours(database: Database) -> None:
    store = VirtualUserStore(database)
    await store.remember(BUILD, "registering", 1)
    await store.remember(BUILD, "registered", 2)
    await store.remember(LAB, "adopted", 3)
    assert await store.all() == {BUILD: "registered", LAB: "adopted"}
    await store.forget(LAB)
    await store.forget(LAB)
    assert await store.all() == {BUILD: "registered"}


ACCOUNT = "INSERT INTO crypto_account (owner, device_id, pickle, uploaded, fallback_ms) VALUES ('@a:x', 'D', '', 1, 0)"
CERTIFICATE = "INSERT INTO certificate (user_id, pem) VALUES ('@b:x', '')"
ROOM = "INSERT INTO peer_room (peer, room_id, user_id, last_active_ms) VALUES ('@c:x', '!r', '@u:x', 0)"
AUDIT = "INSERT INTO audit (number, digest, at_ms, line) VALUES (1, '', 0, '')"


@pytest.mark.parametrize(
    ("rows", "ours"),
    [
        ([], set()),
        ([ACCOUNT, CERTIFICATE, ROOM, AUDIT], {"@a:x", "@b:x", "@c:x"}),
        # Without encryption nothing was noted of users that nobody has called: the next start looks.
        ([CERTIFICATE, AUDIT], {"@b:x", "*"}),
        ([AUDIT], {"*"}),
    ],
)
async def test_a_database_of_an_earlier_version_knows_its_users(
    url: str, rows: list[str], ours: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def write(connection: Connection) -> None:
        for row in rows:
            await connection.execute(row)

    with monkeypatch.context() as patch:
        patch.setattr(UPGRADES, "upgrades", UPGRADES.upgrades[:BEFORE])
        async with await Database.open(url) as old:
            await old.transaction(write)
    async with await Database.open(url) as database:
        assert set(await VirtualUserStore(database).all()) == ours
