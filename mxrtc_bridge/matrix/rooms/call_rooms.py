"""The user's room with a peer: found again, or made.

Must never use a room with anybody else in it, never leave a trail of dead rooms behind, and never keep the user waiting
without saying what for.

How it works: rooms that may be it (remembered, or listed in the account data ``m.direct``) are checked by their joined
members. A room in which only the user is left takes the peer back in, because peers leave rooms that idle. Otherwise a
room is created, the peer invited, and its membership watched: a join is what we want, a leave means declined, and no
answer means that nobody is there to answer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.core.text.foreign_json import list_inside
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver, rooms_with

log = logging.getLogger(__name__)

JOIN_TIMEOUT_S = 20.0
MAX_CANDIDATE_ROOMS = 8
"""Rooms listed in ``m.direct`` that are looked at, newest first."""
MAX_LISTED_ROOMS = 64
"""Rooms that we let ``m.direct`` list for one peer."""
_FIRST_LOOK_S = 0.05
_LOOK_EVERY_S = 0.5
_ABANDON_S = 5.0


class DirectFailure(Enum):
    """Why there is no room with the peer."""

    NO_SUCH_PEER = "no_such_peer"
    DECLINED = "declined"
    NO_ANSWER = "no_answer"
    ENCRYPTED = "encrypted"


class DirectRoomError(HomeserverError):
    """There is no usable room with the peer; ``failure`` says why, and ``retryable`` whether to try again."""

    def __init__(self, failure: DirectFailure, message: str) -> None:
        # A status makes the difference between "try again" and "never", as for other failures of the homeserver.
        super().__init__(message, 0 if failure is DirectFailure.NO_ANSWER else 403)
        self.failure = failure


class DirectRooms:
    """Finds or makes the rooms of one user with peers."""

    def __init__(
        self,
        homeserver: QuietHomeserver,
        me: UserId,
        *,
        join_timeout_s: float = JOIN_TIMEOUT_S,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """Make the finder.

        Args:
            homeserver: the homeserver, with the user's token.
            me: the user.
            join_timeout_s: seconds that a peer has to join.
            clock: monotonic seconds.
            sleep: waits between looks.
        """
        self._homeserver = homeserver
        self._me = me
        self._join_timeout_s = join_timeout_s
        self.awaits_join = False
        """Whether all that is missing is that an invited peer joins."""
        self._clock = clock
        self._sleep = sleep

    async def find_or_create_direct(self, peer: UserId, *, known: RoomId | None = None) -> RoomId:
        """Return a room that holds exactly the user and the peer.

        Args:
            peer: the peer.
            known: the room that served last time, if the caller remembers one.

        Raises:
            DirectRoomError: there is no such peer, it declined, nobody answers, or the server encrypts every room.
            HomeserverError: the homeserver failed or refused otherwise.
        """
        if known is not None and await self._joined(known) == {self._me, peer} and not await self._encrypted(known):
            return known
        direct = await self._homeserver.direct_rooms(self._me)
        found = await self._find(peer, direct, known)
        if found is not None:
            return found
        await self._check_exists(peer)
        room = await self._create(peer)
        await self._list(peer, room)
        return room

    # --- rooms that exist

    async def _find(self, peer: UserId, direct: Mapping[str, object], known: RoomId | None) -> RoomId | None:
        candidates = list(rooms_with(direct, peer, MAX_CANDIDATE_ROOMS))
        if known is not None and known not in candidates:
            candidates.insert(0, known)
        mine = frozenset(await self._homeserver.joined_rooms()) if candidates else frozenset()
        deserted: list[RoomId] = []
        for room in candidates:
            if room not in mine or await self._encrypted(room):
                continue
            members = await self._joined(room)
            if members == {self._me, peer}:
                return room
            if members == {self._me}:
                deserted.append(room)
        for room in deserted[:1]:
            if await self._bring_back(room, peer):
                return room
        return None

    async def _bring_back(self, room: RoomId, peer: UserId) -> bool:
        """Invite a peer that left; False when this room will not do and a new one may."""
        if await self._homeserver.membership(room, peer) != "invite":
            try:
                await self._homeserver.invite(room, peer)
            except HomeserverError as error:
                if not error.is_refusal:
                    raise
                log.debug("%s cannot be invited to %s again: %s", peer, room, error)
                return False
        await self._wait_for_join(room, peer)
        return True

    async def _joined(self, room: RoomId) -> frozenset[UserId]:
        """The joined members, or nobody where we may not look because we are not in the room.

        Raises:
            HomeserverError: anything else, also an answer that cannot be read: each of them would make another room.
        """
        try:
            return await self._homeserver.joined_members(room)
        except HomeserverError as error:
            if not error.is_outside:
                raise
            return frozenset()

    async def _encrypted(self, room: RoomId) -> bool:
        return await self._homeserver.state(room, "m.room.encryption") is not None

    # --- a new room

    async def _check_exists(self, peer: UserId) -> None:
        try:
            await self._homeserver.displayname(peer)
        except HomeserverError as error:
            if error.status == 404 and error.is_outside:
                raise DirectRoomError(
                    DirectFailure.NO_SUCH_PEER,
                    f"there is no user {peer}; check the name of the peer, and whether its bridge has ever run",
                ) from error
            if not (error.is_refusal or error.errcode == "M_UNRECOGNIZED"):
                raise
            # Some servers hide profiles of users that one shares no room with: then the invitation decides.

    async def _create(self, peer: UserId) -> RoomId:
        before = frozenset(await self._homeserver.joined_rooms())
        try:
            room = await self._homeserver.create_direct_room(peer)
        except HomeserverError as error:
            made = None if error.is_refusal else await self._made_unnamed(peer, before)
            if made is None:
                raise
            room = made
        try:
            if await self._encrypted(room):
                raise DirectRoomError(
                    DirectFailure.ENCRYPTED,
                    "your homeserver encrypts every new private room, and mxrtc calls from plain rooms or by devices; "
                    "the bridge's encryption may be off: --signal device says more",
                )
            await self._wait_for_join(room, peer)
        except (HomeserverError, asyncio.CancelledError):
            await self._abandon(room)
            raise
        return room

    async def _made_unnamed(self, peer: UserId, before: frozenset[RoomId]) -> RoomId | None:
        """The room that was made although its answer was lost, as a proxy has replaced it; else each call makes one."""
        try:
            for room in frozenset(await self._homeserver.joined_rooms()) - before:
                if await self._homeserver.membership(room, peer) in ("invite", "join"):
                    return room
        except HomeserverError as error:
            log.debug("whether there is a new room is not known: %s", error)
        return None

    async def _abandon(self, room: RoomId) -> None:
        try:
            async with asyncio.timeout(_ABANDON_S):
                await self._homeserver.leave(room)
        except (HomeserverError, TimeoutError) as error:
            log.debug("the unused room %s could not be left: %s", room, error)

    async def _wait_for_join(self, room: RoomId, peer: UserId) -> None:
        deadline = self._clock() + self._join_timeout_s
        pause = _FIRST_LOOK_S
        while True:
            membership = await self._homeserver.membership(room, peer)
            self.awaits_join = membership == "invite"
            if membership == "join":
                break
            if membership in ("leave", "ban"):
                raise _declined(peer)
            if self._clock() >= deadline:
                raise DirectRoomError(
                    DirectFailure.NO_ANSWER,
                    f"{peer} did not join within {self._join_timeout_s:g} seconds; its bridge is probably not running",
                )
            await self._sleep(pause)
            pause = min(pause * 1.5, _LOOK_EVERY_S)
        # A peer joins to look at the room, and leaves again if it does not like what it sees.
        if await self._homeserver.joined_members(room) != {self._me, peer}:
            raise _declined(peer)

    async def _list(self, peer: UserId, room: RoomId) -> None:
        """Add the room to ``m.direct``, so that other clients show it as a chat with the peer, and we find it again."""
        try:
            direct = dict(await self._homeserver.direct_rooms(self._me))
            rooms = [item for item in list_inside(direct, peer) if item != room]
            direct[peer] = [*rooms[-(MAX_LISTED_ROOMS - 1) :], room]
            await self._homeserver.set_direct_rooms(self._me, direct)
        except HomeserverError as error:
            log.info("the room is not listed as a direct chat: %s", error)


def _declined(peer: UserId) -> DirectRoomError:
    return DirectRoomError(
        DirectFailure.DECLINED,
        f"{peer} declined the invitation; as a rule this means that the bridge's admin has not granted you its use",
    )
