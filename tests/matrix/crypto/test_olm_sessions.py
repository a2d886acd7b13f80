"""What strangers leave behind who begin sessions: nothing on the disk before they have said something of use."""

from __future__ import annotations

import json
from typing import Any

import pytest
import vodozemac

from mxrtc_bridge.core.crypto.records import Changes
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.matrix.crypto.account import HOUR_MS, KEYS_PER_HOUR, KEYS_WANTED, OwnAccount
from mxrtc_bridge.matrix.crypto.olm_sessions import MAX_CACHED, MAX_SESSIONS_OF_KEY, ClaimedKey, OlmSessions
from mxrtc_bridge.matrix.crypto.opened_messages import OpenedMessages
from mxrtc_bridge.matrix.crypto.signed_json import from_unpadded, unpadded
from mxrtc_bridge.matrix.crypto.values import OLM, DeviceIdentity
from tests.matrix.crypto.memory import MemoryStore

KEY = b"k" * 32
PEER, MALLORY = UserId("@rtc_build:x.test"), UserId("@mallory:evil.test")


class Ours:
    """Our end, with a store."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.account = OwnAccount.new(PEER, DeviceId("PEER"), KEY)
        self.sessions = self._open()

    def _open(self) -> OlmSessions:
        return OlmSessions(self.account, self.store, None, KEY, opened=OpenedMessages(KEY), wall_ms=lambda: 1)  # type: ignore[arg-type]

    async def save(self) -> list[str]:
        """Save; returns whose sessions were saved."""
        changes: Changes = self.sessions.changes()
        await self.store.save(changes)
        self.sessions.saved()
        return [str(each.user) for each in changes.olm]

    def restart(self) -> None:
        self.sessions = self._open()


class Stranger:
    """A device of somebody, with a session of its own making."""

    def __init__(self, ours: Ours) -> None:
        self.ours = ours
        self.account = vodozemac.Account()
        ours.account.olm.generate_one_time_keys(1)
        (one_time,) = ours.account.olm.one_time_keys.values()
        ours.account.published()
        self.session = self.account.create_outbound_session(
            vodozemac.Curve25519PublicKey.from_base64(ours.account.curve25519), one_time
        )

    def says(self, payload: dict[str, Any]) -> dict[str, Any]:
        kind, body = self.session.encrypt(json.dumps(payload).encode()).to_parts()
        return {
            "algorithm": OLM,
            "sender_key": self.account.curve25519_key.to_base64(),
            "ciphertext": {self.ours.account.curve25519: {"type": kind, "body": unpadded(body)}},
        }

    def event(self, event_type: str) -> dict[str, Any]:
        return self.says(
            {
                "type": event_type,
                "content": {},
                "sender": MALLORY,
                "recipient": PEER,
                "recipient_keys": {"ed25519": self.ours.account.ed25519},
                "keys": {"ed25519": self.account.ed25519_key.to_base64()},
            }
        )


async def test_a_session_that_has_said_nothing_is_not_saved() -> None:
    ours = Ours()
    for _ in range(20):
        with pytest.raises(EventError):
            await ours.sessions.decrypt(MALLORY, Stranger(ours).says({}))
    assert await ours.save() == []


async def test_a_session_is_saved_once_a_message_was_of_use_and_then_with_each() -> None:
    ours = Ours()
    stranger = Stranger(ours)
    first = await ours.sessions.decrypt(MALLORY, stranger.event("org.example.unknown"))
    assert first.type == "org.example.unknown"
    assert await ours.save() == []
    second = await ours.sessions.decrypt(MALLORY, stranger.event("m.room_key"))
    ours.sessions.keep(second)
    assert await ours.save() == [MALLORY]
    await ours.sessions.decrypt(MALLORY, stranger.event("org.example.unknown"))
    assert await ours.save() == [MALLORY], "its state has moved on"
    ours.restart()
    assert (await ours.sessions.decrypt(MALLORY, stranger.event("m.room_key"))).type == "m.room_key"
    assert await ours.save() == [MALLORY]


async def test_sessions_that_are_not_saved_are_bounded_in_memory() -> None:
    ours = Ours()
    for _ in range(MAX_CACHED + 20):
        await ours.sessions.decrypt(MALLORY, Stranger(ours).event("org.example.unknown"))
    await ours.save()
    assert len(ours.sessions._live) == MAX_CACHED


def test_who_uses_up_one_time_keys_orders_no_more_than_so_many_in_an_hour() -> None:
    account, now = Ours().account, 10 * HOUR_MS

    def refill() -> int:
        account.make_keys(0, fallback_used=False, now_ms=now)
        made = len(account.olm.one_time_keys)
        account.published()
        return made

    assert [refill() for _ in range(6)] == [KEYS_WANTED] * (KEYS_PER_HOUR // KEYS_WANTED) + [0, 0]
    now += HOUR_MS
    assert refill() == KEYS_WANTED
    now -= 5 * HOUR_MS
    assert refill() == KEYS_WANTED, "a clock that was set back stops nothing"


def test_fallback_key_that_the_homeserver_gives_is_kept_while_its_successor_cannot_be_uploaded() -> None:
    account, made = Ours().account, list[str]()
    for hours in range(1, 6):
        account.make_keys(KEYS_WANTED, fallback_used=True, now_ms=hours * HOUR_MS)
        ((_, key),) = account.keys_to_upload()["fallback_keys"].items()
        made.append(key["key"])
        if hours == 1:
            account.published()
    assert len(set(made)) == 2
    assert [account.use_up(key) for key in (made[0], made[-1])] == [True, True]


def one_time_key_of(account: vodozemac.Account) -> str:
    account.generate_one_time_keys(1)
    (key,) = account.one_time_keys.values()
    account.mark_keys_as_published()
    return str(key.to_base64())


@pytest.mark.parametrize("first", [True, False])
async def test_whoever_lists_the_key_of_somebody_else_changes_nothing_for_its_owner(first: bool) -> None:
    ours, alice, mallory = Ours(), vodozemac.Account(), vodozemac.Account()
    key = alice.curve25519_key.to_base64()
    hers = DeviceIdentity(UserId("@alice:x.test"), DeviceId("A"), alice.ed25519_key.to_base64(), key)
    false = DeviceIdentity(MALLORY, DeviceId("M"), mallory.ed25519_key.to_base64(), key)

    async def claim_for_mallory(times: int) -> None:
        for _ in range(times):
            await ours.sessions.begin([ClaimedKey(false, one_time_key_of(mallory))], anew=True)
            await ours.sessions.encrypt(false, "m.dummy", {})
            await ours.save()

    if first:
        await claim_for_mallory(1)
    assert await ours.sessions.lacking([hers, false]) == ([hers] if first else [hers, false])
    await ours.sessions.begin([ClaimedKey(hers, one_time_key_of(alice))])

    async def message() -> Any:
        sealed = await ours.sessions.encrypt(hers, "org.example.said", {})
        assert sealed is not None
        sent = sealed["ciphertext"][key]
        return vodozemac.AnyOlmMessage.from_parts(sent["type"], from_unpadded(sent["body"]))

    session, _ = alice.create_inbound_session(
        vodozemac.Curve25519PublicKey.from_base64(ours.account.curve25519), (await message()).to_pre_key()
    )
    await claim_for_mallory(2 * MAX_SESSIONS_OF_KEY)
    assert b"org.example.said" in session.decrypt(await message())
