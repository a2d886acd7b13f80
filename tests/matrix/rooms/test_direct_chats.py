"""Rooms that the bridge makes for a user: found again, and never one more because nothing is known."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.errors import HomeserverError, StateError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.rooms.direct_chats import DirectChat, DirectChats
from mxrtc_bridge.matrix.rooms.room_index import PeerRoom
from tests.matrix.rooms.peers_bench import ALICE, PEER, PEER_2, ROOM, Bench

MADE = RoomId("!made:example.org")


class Server:
    """Refuses invitations as it is told."""

    def __init__(self, error: HomeserverError) -> None:
        self.error = error
        self.made: list[RoomId] = []

    async def invite(self, room: RoomId, user: UserId, as_user: UserId | None = None) -> None:
        raise self.error

    async def create_direct_room(self, user: UserId, as_user: UserId | None = None) -> RoomId:
        self.made.append(MADE)
        return MADE


async def opened(error: HomeserverError) -> Server:
    bench, server = Bench(), Server(error)
    bench.index.enter(PeerRoom(ROOM, PEER, ALICE, {PEER}, encrypted=False))
    openings = DirectChats(server, bench.index, bench.peers, reads_encrypted=lambda: False)
    if error.errcode == "M_FORBIDDEN":
        assert (await openings.open(PEER, ALICE)).room == MADE
    else:
        with pytest.raises(HomeserverError):
            await openings.open(PEER, ALICE)
    return server


@pytest.mark.parametrize("status", [400, 403, 404])
async def test_room_to_which_the_user_cannot_be_invited_again_is_replaced(status: int) -> None:
    assert (await opened(HomeserverError("refused", status, "M_FORBIDDEN"))).made == [MADE]


@pytest.mark.parametrize("status", [0, 200, 302, 401, 404, 429, 502])
async def test_what_says_nothing_about_a_room_makes_no_other(status: int) -> None:
    """An error 404 as well, where a proxy has led the request to a server that does not know it."""
    assert (await opened(HomeserverError("who knows", status, "M_UNRECOGNIZED"))).made == []


async def test_nobody_acts_as_a_peer_whose_account_may_be_a_persons() -> None:
    bench, server = Bench(), Server(HomeserverError("unused", 500))
    await bench.peers.start(lambda user: user != PEER)
    with pytest.raises(StateError, match=f"{PEER} makes no room"):
        await DirectChats(server, bench.index, bench.peers, reads_encrypted=lambda: False).open(PEER, ALICE)
    assert server.made == []


async def test_room_that_is_not_read_yet_is_found_again_and_no_other_room_is_read_for_it() -> None:
    bench, server, other = Bench(), Server(HomeserverError("unused", 500)), RoomId("!other:example.org")
    bench.homeserver.members = {ROOM: {ALICE, PEER}, other: {ALICE, PEER_2}}
    await bench.peers.start()
    chat = await DirectChats(server, bench.index, bench.peers, reads_encrypted=lambda: False).open(PEER, ALICE)
    assert (chat, server.made) == (DirectChat(ROOM, joined=True), [])
    assert bench.homeserver.of("members") == [("members", ROOM)]
