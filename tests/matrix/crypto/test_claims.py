"""A one-time key that a server does not give for a while makes only those wait who write to its users."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import vodozemac

from mxrtc_bridge.core.call.to_device import SIGNAL_TYPE
from mxrtc_bridge.core.crypto.records import RoomEncryption, Trust
from mxrtc_bridge.core.ids import DeviceId, RoomId, UserId, server_of
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.key_requests import REQUEST
from mxrtc_bridge.matrix.crypto.signed_json import from_unpadded
from mxrtc_bridge.matrix.crypto.values import MEGOLM, DeviceIdentity, ToDeviceEvent
from tests.matrix.crypto.device_world import ALICE, PEER, Beside, Sender, Server, answer_of, peer_at
from tests.matrix.crypto.key_homeserver import PICKLE_KEY

MALLORY = UserId("@mallory:evil.test")
ROOM, OTHER_ROOM = RoomEncryption(RoomId("!room:example.org")), RoomEncryption(RoomId("!other:example.org"))


class ClaimServer(Server):
    """Gives real one-time keys, later where a server hangs, and keeps what is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.friends: dict[UserId, Friend] = {}
        self.released = asyncio.Event()
        self.claimed: list[UserId] = []
        self.sent: list[tuple[str, Mapping[UserId, Mapping[str, Any]]]] = []

    async def claim_keys(self, _device: object, wanted: Mapping[UserId, Sequence[DeviceId]]) -> Mapping[str, Any]:
        self.claims += 1
        self.claimed += wanted
        answer = {user: {DeviceId("PHONE"): self.friends[user].one_time()} for user in wanted}
        if any(server_of(user) in self.hanging for user in wanted):
            await self.released.wait()
        return answer

    async def send_to_device(
        self, _device: object, event_type: str, messages: Mapping[UserId, Mapping[str, Any]], _txn_id: str
    ) -> None:
        self.sent.append((event_type, messages))


class Friend:
    """A device that ours writes to, with keys of its own."""

    def __init__(self, user: UserId, server: ClaimServer) -> None:
        self.user = user
        self.account = OwnAccount.new(user, DeviceId("PHONE"), PICKLE_KEY)
        self.account.make_keys(0, fallback_used=False, now_ms=10**12)
        self.keys: dict[str, Any] = self.account.keys_to_upload()["one_time_keys"]
        self.sessions: list[vodozemac.Session] = []
        server.friends[user] = self
        server.listed.setdefault(user, {})[self.account.device] = self.account.device_keys()

    @property
    def identity(self) -> DeviceIdentity:
        return DeviceIdentity(self.user, self.account.device, self.account.ed25519, self.account.curve25519)

    def one_time(self) -> dict[str, Any]:
        name = next(iter(self.keys))
        return {name: self.keys.pop(name)}

    def reads(self, server: ClaimServer, ours: CryptoDevice) -> list[dict[str, Any]]:
        """The contents of all that was sent to it, in order."""
        found = []
        for event_type, messages in server.sent:
            if event_type == "m.room.encrypted" and self.user in messages:
                part = messages[self.user]["PHONE"]["ciphertext"][self.account.curve25519]
                found.append(json.loads(self._plaintext(ours, part))["content"])
        return found

    def _plaintext(self, ours: CryptoDevice, part: Mapping[str, Any]) -> bytes:
        message = vodozemac.AnyOlmMessage.from_parts(part["type"], from_unpadded(part["body"]))
        for session in self.sessions:
            if part["type"] == 1 or session.session_matches(message.to_pre_key()):
                return bytes(session.decrypt(message))
        key = vodozemac.Curve25519PublicKey.from_base64(ours.curve25519)
        session, plaintext = self.account.olm.create_inbound_session(key, message.to_pre_key())
        self.sessions.append(session)
        return bytes(plaintext)


class World:
    """A peer that knows two users, one of them with a server that hangs."""

    def __init__(self, server: ClaimServer, ours: CryptoDevice, beside: Beside) -> None:
        self.server, self.ours, self.beside = server, ours, beside
        self.alice, self.mallory = Friend(ALICE, server), Friend(MALLORY, server)

    def send(self, friend: Friend, number: int) -> asyncio.Task[None]:
        return asyncio.create_task(self.ours.sender.send([friend.identity], SIGNAL_TYPE, {"n": number}))

    def say(self, room: RoomEncryption, number: int, *users: UserId) -> asyncio.Task[dict[str, Any]]:
        members, content = [PEER, *users], {"n": number}
        return asyncio.create_task(
            self.ours.outbound.encrypt(room, members, "m.call.answer", content, least=Trust.UNSIGNED)
        )

    async def until_claimed(self, count: int = 1) -> None:
        async with asyncio.timeout(3):
            while self.server.claimed.count(MALLORY) < count:
                await asyncio.sleep(0)

    async def goes_on_for_others(self) -> None:
        """Others are read and answered, in rooms and without."""
        honest, heard = Sender(UserId("@bob:example.org"), self.server, self.ours, proves=True), asyncio.Event()

        async def hear(_device: CryptoDevice, _event: ToDeviceEvent) -> None:
            heard.set()

        self.ours.deliver_to(hear)
        async with asyncio.timeout(3):
            assert await self.ours.receive_sync(answer_of(honest.says())) == ()
            await heard.wait()
            await self.send(self.alice, 1)
            await self.say(OTHER_ROOM, 2, ALICE)
        assert self.alice.reads(self.server, self.ours)[0] == {"n": 1}


async def world() -> World:
    server = ClaimServer()
    ours = await peer_at(server, later=(beside := Beside()).put)
    await ours.settle("token", {})
    made = World(server, ours, beside)
    await ours.lists.of([ALICE, MALLORY])
    server.hanging = {"evil.test"}
    return made


@pytest.mark.parametrize("in_room", [False, True])
async def test_a_claim_that_hangs_holds_up_neither_what_goes_to_others_nor_what_comes_from_them(
    *, in_room: bool
) -> None:
    made = await world()
    waiting = made.say(ROOM, 0, MALLORY) if in_room else made.send(made.mallory, 0)
    await made.until_claimed()
    await made.goes_on_for_others()
    assert not waiting.done()
    made.server.released.set()
    async with asyncio.timeout(3):
        await waiting
    assert len(made.mallory.reads(made.server, made.ours)) == 1


async def test_a_broken_session_is_replaced_while_others_are_answered() -> None:
    made = await world()
    stranger = Sender(MALLORY, made.server, made.ours, proves=True)
    del made.server.listed[MALLORY]["DEVICE"]
    stranger.account = made.mallory.account
    item = stranger.says()
    item["content"]["ciphertext"][made.ours.curve25519] |= {"type": 1}
    assert await made.ours.receive_sync(answer_of(item)) == ()
    await made.until_claimed()
    async with asyncio.timeout(1):
        await made.send(made.alice, 1)
    made.server.released.set()
    await made.beside.idle()
    assert made.mallory.reads(made.server, made.ours) == [{}], "a new session was begun"


async def test_a_key_is_given_again_while_others_are_answered() -> None:
    made = await world()
    made.server.released.set()
    said = await made.say(ROOM, 0, MALLORY)
    asked = len(made.server.asked)
    await made.ours.lists.mark_outdated([MALLORY])
    body = {"algorithm": MEGOLM, "room_id": ROOM.room, "session_id": said["session_id"]}
    content = {"action": "request", "body": body, "request_id": "1", "requesting_device_id": "PHONE"}
    request = {"type": REQUEST, "sender": MALLORY, "content": content}
    assert await made.ours.receive_sync(answer_of(request)) == ()
    async with asyncio.timeout(1):
        while len(made.server.asked) == asked:
            await asyncio.sleep(0)
        await made.send(made.alice, 1)


async def test_what_goes_to_a_device_keeps_its_order_beside_a_slow_claim() -> None:
    made = await world()
    waiting = [made.send(made.mallory, number) for number in range(5)]
    await made.until_claimed()
    made.server.hanging.clear()  # what is claimed from now on comes at once
    waiting.append(made.send(made.mallory, 5))
    await made.goes_on_for_others()
    made.server.released.set()
    async with asyncio.timeout(3):
        await asyncio.gather(*waiting)
    assert made.mallory.reads(made.server, made.ours) == [{"n": number} for number in range(6)]
    assert made.server.claimed.count(MALLORY) == 1
    assert len(made.ours.sender._order) == 0


async def test_what_is_said_in_a_room_keeps_its_order_beside_a_slow_claim() -> None:
    made = await world()
    waiting = [made.say(ROOM, 0, MALLORY, ALICE)]
    await made.until_claimed()
    made.server.hanging.clear()  # what is claimed from now on comes at once
    waiting += [made.say(ROOM, number, MALLORY, ALICE) for number in range(1, 5)]
    await made.goes_on_for_others()
    made.server.released.set()
    async with asyncio.timeout(3):
        said = await asyncio.gather(*waiting)
    (key,) = made.mallory.reads(made.server, made.ours)
    session = vodozemac.InboundGroupSession(vodozemac.SessionKey(key["session_key"]))
    opened = [session.decrypt(vodozemac.MegolmMessage.from_base64(each["ciphertext"])) for each in said]
    assert [each.message_index for each in opened] == list(range(5))
    assert [json.loads(each.plaintext)["content"]["n"] for each in opened] == list(range(5))
    assert len(made.ours.outbound._order) == 0


async def test_a_session_that_came_while_a_key_was_claimed_is_used() -> None:
    made = await world()
    waiting = made.send(made.mallory, 0)
    await made.until_claimed()
    theirs = Sender(MALLORY, made.server, made.ours, proves=True)
    theirs.account = made.mallory.account
    theirs.olm = made.mallory.account.olm.create_outbound_session(
        vodozemac.Curve25519PublicKey.from_base64(made.ours.curve25519),
        vodozemac.Curve25519PublicKey.from_base64(made.server.one_time.pop()),
    )
    made.mallory.sessions.append(theirs.olm)
    async with asyncio.timeout(3):
        assert len(await made.ours.receive_sync(answer_of(theirs.says()))) == 1, "its device is known"
    made.server.released.set()
    await waiting
    assert made.mallory.reads(made.server, made.ours) == [{"n": 0}]
    assert len(made.mallory.sessions) == len(made.ours._olm._live[made.mallory.account.curve25519]) == 1


async def test_whoever_claims_for_the_same_device_at_once_shares_one_session() -> None:
    made = await world()
    waiting = [
        made.say(ROOM, 0, MALLORY),
        made.say(OTHER_ROOM, 1, MALLORY),
        made.send(made.mallory, 2),
    ]
    await made.until_claimed(3)
    made.server.released.set()
    async with asyncio.timeout(3):
        await asyncio.gather(*waiting)
    assert len(made.mallory.reads(made.server, made.ours)) == 3
    assert len(made.mallory.sessions) == len(made.ours._olm._live[made.mallory.account.curve25519]) == 1


@pytest.mark.parametrize("in_room", [False, True])
async def test_cancellation_while_a_key_is_claimed_leaves_nothing_behind(*, in_room: bool) -> None:
    made = await world()
    first = made.say(ROOM, 0, MALLORY) if in_room else made.send(made.mallory, 0)
    second = made.say(ROOM, 1, MALLORY) if in_room else made.send(made.mallory, 1)
    await made.until_claimed()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert first.cancelled()
    await made.until_claimed(2)
    made.server.released.set()
    async with asyncio.timeout(3):
        await second
    assert len(made.mallory.reads(made.server, made.ours)) == 1
    assert not made.ours._lock.locked()
    assert len(made.ours.sender._order) == len(made.ours.outbound._order) == 0


async def test_a_device_that_had_no_key_left_is_told_so_and_not_asked_with_each_message() -> None:
    made = await world()
    made.server.hanging = set()
    made.mallory.one_time = dict  # type: ignore[method-assign]
    for number in range(3):
        await made.say(ROOM, number, MALLORY, ALICE)
    assert made.server.claimed.count(MALLORY) == 1
    told = [messages[MALLORY]["PHONE"]["code"] for kind, messages in made.server.sent if kind == "m.room_key.withheld"]
    assert told == ["m.no_olm"]
    assert len(made.alice.reads(made.server, made.ours)) == 1


async def test_a_device_that_was_deleted_while_a_key_was_claimed_or_others_were_waited_for_gets_no_key() -> None:
    made = await world()
    changed = {"device_lists": {"changed": [MALLORY]}}
    waiting = made.say(ROOM, 0, MALLORY, ALICE)
    await made.until_claimed()
    made.server.hanging.clear()
    made.server.log_out(MALLORY, "PHONE")
    await made.ours.receive_sync(changed)
    made.server.released.set()
    first = await waiting
    assert made.mallory.reads(made.server, made.ours) == []
    made.server.listed[MALLORY][DeviceId("PHONE")] = made.mallory.account.device_keys()
    await made.ours.receive_sync(changed)
    second = await made.say(ROOM, 1, MALLORY, ALICE)
    assert len(made.mallory.reads(made.server, made.ours)) == 1
    async with made.ours._lock:
        waiting = made.say(ROOM, 2, MALLORY, ALICE)
        while not made.ours._lock._waiters:  # type: ignore[attr-defined]
            await asyncio.sleep(0)
        made.server.log_out(MALLORY, "PHONE")
        await made.ours.receive_sync(changed)
    third = await waiting
    assert first["session_id"] == second["session_id"] != third["session_id"]
