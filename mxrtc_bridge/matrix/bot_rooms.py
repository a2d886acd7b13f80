"""The rooms that the configuration names for the bot: joined, joined again, and left when they are named no more.

These are the only rooms of the bridge with any number of members. No calls are taken in them. Membership in one means
something only where a grant names the room, and a power level never does.

Never leaves a room because it could not find out which one is meant: while an alias has not been resolved, the bot
stays where it is. What could not be joined is tried again with growing pauses, and at each invitation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.homeserver import RoomFacts
from mxrtc_bridge.matrix.member_lists import MemberLists

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 3600.0
"""Between two attempts to join what could not be joined."""


class RoomServer(Protocol):
    """What this module needs of the homeserver."""

    async def resolve_alias(self, alias: str, as_user: UserId | None = None) -> RoomId: ...

    async def join(self, room: RoomId, as_user: UserId | None = None) -> None: ...

    async def join_alias(self, alias: str, as_user: UserId | None = None) -> RoomId: ...

    async def leave(self, room: RoomId, as_user: UserId | None = None, reason: str | None = None) -> None: ...

    async def room_facts(self, room: RoomId, as_user: UserId | None = None) -> RoomFacts: ...


class Learner(Protocol):
    """Wants to know more of the rooms that the bot is in."""

    async def learn(self, room: RoomId) -> float | None:
        """Ask; returns after how many seconds the room must be asked for again, or None."""
        ...


class BotRooms:
    """The named rooms of one bot. After making them you should run :meth:`run` in a task."""

    def __init__(
        self,
        homeserver: RoomServer,
        bot: UserId,
        named: Mapping[str, str] | None = None,
        members: MemberLists | None = None,
        learners: Sequence[Learner] = (),
        entered: Callable[[RoomId, bool], None] = lambda _room, _unsure: None,
    ) -> None:
        """Nothing is sent before :meth:`enter`.

        Args:
            homeserver: acts as the bot.
            bot: the user that joins.
            named: room ids or aliases by what the room is for.
            members: keeps the members of the rooms.
            learners: read what they need of each room before it counts as joined.
            entered: told of each room that counts as joined, and whether what was learned must be asked for again.
        """
        self._entered = entered
        self._learners = learners if members is None else (members, *learners)
        self._members = members
        self._homeserver = homeserver
        self._bot = bot
        self._named = dict(named or {})
        self._ids: dict[str, RoomId] = {}
        """Which room an alias or id stands for; an alias that was resolved once keeps its room until the next start."""
        self._joined: set[RoomId] = set()
        self._encrypted: set[RoomId] = set()
        self._told: dict[str, str] = {}
        """The last failure of each name: the same one is logged once."""
        self._unleft: set[RoomId] = set()
        """Rooms that are named no more, and are left at the next reload if not before; of them there are few."""
        self._removed_lately: set[RoomId] = set()
        """Named rooms that the bot was removed from since it last tried to enter them."""
        self._unread: set[RoomId] = set()
        """Rooms in which something could not be read: perhaps that they are encrypted now."""
        self._stirred: set[RoomId] = set()
        """Rooms that are being entered, in which something has happened meanwhile."""
        self._wanted_now: frozenset[RoomId] | None = None
        self._missing = asyncio.Event()
        self._entering = asyncio.Lock()

    def room(self, purpose: str) -> RoomId | None:
        """The room for ``purpose`` if the bot is in it."""
        name = self._named.get(purpose)
        room = None if name is None else self._ids.get(name)
        return room if room in self._joined else None

    def is_for(self, user: UserId) -> bool:
        """Whether ``user`` is the bot."""
        return user == self._bot

    def is_named(self, room: RoomId) -> bool:
        """Whether ``room`` is one of the named ones; the bot may be in it or not."""
        return room in self._wanted()

    def keeps(self, user: UserId, room: RoomId) -> bool:
        """Whether ``user`` must not leave ``room``: it is named, or may be what an unresolved alias stands for."""
        unresolved = any(name not in self._ids for name in self._named.values())
        return self.is_for(user) and (unresolved or self.is_named(room))

    def speaker_in(self, room: RoomId) -> UserId | None:
        """The bot, if it is in this named room."""
        return self._bot if room in self._joined else None

    def is_encrypted(self, room: RoomId) -> bool | None:
        """Whether what is sent to a named room must be encrypted; None if the bot is not in it."""
        return room in self._encrypted if room in self._joined else None

    def now_encrypted(self, room: RoomId) -> None:
        """Take into account that a room is encrypted from now on, for good."""
        if self.is_named(room):
            self._encrypted.add(room)

    async def enter(self) -> None:
        """Join what is named and not joined yet. Failures are logged only."""
        async with self._entering:
            for purpose, name in tuple(self._named.items()):
                if self._ids.get(name) in self._joined:
                    continue
                try:
                    await self._enter(name)
                except HomeserverError as error:
                    self._missing.set()
                    if self._told.get(name) != str(error):
                        self._told[name] = str(error)
                        logger.warning(
                            "! %s is not in the room for %s (%s): %s; invite it", self._bot, purpose, name, error
                        )
                else:
                    self._told.pop(name, None)
                    logger.info("%s is in the room for %s", self._bot, purpose)

    async def _enter(self, name: str) -> None:
        if name.startswith("!"):
            self._ids[name] = RoomId(name)
            self._removed_lately.discard(RoomId(name))
            await self._homeserver.join(RoomId(name), self._bot)
        else:
            if name not in self._ids:
                self._ids[name] = await self._homeserver.resolve_alias(name, self._bot)
                self._wanted_now = None
            self._removed_lately.discard(self._ids[name])
            # By the alias: it tells the homeserver which servers to ask for a room that it does not know.
            self._ids[name] = await self._homeserver.join_alias(name, self._bot)
        room = self._ids[name]
        self._wanted_now = None
        self._stirred.discard(room)
        # Before anything is sent there.
        facts = await self._homeserver.room_facts(room, self._bot)
        if facts.encrypted:
            self._encrypted.add(room)
        unsure = [await learner.learn(room) is not None for learner in self._learners]
        if room in self._removed_lately:
            raise HomeserverError("it was removed from there just now", 403, "M_FORBIDDEN")
        self._joined.add(room)
        self._unleft.discard(room)
        self._entered(room, any(unsure) or room in self._stirred)

    async def reload(self, named: Mapping[str, str]) -> None:
        """Take over other names: join the new ones and leave what is named no more."""
        self._named = dict(named)
        self._wanted_now = None
        await self.enter()
        for room in tuple(self._joined - self._wanted()):
            self._forget(room)
            self._unleft.add(room)
        for room in tuple(self._unleft - self._wanted()):
            try:
                await self._homeserver.leave(room, self._bot)
            except HomeserverError as error:
                logger.warning("! %s did not leave %s: %s", self._bot, room, error)
                if error.retryable:
                    continue
            self._unleft.discard(room)

    async def invited(self, room: RoomId) -> bool:
        """Join if ``room`` is a named one, whoever invites; returns whether it is."""
        if room not in self._wanted() and any(name not in self._ids for name in self._named.values()):
            await self.enter()
        if room not in self._wanted():
            return False
        # Perhaps it is in the room all the same: any other homeserver can send an invitation to a room whose id it
        # knows, and nobody must lose a right by that.
        if room in self._joined and self._members is not None:
            await self.learn_again(room, self._members)
        await self.enter()
        return True

    def look(self, room: RoomId, user: UserId, *, joined: bool) -> bool:
        """Take news of a membership in a named room into account as soon as they arrive.

        Returns:
            Whether the homeserver must be asked who is in the room now.
        """
        self.stir(room)
        if user != self._bot:
            return self._members is not None and self._members.look(room, user, joined=joined)
        if not joined and self.is_named(room):
            self._removed_lately.add(room)
            self._removed(room)
        return False

    def stir(self, room: RoomId) -> None:
        """Something has happened in a room: while it is being entered, what was asked for may be older than that."""
        if room not in self._joined and self.is_named(room):
            self._stirred.add(room)

    def named(self) -> frozenset[RoomId]:
        """The named rooms, as far as it is known which ones they are."""
        return self._wanted()

    def joined(self) -> frozenset[RoomId]:
        """The named rooms that the bot is in."""
        return frozenset(self._joined)

    def could_not_read(self, room: RoomId) -> None:
        """Something in a named room could not be read; :meth:`learn_again` finds out what it may have changed."""
        self.stir(room)
        if self.is_named(room):
            self._unread.add(room)

    async def learn_again(self, room: RoomId, learner: Learner) -> float | None:
        """Ask once more for what a learner knows of a room, while the bot is in it.

        Raises:
            HomeserverError: the homeserver did not say; what is known stays.
        """
        if room not in self._joined:
            return None
        try:
            if room in self._unread:
                if (await self._homeserver.room_facts(room, self._bot)).encrypted:
                    self._encrypted.add(room)
                self._unread.discard(room)
            return await learner.learn(room)
        except HomeserverError as error:
            if error.status not in (403, 404):
                raise
            # It was removed, and nobody has said so.
            self._removed(room)
            return None

    def _forget(self, room: RoomId) -> None:
        self._joined.discard(room)
        if self._members is not None:
            self._members.forget(room)

    def _removed(self, room: RoomId) -> None:
        if room in self._joined:
            self._forget(room)
            self._missing.set()
            logger.warning("! %s is not in the named room %s any more; invite it again", self._bot, room)

    async def run(self) -> None:
        """Try again what could not be joined, until cancelled."""
        pause_s = FIRST_PAUSE_S
        while True:
            await self._missing.wait()
            self._missing.clear()
            await asyncio.sleep(pause_s)
            await self.enter()
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S) if self._missing.is_set() else FIRST_PAUSE_S

    def _wanted(self) -> frozenset[RoomId]:
        if self._wanted_now is None:
            resolved = {self._ids[name] for name in self._named.values() if name in self._ids}
            self._wanted_now = frozenset(resolved | {RoomId(name) for name in self._named.values() if name[:1] == "!"})
        return self._wanted_now
