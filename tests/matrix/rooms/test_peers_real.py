"""Peers join, decline and leave rooms of a real homeserver."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio

from mxrtc_bridge.core.access.revocations import read_news
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api import ping
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.room_event import RoomEvent, encode
from mxrtc_bridge.matrix.outbox.notices import Notices
from mxrtc_bridge.matrix.outbox.outbox import Outbox
from mxrtc_bridge.matrix.rooms.bot_rooms import BotRooms
from mxrtc_bridge.matrix.rooms.members import MemberLists
from mxrtc_bridge.matrix.rooms.peers import Peers
from mxrtc_bridge.matrix.rooms.ports import PeerProfile
from mxrtc_bridge.matrix.rooms.room_index import RoomIndex
from tests.matrix.conftest import APPSERVICE_ID, BridgeWorld, MakePerson
from tests.matrix.rooms.peers_bench import BOT, FakeDirectory, Recorder


@dataclass
class RealPeers:
    peers: Peers
    index: RoomIndex
    peer: UserId
    granted: set[UserId]
    listener: Recorder
    directory: FakeDirectory


MakePeers = Callable[[], RealPeers]


def no_bot_rooms(bridge: Homeserver) -> BotRooms:
    return BotRooms(bridge, BOT, {}, MemberLists(bridge, BOT, lambda _users: None))


@pytest_asyncio.fixture(loop_scope="session")
async def real_peers(bridge_world: BridgeWorld, bridge: Homeserver) -> AsyncIterator[RealPeers]:
    """Peers that hear the transactions of a real homeserver."""
    peer, granted, listener, directory = bridge_world.peer(), set[UserId](), Recorder(), FakeDirectory()
    notices, index = Notices(), RoomIndex(no_bot_rooms(bridge), lambda user: user.startswith("@rtc_"))
    sending = asyncio.create_task(notices.run(Outbox(bridge, masquerade=True)))
    peers = Peers(
        bridge,
        directory,
        listener,
        index=index,
        profiles=[PeerProfile(peer, "A peer")],
        tell=notices.post,
        may_use=lambda user, wanted: user in granted and wanted == peer,
        wall_ms=lambda: 1,
    )
    await peers.start()
    asking = asyncio.create_task(peers.membership.refresher.run())

    async def receive(event: RoomEvent) -> None:
        if (news := read_news(json.loads(encode(event)))) is not None:
            peers.membership.look(news)
        await peers.handle(event)

    bridge_world.receiver.handler = receive
    await ping.ping(bridge, APPSERVICE_ID)
    yield RealPeers(peers, index, peer, granted, listener, directory)
    bridge_world.receiver.handler = None
    sending.cancel()
    asking.cancel()


@pytest.mark.asyncio(loop_scope="session")
async def test_real_peer_joins_by_right_declines_without_and_follows_the_members(
    real_peers: RealPeers, make_person: MakePerson
) -> None:
    alice, mallory = await make_person(), await make_person()
    real_peers.granted.add(alice.user_id)
    peer = real_peers.peer
    denied = await mallory.homeserver.create_direct_room(peer)
    await mallory.wait_for(denied, peer, "leave")
    room = await alice.homeserver.create_direct_room(peer)
    await alice.wait_for(room, peer, "join")

    await alice.homeserver.invite(room, mallory.user_id)
    await mallory.homeserver.join(room)
    async with asyncio.timeout(20):
        while not await alice.timeline(room, "m.room.message"):
            await asyncio.sleep(0.05)
    assert real_peers.index.members(room) == {alice.user_id, peer, mallory.user_id}
    await mallory.homeserver.leave(room)
    await alice.state(room, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
    async with asyncio.timeout(20):
        while len(notices := await alice.timeline(room, "m.room.message")) < 2:
            await asyncio.sleep(0.05)
    assert real_peers.index.members(room) == {alice.user_id, peer}
    assert {item["sender"] for item in notices} == {peer}
    assert "encrypted" in notices[1]["content"]["body"]

    await alice.homeserver.leave(room)
    async with asyncio.timeout(20):
        while real_peers.index.members(room) is not None:
            await asyncio.sleep(0.05)
    assert real_peers.listener.heard == [
        ("changed", room),
        ("changed", room),
        ("left", room, alice.user_id),
        ("left", room, peer),
    ]


@pytest.mark.asyncio(loop_scope="session")
async def test_real_peer_refuses_spaces_and_public_rooms(
    real_peers: RealPeers, make_person: MakePerson, bridge: Homeserver
) -> None:
    alice = await make_person()
    real_peers.granted.add(alice.user_id)
    for options in ({"creation_content": {"type": "m.space"}}, {"preset": "public_chat"}):
        content = {"invite": [real_peers.peer], **options}
        answer = await alice.homeserver._post("make", create_path(), content)
        room = RoomId(str(answer["room_id"]))
        await alice.wait_for(room, real_peers.peer, "leave")
    assert await bridge.joined_rooms(real_peers.peer) == ()


@pytest.mark.asyncio(loop_scope="session")
async def test_real_rooms_are_found_again_after_a_restart(
    real_peers: RealPeers, make_person: MakePerson, bridge: Homeserver
) -> None:
    alice = await make_person()
    real_peers.granted.add(alice.user_id)
    room = await alice.homeserver.create_direct_room(real_peers.peer)
    await alice.wait_for(room, real_peers.peer, "join")
    async with asyncio.timeout(20):
        while real_peers.index.members(room) is None:
            await asyncio.sleep(0.05)
    index = RoomIndex(no_bot_rooms(bridge), lambda user: user.startswith("@rtc_"))
    again = Peers(
        bridge,
        real_peers.directory,
        Recorder(),
        index=index,
        profiles=[PeerProfile(real_peers.peer, "A peer")],
        tell=lambda *_, **__: None,
        may_use=lambda user, _: user in real_peers.granted,
        wall_ms=lambda: 1,
    )
    await again.start()
    await again.settled(room)
    assert index.members(room) == {alice.user_id, real_peers.peer}
    real_peers.granted.clear()
    await again.reload([PeerProfile(real_peers.peer, "A peer")])
    await again.leave_unused()
    await alice.wait_for(room, real_peers.peer, "leave")


def create_path() -> Any:
    from mxrtc_bridge.matrix.api.path import Path

    return Path.v3.createRoom
