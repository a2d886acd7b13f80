"""Two devices of ours at a real homeserver: identities, Olm, Megolm, restarts, and what goes wrong."""

from __future__ import annotations

import asyncio
import functools
import secrets
from dataclasses import replace
from typing import Any

import pytest

from mxrtc_bridge.core.crypto.records import RoomEncryption, Trust
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import DeviceId, EventId, RoomId
from mxrtc_bridge.matrix.crypto.account import KEYS_WANTED, OwnAccount
from mxrtc_bridge.matrix.crypto.cross_signing import OtherIdentityError
from mxrtc_bridge.matrix.crypto.key_requests import REQUEST, KeyRequests
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys
from mxrtc_bridge.matrix.crypto.values import Decrypted, DeviceIdentity, Obstacle, Undecryptable
from mxrtc_bridge.matrix.crypto.verification import own_keys
from tests.matrix.crypto.conftest import End, MakeEnd
from tests.matrix.crypto.memory import MemoryStore

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="session")]

OFFER = {"call_id": "c1", "offer": {"type": "offer", "sdp": "v=0"}}


async def only_device(of: End, seen_by: End) -> DeviceIdentity:
    (device,) = (await seen_by.device.devices_of(of.user, fresh=True)).devices
    return device


def some_room() -> RoomId:
    return RoomId(f"!{secrets.token_hex(8)}:example.test")


def some_event() -> EventId:
    return EventId(f"${secrets.token_hex(8)}")


async def test_peer_has_a_device_that_its_own_identity_has_signed(make_end: MakeEnd) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    seen = await person.device.devices_of(peer.user)
    assert [(each.device, each.trust) for each in seen.devices] == [(peer.device.device_id, Trust.CROSS_SIGNED)]
    assert seen.master == peer.device.master_key == seen.pinned
    assert (await only_device(person, peer)).trust is Trust.UNSIGNED


async def test_messages_pass_both_ways_and_name_their_device(make_end: MakeEnd) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    await person.device.sender.send([await only_device(peer, person)], "io.example.offer", OFFER)
    event = await peer.until_received()
    assert (event.type, event.sender, event.content) == ("io.example.offer", person.user, OFFER)
    assert event.device is not None
    assert event.device.device == person.device.device_id
    for number in range(3):
        await peer.device.sender.send([event.device], "io.example.answer", {"n": number})
    await person.until_received(3)
    assert [each.content["n"] for each in person.received] == [0, 1, 2]
    assert {each.device.trust for each in person.received if each.device} == {Trust.CROSS_SIGNED}


async def test_restart_keeps_device_and_sessions(make_end: MakeEnd) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    target = await only_device(peer, person)
    await person.device.sender.send([target], "io.example.offer", {"n": 0})
    await peer.until_received()
    again = await make_end(peer=True, user=peer.user, store=peer.store)
    assert again.device.device_id == peer.device.device_id
    await person.device.sender.send([target], "io.example.offer", {"n": 1})
    assert (await again.until_received()).content == {"n": 1}
    assert len(again.received) == 1, "what was handled before the restart does not come again"
    assert (await only_device(peer, person)) == target


async def test_message_that_was_not_settled_comes_again_after_a_crash(make_end: MakeEnd) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    await person.device.sender.send([await only_device(peer, person)], "io.example.first", {})
    await peer.until_received()
    await person.device.sender.send([await only_device(peer, person)], "io.example.offer", OFFER)

    async def crash(*_: Any) -> None:
        raise SystemExit

    peer.sync._handler = crash
    with pytest.raises(SystemExit):
        await peer.until_received(2)
    again = await make_end(peer=True, user=peer.user, store=peer.store)
    assert (await again.until_received()).content == OFFER


async def test_lost_database_gives_a_new_device_of_the_same_identity(make_end: MakeEnd) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    before = await person.device.devices_of(peer.user)
    again = await make_end(peer=True, user=peer.user, store=MemoryStore())
    after = await person.device.devices_of(peer.user, fresh=True)
    assert again.device.device_id != peer.device.device_id
    assert [(each.device, each.trust) for each in after.devices] == [(again.device.device_id, Trust.CROSS_SIGNED)]
    assert after.master == before.master
    assert not after.identity_changed


async def test_database_of_another_key_gives_a_new_device(make_end: MakeEnd, caplog: pytest.LogCaptureFixture) -> None:
    peer = await make_end(peer=True)
    again = await make_end(peer=True, user=peer.user, store=peer.store, pickle_key=b"o" * 32)
    assert again.device.device_id != peer.device.device_id
    assert "another encryption key" in caplog.text


async def test_changed_identity_is_seen_and_trusted_again_only_on_purpose(make_end: MakeEnd) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    await person.device.devices_of(peer.user)
    other = IdentityKeys.derived(b"o" * 32, peer.user)
    record = await peer.store.account()
    with pytest.raises(OtherIdentityError, match="not replaced unasked"):
        await make_end(peer=True, user=peer.user, store=peer.store, identity=other)
    assert await peer.store.account() == record
    assert not (await person.device.devices_of(peer.user, fresh=True)).identity_changed
    other = IdentityKeys.derived(b"o" * 32, peer.user, may_replace=True)
    await make_end(peer=True, user=peer.user, store=peer.store, identity=other)
    changed = await person.device.devices_of(peer.user, fresh=True)
    assert changed.identity_changed
    assert {each.trust for each in changed.devices} == {Trust.UNSIGNED}
    accepted = await person.device.lists.accept_identity(peer.user)
    assert {each.trust for each in accepted.devices} == {Trust.CROSS_SIGNED}
    verified = await person.device.lists.accept_identity(peer.user, verified=other.master.public)
    assert {each.trust for each in verified.devices} == {Trust.VERIFIED}


async def test_identities_that_are_known_by_hand_may_change_while_it_runs(make_end: MakeEnd) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    right, wrong = peer.device.master_key, IdentityKeys.derived(b"o" * 32, peer.user).master.public
    assert right is not None
    seen = []
    for known in ({}, {peer.user: right}, {peer.user: wrong}, {}):
        person.device.lists.know(known)
        (device,) = (await person.device.devices_of(peer.user)).devices
        seen.append(device.trust)
    assert seen == [Trust.CROSS_SIGNED, Trust.VERIFIED, Trust.UNSIGNED, Trust.CROSS_SIGNED]


async def test_an_identity_may_be_vouched_for_before_anything_else_is_known_of_its_user(make_end: MakeEnd) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    assert peer.device.master_key is not None
    await person.device.lists.vouch_for(peer.user, peer.device.master_key)
    seen = await person.device.devices_of(peer.user)
    assert {each.trust for each in seen.devices} == {Trust.VERIFIED}
    other = IdentityKeys.derived(b"o" * 32, peer.user).master.public
    await person.device.lists.vouch_for(peer.user, other)
    seen = await person.device.devices_of(peer.user)
    assert ({each.trust for each in seen.devices}, seen.identity_changed) == ({Trust.UNSIGNED}, True)


async def test_a_device_vouches_for_the_identity_of_its_user_only_if_it_holds_or_has_verified_it(
    make_end: MakeEnd,
) -> None:
    peer = await make_end(peer=True)
    name = f"ed25519:{peer.device.device_id}"
    assert await own_keys(peer.device) == {
        name: peer.device.ed25519,
        f"ed25519:{peer.device.master_key}": peer.device.master_key,
    }
    person = await make_end(peer=False)
    alone = {f"ed25519:{person.device.device_id}": person.device.ed25519}
    assert await own_keys(person.device) == alone


async def test_one_time_keys_that_were_taken_are_made_again_and_the_fallback_key_serves_meanwhile(
    make_end: MakeEnd,
) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    target = await only_device(peer, person)
    wanted = {peer.user: [target.device]}

    async def claim() -> str:
        claimed = await person.device._server.claim_keys(person.device.device_id, wanted)
        (key,) = claimed[peer.user][target.device].values()  # type: ignore[attr-defined]
        return str(key["key"])

    given = [await claim() for _ in range(KEYS_WANTED + 2)]
    assert len(set(given)) == KEYS_WANTED + 1, "all one-time keys, then the fallback key for everybody"
    await person.device.sender.send([target], "io.example.offer", OFFER)
    assert (await peer.until_received()).content == OFFER
    assert await claim() not in given


async def test_down_for_a_while_misses_no_message(make_end: MakeEnd) -> None:
    """More messages than one answer brings wait while the bridge is away."""
    peer, person = await make_end(peer=True), await make_end(peer=False)
    target = await only_device(peer, person)
    await peer.once()
    for number in range(230):
        await person.device.sender.send([target], "io.example.n", {"n": number})
    again = await make_end(peer=True, user=peer.user, store=peer.store)
    await again.until_received(230)
    assert [each.content["n"] for each in again.received] == list(range(230))


async def test_room_event_is_read_by_those_who_are_in(make_end: MakeEnd) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    room, members = RoomEncryption(some_room()), [peer.user, person.user]
    content = await person.device.outbound.encrypt(room, members, "m.call.invite", OFFER, least=Trust.CROSS_SIGNED)
    assert "v=0" not in str(content)
    event_id = some_event()
    early = await peer.rooms.decrypt(room.room, event_id, person.user, content)
    assert early == Undecryptable(Obstacle.NO_KEY, content["session_id"])
    waiting = asyncio.create_task(peer.rooms.wait_for_key(room.room, content["session_id"], person.user, 20))
    await peer.once()
    assert await waiting
    for _ in range(2):
        read = await peer.rooms.decrypt(room.room, event_id, person.user, content)
        assert isinstance(read, Decrypted)
        assert (read.type, read.content, read.device.device) == ("m.call.invite", OFFER, person.device.device_id)
    replayed = await peer.rooms.decrypt(room.room, some_event(), person.user, content)
    assert isinstance(replayed, Undecryptable)
    assert replayed.obstacle is Obstacle.REPLAY
    stolen = await peer.rooms.decrypt(room.room, event_id, peer.user, content)
    assert isinstance(stolen, Undecryptable), "a key counts for its sender only"
    elsewhere = await peer.rooms.decrypt(some_room(), event_id, person.user, content)
    assert isinstance(elsewhere, Undecryptable), "and for its room"


async def test_a_key_that_was_lost_is_asked_for_and_given_again_by_its_maker(
    make_end: MakeEnd, caplog: pytest.LogCaptureFixture
) -> None:
    """From the present on: nobody keeps the key of what was said before."""
    peer, person = await make_end(peer=True), await make_end(peer=False)
    room, members = RoomEncryption(some_room()), [peer.user, person.user]
    say = functools.partial(peer.device.outbound.encrypt, room, members, "m.call.answer", least=Trust.UNSIGNED)
    lost = await say({"n": 1})
    session = lost["session_id"]
    assert isinstance(person.store, MemoryStore)
    await person.once()
    person.store._inbound.clear()
    waiting = asyncio.create_task(
        person.rooms.wait_for_key(room.room, session, peer.user, 20, device=peer.device.device_id)
    )
    caplog.set_level("DEBUG")
    while "asked for by" not in caplog.text:
        await peer.sync.once(5)
    await person.sync.once(5)
    assert await waiting
    read = await person.rooms.decrypt(room.room, some_event(), peer.user, await say({"n": 2}))
    assert isinstance(read, Decrypted)
    assert read.content == {"n": 2}
    early = await person.rooms.decrypt(room.room, some_event(), peer.user, lost)
    assert early == Undecryptable(Obstacle.WITHHELD, session, "m.history")

    # Once a minute, and only to devices that have had it.
    caplog.clear()
    stranger = await make_end(peer=False)
    for end in (person, stranger):
        request = KeyRequests(lambda end=end: end.device.device_id, b"", wall_ms=lambda: 0)  # type: ignore[misc]
        content = request.ask(room.room, session, peer.user)
        assert content is not None
        await end.device.sender.send_plain(peer.user, [peer.device.device_id], REQUEST, content)
    while caplog.text.count("asked for by") < 2:
        await peer.sync.once(5)
    assert caplog.text.count("not given") == 2


async def test_device_below_the_policy_gets_no_key_and_is_told(make_end: MakeEnd) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    room, members = RoomEncryption(some_room()), [peer.user, person.user]
    content = await peer.device.outbound.encrypt(room, members, "m.call.answer", {}, least=Trust.CROSS_SIGNED)
    await person.once()
    refused = await person.rooms.decrypt(room.room, some_event(), peer.user, content)
    assert refused == Undecryptable(Obstacle.WITHHELD, content["session_id"], "m.unverified")


async def test_session_is_replaced_when_somebody_leaves_and_after_enough_messages(make_end: MakeEnd) -> None:
    peer, person, third = await make_end(peer=True), await make_end(peer=False), await make_end(peer=False)
    room = RoomEncryption(some_room(), rotate_after_messages=3)
    all_three, two = [peer.user, person.user, third.user], [peer.user, person.user]

    async def session(members: list[Any]) -> str:
        sent = await peer.device.outbound.encrypt(room, members, "m.x", {}, least=Trust.UNSIGNED)
        return str(sent["session_id"])

    first = await session(all_three)
    assert await session(all_three) == first
    second = await session(two)
    assert second != first
    assert [await session(two), await session(two)] == [second, second]
    assert await session(two) != second
    await third.once()
    left = await third.store.inbound(room.room, second, peer.user)
    assert left is None, "who has left does not get the new key"


async def test_broken_session_is_replaced_by_the_one_who_cannot_read(make_end: MakeEnd) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    target = await only_device(peer, person)
    await person.device.sender.send([target], "io.example.n", {"n": 0})
    event = await peer.until_received()
    assert event.device is not None
    await peer.device.sender.send([event.device], "io.example.n", {"n": 0})
    await person.until_received()
    # The peer forgets the sessions, as from a database that was restored from an old copy.
    peer.store._olm.clear()  # type: ignore[attr-defined]
    peer.device._olm._live.clear()
    await person.device.sender.send([target], "io.example.n", {"n": 1})
    while not peer.device._unwedged:
        await peer.sync.once(5)
    await person.once()
    await person.device.sender.send([target], "io.example.n", {"n": 2})
    assert (await peer.until_received(2)).content == {"n": 2}


async def test_message_with_the_keys_of_another_device_is_ignored(make_end: MakeEnd) -> None:
    peer, person, mallory = await make_end(peer=True), await make_end(peer=False), await make_end(peer=False)
    target = await only_device(peer, mallory)
    mallory.device._own.device_keys = person.device._own.device_keys  # type: ignore[method-assign]
    await mallory.device.sender.send([target], "io.example.n", {"n": "forged"})
    other = OwnAccount.new(mallory.user, DeviceId("OTHER"), bytes(32))
    mallory.device._own.device_keys = other.device_keys  # type: ignore[method-assign]
    await mallory.device.sender.send([target], "io.example.n", {"n": "of another device"})
    mallory.device._own.user = person.user
    await mallory.device.sender.send([target], "io.example.n", {"n": "forged"})
    await person.device.sender.send([target], "io.example.n", {"n": "right"})
    assert (await peer.until_received()).content == {"n": "right"}


async def test_device_without_keys_is_said(make_end: MakeEnd) -> None:
    peer, person = await make_end(peer=True), await make_end(peer=False)
    target = replace(await only_device(peer, person), device="GONE", curve25519="A" * 43)  # type: ignore[arg-type]
    with pytest.raises(HomeserverError, match="no keys left"):
        await person.device.sender.send([target], "io.example.n", {})
