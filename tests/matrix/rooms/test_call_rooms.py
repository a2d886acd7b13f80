"""The user's room with a peer: found, brought back or made, and what is said when there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pytest

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.rooms.call_rooms import DirectFailure, DirectRoomError, DirectRooms
from tests.conftest import HomeserverFactory
from tests.fakes import VirtualTime
from tests.honesty import Honesty
from tests.honesty import failure as failed
from tests.matrix.conftest import BridgeWorld, MakePerson

ME = UserId("@alice:example.org")
PEER = UserId("@rtc_build:example.org")
OTHER = UserId("@bob:example.org")


@dataclass
class FakeHomeserver:
    """Rooms in memory; a peer answers invitations as ``answers`` says, after some looks.

    A test that needs a lie about who is in the rooms sets ``honesty``, after what it is stale about; ``failures`` lets
    one kind of question fail.
    """

    rooms: dict[RoomId, dict[UserId, str]] = field(default_factory=dict)
    encrypted: set[RoomId] = field(default_factory=set)
    encrypts_all: bool = False
    direct: dict[str, object] = field(default_factory=dict)
    answers: str | None = "join"
    looks: int = 3
    failures: dict[str, HomeserverError] = field(default_factory=dict)
    left: list[RoomId] = field(default_factory=list)
    invited: list[RoomId] = field(default_factory=list)
    looked: int = 0
    old: dict[RoomId, dict[UserId, str]] = field(default_factory=dict)
    """Who it says to be in a room instead of ``rooms``."""

    @property
    def honesty(self) -> Honesty:
        if (error := self.failures.get("members")) is not None:
            return Honesty.WRONG if error.status == 200 else Honesty.SILENT
        return Honesty.STALE if self.old else Honesty.TRUE

    @honesty.setter
    def honesty(self, honesty: Honesty) -> None:
        self.failures.pop("members", None)
        if (error := failed(honesty)) is not None:
            self.failures["members"] = error
        stale = honesty is Honesty.STALE
        self.old = {room: dict(members) for room, members in self.rooms.items()} if stale else {}

    def _fail(self, name: str) -> None:
        if name in self.failures:
            raise self.failures[name]

    def _mine(self, room: RoomId) -> dict[UserId, str]:
        if self.rooms.get(room, {}).get(ME) != "join":
            raise HomeserverError("not in the room", 403, "M_FORBIDDEN")
        return self.rooms[room]

    async def displayname(self, user: UserId, as_user: UserId | None = None) -> str | None:
        self._fail("profile")
        return "Build"

    async def joined_rooms(self, as_user: UserId | None = None) -> tuple[RoomId, ...]:
        return tuple(room for room, members in self.rooms.items() if members.get(ME) == "join")

    async def joined_members(self, room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]:
        self._fail("members")
        members = self.old.get(room) or self._mine(room)
        return frozenset(user for user, membership in members.items() if membership == "join")

    async def membership(self, room: RoomId, user: UserId, as_user: UserId | None = None) -> str | None:
        members = self._mine(room)
        if members.get(user) == "invite" and self.answers is not None:
            self.looked += 1
            if self.looked >= self.looks:
                members[user] = self.answers
        return members.get(user)

    async def state(
        self, room: RoomId, event_type: str, state_key: str = "", as_user: UserId | None = None
    ) -> dict[str, object] | None:
        return {} if room in self.encrypted else None

    async def invite(self, room: RoomId, user: UserId, as_user: UserId | None = None) -> None:
        self._fail("invite")
        self.invited.append(room)
        self._mine(room)[user] = "invite"

    async def create_direct_room(self, user: UserId, as_user: UserId | None = None) -> RoomId:
        self._fail("create")
        room = RoomId(f"!new{len(self.rooms)}:example.org")
        self.rooms[room] = {ME: "join", user: "invite"}
        if self.encrypts_all:
            self.encrypted.add(room)
        return room

    async def leave(self, room: RoomId, as_user: UserId | None = None, reason: str | None = None) -> None:
        self.left.append(room)
        self.rooms[room][ME] = "leave"

    async def direct_rooms(self, user: UserId) -> dict[str, object]:
        self._fail("direct")
        return self.direct

    async def set_direct_rooms(self, user: UserId, content: Mapping[str, object]) -> None:
        self._fail("set direct")
        self.direct = dict(content)


def finder(server: FakeHomeserver, time: VirtualTime | None = None) -> DirectRooms:
    time = time or VirtualTime()
    return DirectRooms(server, ME, clock=time.clock, sleep=time.sleep)


A, B, C = (RoomId(f"!{name}:example.org") for name in "abc")
PAIR = {ME: "join", PEER: "join"}


async def test_known_room_is_used_without_further_questions() -> None:
    server = FakeHomeserver(rooms={A: dict(PAIR)}, failures={"direct": HomeserverError("unneeded", 500)})
    assert await finder(server).find_or_create_direct(PEER, known=A) == A


@pytest.mark.parametrize(
    "spoil",
    [
        lambda server: server.rooms.update({A: {**PAIR, OTHER: "join"}}),
        lambda server: server.rooms.update({A: {**PAIR, ME: "leave"}}),
        lambda server: server.encrypted.add(A),
        lambda server: server.rooms.pop(A),
    ],
)
async def test_known_room_that_will_not_do_is_replaced(spoil: Callable[[FakeHomeserver], object]) -> None:
    server = FakeHomeserver(rooms={A: dict(PAIR)})
    spoil(server)
    room = await finder(server).find_or_create_direct(PEER, known=A)
    assert room != A
    assert server.rooms[room] == PAIR
    assert server.direct == {PEER: [room]}


async def test_listed_room_is_found_newest_first_past_those_that_will_not_do() -> None:
    server = FakeHomeserver(
        rooms={A: dict(PAIR), B: dict(PAIR), C: {**PAIR, OTHER: "join"}}, direct={PEER: [A, B, C, "odd", 5]}
    )
    assert await finder(server).find_or_create_direct(PEER) == B
    assert server.left == []


async def test_peer_that_left_an_idle_room_is_invited_back() -> None:
    server = FakeHomeserver(rooms={A: {ME: "join", PEER: "leave"}}, direct={PEER: [A]})
    assert await finder(server).find_or_create_direct(PEER) == A
    assert server.rooms == {A: PAIR}
    assert server.invited == [A]


async def test_invitation_that_still_waits_is_not_repeated() -> None:
    server = FakeHomeserver(rooms={A: {ME: "join", PEER: "invite"}}, direct={PEER: [A]})
    assert await finder(server).find_or_create_direct(PEER) == A
    assert server.invited == []


async def test_new_room_is_made_where_the_peer_cannot_be_invited_back() -> None:
    server = FakeHomeserver(
        rooms={A: {ME: "join", PEER: "ban"}},
        direct={PEER: [A]},
        failures={"invite": HomeserverError("banned", 403, "M_FORBIDDEN")},
    )
    room = await finder(server).find_or_create_direct(PEER)
    assert room != A
    assert server.direct == {PEER: [A, room]}


async def test_request_that_reaches_a_wrong_server_makes_no_other_room() -> None:
    unknown = HomeserverError("unknown request", 404, "M_UNRECOGNIZED")
    server = FakeHomeserver(rooms={A: {ME: "join", PEER: "leave"}}, direct={PEER: [A]}, failures={"invite": unknown})
    with pytest.raises(HomeserverError, match="unknown request"):
        await finder(server).find_or_create_direct(PEER)
    assert set(server.rooms) == {A}


async def test_new_room_is_listed_beside_what_the_list_held() -> None:
    server = FakeHomeserver(direct={OTHER: ["!x:example.org"], PEER: "odd"})
    room = await finder(server).find_or_create_direct(PEER)
    assert server.direct == {OTHER: ["!x:example.org"], PEER: [room]}


async def test_list_of_rooms_with_one_peer_stays_bounded() -> None:
    server = FakeHomeserver(direct={PEER: [f"!{n}:example.org" for n in range(100)]})
    room = await finder(server).find_or_create_direct(PEER)
    listed = server.direct[PEER]
    assert isinstance(listed, list)
    assert (len(listed), listed[-1]) == (64, room)


async def test_room_that_cannot_be_listed_is_used_all_the_same() -> None:
    server = FakeHomeserver(failures={"set direct": HomeserverError("no", 500)})
    room = await finder(server).find_or_create_direct(PEER)
    assert server.rooms[room] == PAIR


async def failure(server: FakeHomeserver, time: VirtualTime | None = None) -> DirectRoomError:
    with pytest.raises(DirectRoomError) as caught:
        await finder(server, time).find_or_create_direct(PEER)
    return caught.value


async def test_peer_that_does_not_exist_is_said_so_before_a_room_is_made() -> None:
    server = FakeHomeserver(failures={"profile": HomeserverError("", 404, "M_NOT_FOUND")})
    error = await failure(server)
    assert (error.failure, error.retryable, server.rooms) == (DirectFailure.NO_SUCH_PEER, False, {})
    assert "there is no user @rtc_build:example.org" in str(error)


@pytest.mark.parametrize(("status", "errcode"), [(403, "M_FORBIDDEN"), (404, "M_UNRECOGNIZED")])
async def test_hidden_profile_does_not_stop_the_search(status: int, errcode: str) -> None:
    server = FakeHomeserver(failures={"profile": HomeserverError("", status, errcode)})
    assert server.rooms.get(await finder(server).find_or_create_direct(PEER)) == PAIR


@pytest.mark.parametrize("answer", ["leave", "ban"])
async def test_declined_invitation_leaves_no_room_behind(answer: str) -> None:
    server = FakeHomeserver(answers=answer)
    error = await failure(server)
    assert (error.failure, error.retryable) == (DirectFailure.DECLINED, False)
    assert "granted" in str(error)
    assert (server.left, server.direct) == (list(server.rooms), {})


async def test_silent_peer_is_waited_for_a_limited_time() -> None:
    server, time = FakeHomeserver(answers=None), VirtualTime()
    error = await failure(server, time)
    assert (error.failure, error.retryable) == (DirectFailure.NO_ANSWER, True)
    assert "within 20 seconds; its bridge is probably not running" in str(error)
    assert 20 <= time.now < 21
    assert server.left == list(server.rooms)


async def test_homeserver_that_encrypts_everything_is_explained() -> None:
    error = await failure(FakeHomeserver(encrypts_all=True))
    assert (error.failure, error.retryable) == (DirectFailure.ENCRYPTED, False)
    assert "--signal device says more" in str(error)


async def test_outage_is_not_taken_for_a_missing_room() -> None:
    """Otherwise each outage would make another room."""
    server = FakeHomeserver(rooms={A: dict(PAIR)}, direct={PEER: [A]})
    server.honesty = Honesty.SILENT
    with pytest.raises(HomeserverError, match="away"):
        await finder(server).find_or_create_direct(PEER, known=A)
    assert set(server.rooms) == {A}


UNSAID = [
    HomeserverError("the answer holds no list", 200),
    HomeserverError("log in again", 401, "M_UNKNOWN_TOKEN"),
    HomeserverError("it redirects", 302),
    HomeserverError("a proxy does not like it", 405),
    HomeserverError("gone", 410),
]


@pytest.mark.parametrize("error", UNSAID, ids=lambda error: str(error.status))
@pytest.mark.parametrize("listed", [[], [A]])
@pytest.mark.parametrize("question", ["members", "invite", "profile"])
async def test_what_says_nothing_about_a_room_makes_no_other(
    question: str, listed: list[RoomId], error: HomeserverError
) -> None:
    """Each attempt would make one more room, and invite the peer to it."""
    deserted = {ME: "join", PEER: "leave"}
    server = FakeHomeserver(rooms={A: dict(PAIR if question == "members" else deserted)}, direct={PEER: listed})
    server.failures[question] = error
    if question == "profile":
        server.rooms = {}
    for _ in range(2):
        with pytest.raises(HomeserverError, match=str(error)):
            await finder(server).find_or_create_direct(PEER, known=A)
    assert set(server.rooms) <= {A}


@pytest.mark.parametrize("status", [403, 404])
async def test_room_that_we_are_not_in_is_replaced(status: int) -> None:
    server = FakeHomeserver(rooms={A: dict(PAIR)}, failures={"members": HomeserverError("no", status)})
    made: list[RoomId] = []

    async def create(user: UserId, as_user: UserId | None = None) -> RoomId:
        server.failures.clear()
        made.append(await FakeHomeserver.create_direct_room(server, user, as_user))
        return made[-1]

    server.create_direct_room = create  # type: ignore[method-assign]
    assert [await finder(server).find_or_create_direct(PEER, known=A)] == made


@pytest.mark.parametrize(("status", "is_made"), [(200, True), (502, True), (502, False), (403, True)])
async def test_room_whose_making_was_answered_by_somebody_else_is_used(status: int, is_made: bool) -> None:
    server = FakeHomeserver(rooms={A: {ME: "join", OTHER: "join"}})

    async def create(user: UserId, as_user: UserId | None = None) -> RoomId:
        if is_made:
            await FakeHomeserver.create_direct_room(server, user, as_user)
        raise HomeserverError("a page of a proxy", status)

    server.create_direct_room = create  # type: ignore[method-assign]
    if is_made and status != 403:
        assert await finder(server).find_or_create_direct(PEER) == "!new1:example.org"
        assert server.direct == {PEER: ["!new1:example.org"]}
    else:
        with pytest.raises(HomeserverError, match="page of a proxy"):
            await finder(server).find_or_create_direct(PEER)


async def test_stale_answer_makes_no_other_room_and_invites_nobody() -> None:
    """The bridge of the peer is the one that knows who is there."""
    server = FakeHomeserver(rooms={A: dict(PAIR)}, direct={PEER: [A]})
    server.honesty = Honesty.STALE
    server.rooms[A][PEER] = "leave"
    assert await finder(server).find_or_create_direct(PEER, known=A) == A
    assert (set(server.rooms), server.invited, server.left) == ({A}, [], [])


async def test_cancelled_search_leaves_its_room() -> None:
    server = FakeHomeserver(answers=None)
    rooms = DirectRooms(server, ME, clock=lambda: 0.0, sleep=lambda _: asyncio.Event().wait())  # type: ignore[arg-type]
    task = asyncio.create_task(rooms.find_or_create_direct(PEER))
    while not server.rooms:
        await asyncio.sleep(0)
    for _ in range(5):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert server.left == list(server.rooms)


# --- against a real homeserver


@pytest.mark.asyncio(loop_scope="session")
async def test_real_room_is_made_found_again_and_brought_back(
    bridge_world: BridgeWorld, bridge: Homeserver, make_person: MakePerson
) -> None:
    alice = await make_person()
    peer = bridge_world.peer()
    await bridge.register_user(peer)
    await bridge.set_displayname(peer, "A peer")
    welcome = {alice.user_id}

    async def answer(event: RoomEvent) -> None:
        if event.state_key == peer and event.content.get("membership") == "invite":
            await (bridge.join if event.sender in welcome else bridge.leave)(event.room_id, peer)

    bridge_world.receiver.handler = answer
    try:
        direct = DirectRooms(alice.homeserver, alice.user_id)
        room = await direct.find_or_create_direct(peer)
        assert await direct.find_or_create_direct(peer) == room
        assert await direct.find_or_create_direct(peer, known=room) == room
        assert await alice.homeserver.direct_rooms(alice.user_id) == {peer: [room]}
        await bridge.leave(room, peer)
        assert await direct.find_or_create_direct(peer) == room
        assert await alice.homeserver.joined_members(room) == {alice.user_id, peer}

        mallory = await make_person()
        with pytest.raises(DirectRoomError) as caught:
            await DirectRooms(mallory.homeserver, mallory.user_id).find_or_create_direct(peer)
        assert caught.value.failure is DirectFailure.DECLINED
        assert await mallory.homeserver.joined_rooms() == ()
    finally:
        bridge_world.receiver.handler = None


async def test_whoever_ends_the_wait_learns_whether_a_peer_is_all_that_is_missing() -> None:
    waiting = asyncio.Event()

    async def sleep(_seconds: float) -> None:
        waiting.set()
        await asyncio.Event().wait()

    direct = DirectRooms(FakeHomeserver(answers=None), ME, sleep=sleep)  # type: ignore[arg-type]
    assert not direct.awaits_join
    finding = asyncio.ensure_future(direct.find_or_create_direct(PEER))
    await waiting.wait()
    assert direct.awaits_join
    finding.cancel()
    await asyncio.wait([finding])


@pytest.mark.asyncio(loop_scope="session")
async def test_real_peers_that_do_not_exist_or_do_not_answer(
    bridge_world: BridgeWorld, bridge: Homeserver, make_person: MakePerson
) -> None:
    alice = await make_person()
    direct = DirectRooms(alice.homeserver, alice.user_id, join_timeout_s=0.3)
    silent = bridge_world.peer()
    with pytest.raises(DirectRoomError) as caught:
        await direct.find_or_create_direct(silent)
    assert caught.value.failure is DirectFailure.NO_SUCH_PEER
    await bridge.register_user(silent)
    with pytest.raises(DirectRoomError) as caught:
        await direct.find_or_create_direct(silent)
    assert caught.value.failure is DirectFailure.NO_ANSWER
    assert await alice.homeserver.joined_rooms() == ()


async def test_real_homeserver_that_encrypts_everything(make_homeserver: HomeserverFactory) -> None:
    synapse = await make_homeserver(extra_config={"encryption_enabled_by_default_for_room_type": "all"})
    for name in ("alice", "peer"):
        await synapse.register_user(name, "secret")
    login = await synapse.login("alice", "secret")
    from mxrtc_bridge.matrix.api.transport import Transport

    async with Homeserver(Transport(synapse.url, login.access_token)) as alice:
        direct = DirectRooms(alice, UserId(login.user_id))
        with pytest.raises(DirectRoomError) as caught:
            await direct.find_or_create_direct(UserId(synapse.user_id("peer")))
        assert caught.value.failure is DirectFailure.ENCRYPTED
        assert await alice.joined_rooms() == ()
