"""The rooms that the configuration names for the bot: joined, joined again, and left when they are named no more.

These are the only rooms of the bridge with any number of members. No calls are taken in them. Membership in one means
something only where a grant names the room, and a power level never does.

Never leaves a room because it could not find out which one is meant: while an alias has not been resolved, the bot
stays where it is. What could not be joined is tried again with growing pauses, and at each invitation. No room waits
for another one: the homeserver of one of them may not answer.

A room that another one has taken the place of is followed there (:mod:`.successions`), and the bot stays in the old
one, by which it finds the new one again. An alias is resolved anew at each reload, and when the bot is invited.

One file: for each name, which room it means and whether the bot is in it is one state.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Protocol

from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.side_by_side import each
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver, RoomFacts
from mxrtc_bridge.matrix.rooms.members import MemberLists
from mxrtc_bridge.matrix.rooms.successions import Successions

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 30.0
LONGEST_PAUSE_S = 3600.0
"""Between two attempts to join what could not be joined."""
ENTER_S = 5.0
"""How long one room may take, to be joined or left, while somebody waits for it."""
ALL_S = 15.0
"""How long all of them together may."""
AT_ONCE = 8
"""Rooms that are joined or left at the same time."""
LOOK_EVERY_S = 10.0
"""Aliases are resolved anew at most this often because strangers send invitations: anybody can."""
LOOK_EVERY_WITH_RIGHT_S = 1.0
"""The same for those with a right, whose invitations are few: a stranger's must not keep the bot from following."""


class Learner(Protocol):
    """Wants to know more of the rooms that the bot is in."""

    async def learn(self, room: RoomId) -> float | None:
        """Ask; returns after how many seconds the room must be asked for again, or None."""
        ...


class BotRooms:
    """The named rooms of one bot. After making them you should run :meth:`run` in a task."""

    def __init__(
        self,
        homeserver: QuietHomeserver,
        bot: UserId,
        named: Mapping[str, str],
        members: MemberLists,
        learners: Sequence[Learner] = (),
        entered: Callable[[RoomId, bool], None] = lambda _room, _unsure: None,
        follow: Callable[[RoomId, RoomId], None] = lambda _old, _new: None,
        *,
        enter_s: float = ENTER_S,
        all_s: float = ALL_S,
        monotonic: Callable[[], float] = elapsed_s,
    ) -> None:
        """Nothing is sent before :meth:`enter`.

        Args:
            homeserver: acts as the bot.
            bot: the user that joins.
            named: room ids or aliases by what the room is for.
            members: keeps the members of the rooms.
            learners: read what they need of each room before it counts as joined.
            entered: told of each room that counts as joined, and whether what was learned must be asked for again.
            follow: told of a room that takes the place of another one, before what is needed of it is read.
            all_s: See :data:`ALL_S`.
            enter_s: See :data:`ENTER_S`.
            monotonic: seconds.
        """
        self._all_s = all_s
        self._enter_s = enter_s
        self._follow = follow
        self._monotonic = monotonic
        self._looked_at = dict.fromkeys((False, True), float("-inf"))
        """When aliases were resolved anew because of an invitation of somebody without or with a right."""
        self._unleft: set[RoomId] = set()
        """Rooms that are named no more, and are left at the next reload if not before; of them there are few."""
        # Whoever may end one room must not have the bot leave another that is named: that is seen when it is left.
        self.successions = Successions(homeserver, bot, self._unleft.add)
        self._entered = entered
        self._learners = (members, *learners)
        self._members = members
        self._homeserver = homeserver
        self._bot = bot
        self._named = dict(named)
        self._ids: dict[str, RoomId] = {}
        """Which room an alias or id stands for."""
        self._resolved: dict[str, RoomId] = {}
        """Which room an alias has led to, where perhaps another one has taken its place."""
        self._unfollowed: set[str] = set()
        """Names of rooms that the bot is in, of which it is not known yet whether others have taken their place."""
        self._anew: set[str] = set()
        """Names that the bot is in a room for, and that perhaps mean another one now."""
        self._joined: set[RoomId] = set()
        self._encrypted: set[RoomId] = set()
        self._told: dict[str, str] = {}
        """The last failure of each name: the same one is logged once."""
        self._removed_lately: set[RoomId] = set()
        """Named rooms that the bot was removed from since it last tried to enter them."""
        self._unread: set[RoomId] = set()
        """Rooms in which something could not be read: perhaps that they are encrypted now."""
        self._unsure: set[RoomId] = set()
        """Rooms of which what was learned must be asked for again."""
        self._stirred: set[RoomId] = set()
        """Rooms that are being entered, in which something has happened meanwhile."""
        self._wanted_now: frozenset[RoomId] | None = None
        self._missing = asyncio.Event()
        self._entering: dict[str, asyncio.Lock] = {}
        """Held while a room is being entered, by name."""
        self._late: set[str] = set()
        """Names of rooms that others have stopped to wait for."""
        self._trying: dict[str, asyncio.Task[None]] = {}
        self._pausing: set[str] = set()
        """Those of them that are between two attempts."""
        self._turns = asyncio.Semaphore(AT_ONCE)

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
        unresolved = any(name not in self._ids or name in self._unfollowed for name in self._named.values())
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

    def name(self, named: Mapping[str, str]) -> None:
        """Take over other names before the first :meth:`enter`, which joins their rooms."""
        self._named = dict(named)
        self._wanted_now = None

    async def enter(self) -> None:
        """Join what is named and not joined yet, side by side. Failures are logged only.

        Takes :data:`ENTER_S` for each room and :data:`ALL_S` for all of them at most: a homeserver somewhere that does
        not answer keeps nobody from anything else. What is not in by then goes on in :meth:`run`.
        """
        try:
            async with asyncio.timeout(self._all_s):
                await each(self._not_in(), lambda name: self._try(name, self._enter_s), AT_ONCE)
        except TimeoutError:
            self._late.update(self._not_in())
            self._missing.set()

    def _not_in(self) -> list[str]:
        """The names of the rooms that the bot is not in, or perhaps not in the right one."""
        return [
            name
            for name in dict.fromkeys(self._named.values())
            if name in self._anew or self._ids.get(name) not in self._joined
        ]

    async def _try(self, name: str, limit_s: float | None = None) -> None:
        """Enter one room, unless that is done; one attempt at a time."""
        try:
            async with asyncio.timeout(limit_s), self._entering.setdefault(name, asyncio.Lock()):
                if name not in self._not_in():
                    return
                await self._enter(name)
        except TimeoutError:
            self._late.add(name)
            self._failed(name, "it takes long; trying on")
        except HomeserverError as error:
            self._failed(name, f"{error}; {'trying again' if error.retryable else 'invite it'}")
        else:
            self._told.pop(name, None)
            self._late.discard(name)
            log.info("%s is in the room for %s", self._bot, self._purpose(name))

    def _failed(self, name: str, why: str) -> None:
        self._missing.set()
        if self._told.get(name) != why:
            self._told[name] = why
            log.warning("! %s is not in the room for %s (%s): %s", self._bot, self._purpose(name), name, why)

    def _purpose(self, name: str) -> str:
        return next((purpose for purpose, each_name in self._named.items() if each_name == name), "nothing any more")

    async def _enter(self, name: str) -> None:
        joined = await self._join(name)
        self._unfollowed.add(name)
        way, why_no_further = await self.successions.follow(joined)
        self._unfollowed.discard(name)
        for room, facts in way:
            await self._learn(room, facts)
        for (old, _), (new, _) in itertools.pairwise(way):
            if self.successions.now(old) != self.successions.now(new):
                log.warning("! %s, the room for %s, was replaced by %s, which it is now", old, self._purpose(name), new)
            self.successions.note(old, new)
        # Also where the bot was removed from the new one: the old one does not count again by that.
        before, now = self._ids.get(name), self.successions.now(way[-1][0])
        self._ids[name] = now
        self._wanted_now = None
        if before is not None and before != now and before not in self._kept():
            self._forget(before)
            self._unleft.add(before)
        for room, _ in way:
            self._entered(room, room in self._unsure or room in self._stirred)
            self._unsure.discard(room)
        if why_no_further:
            self._anew.add(name)
            await self._leave_unnamed()
            raise HomeserverError(why_no_further, HTTPStatus.FORBIDDEN)
        self._anew.discard(name)

    async def _join(self, name: str) -> RoomId:
        """Join the room that a name stands for, which perhaps another one has taken the place of."""
        if name.startswith("!"):
            room = RoomId(name)
            self._ids.setdefault(name, room)
            self._removed_lately.discard(room)
            if room not in self._joined:
                await self._homeserver.join(room, self._bot)
            return room
        if name not in self._ids or name in self._anew:
            room = await self._homeserver.resolve_alias(name, self._bot)
            self._ids.setdefault(name, room)
            self._wanted_now = None
        else:
            room = self._resolved.get(name, self._ids[name])
        self._removed_lately.discard(room)
        self.successions.joining.add(room)
        try:
            # By the alias: it tells the homeserver which servers to ask for a room that it does not know.
            self._resolved[name] = await self._homeserver.join_alias(name, self._bot)
        finally:
            self.successions.joining.discard(room)
        return self._resolved[name]

    async def _learn(self, room: RoomId, facts: RoomFacts) -> None:
        """Read what must be known of a room before anything is sent there; then it counts as joined."""
        self._stirred.discard(room)
        self.successions.joining.add(room)
        try:
            if facts.encrypted:
                self._encrypted.add(room)
            if facts.predecessor in self._joined:
                self._follow(facts.predecessor, room)
            unsure = [await learner.learn(room) is not None for learner in self._learners]
            if room in self._removed_lately:
                raise HomeserverError("it was removed from there just now", 403, "M_FORBIDDEN")
        finally:
            self.successions.joining.discard(room)
        self._joined.add(room)
        self._unleft.discard(room)
        if any(unsure):
            self._unsure.add(room)

    async def reload(self, named: Mapping[str, str]) -> None:
        """Take over other names: join the new ones and leave what is named no more."""
        self.name(named)
        for name in self._entering.keys() - set(named.values()):
            if not self._entering[name].locked():
                del self._entering[name]
        self._anew.intersection_update(named.values())
        await self._look_again()
        await self.enter()
        for room in tuple(self._joined - self._kept()):
            self._forget(room)
            self._unleft.add(room)
        await self._leave_unnamed()

    async def _leave_unnamed(self) -> None:
        if any(name not in self._ids or name in self._unfollowed for name in self._named.values()):
            return  # Perhaps it is the room of one that is named no more.
        await each(tuple(self._unleft - self._kept()), self._leave, AT_ONCE)

    async def _leave(self, room: RoomId) -> None:
        try:
            async with asyncio.timeout(self._enter_s):
                await self._homeserver.leave(room, self._bot)
        except TimeoutError:
            log.warning("! %s did not leave %s within %g s", self._bot, room, self._enter_s)
        except HomeserverError as error:
            log.warning("! %s did not leave %s: %s", self._bot, room, error)
            if error.is_outside:  # It is not there.
                self._unleft.discard(room)
        else:
            self._unleft.discard(room)

    async def invited(self, room: RoomId, *, has_right: bool = False) -> bool:
        """Join if ``room`` is a named one, whoever invites; returns whether it is.

        Args:
            room: the room.
            has_right: whether whoever invites has any right.
        """
        if room not in self._wanted():
            now, every_s = self._monotonic(), LOOK_EVERY_WITH_RIGHT_S if has_right else LOOK_EVERY_S
            if now - self._looked_at[has_right] >= every_s:
                self._looked_at[has_right] = now
                await self._look_again()
            awaited = self.successions.is_awaited(room)
            names = [name for name in self._not_in() if awaited or name not in self._ids or not name.startswith("!")]
            await each(names, lambda name: self._try(name, self._enter_s), AT_ONCE)
            await self._leave_unnamed()
        if room not in self._wanted():
            return False
        # Perhaps it is in the room all the same: any other homeserver can send an invitation to a room whose id it
        # knows, and nobody must lose a right by that.
        await self.learn_again(room, self._members)
        names = [name for name in self._not_in() if self._ids.get(name, name) == room]
        await each(names, lambda name: self._try(name, self._enter_s), AT_ONCE)
        return True

    async def _look_again(self) -> None:
        """Find out which aliases mean another room now; what cannot be found out stays as it is."""

        async def look(name: str) -> None:
            try:
                async with asyncio.timeout(self._enter_s):
                    room = await self._homeserver.resolve_alias(name, self._bot)
            except (TimeoutError, HomeserverError) as error:
                log.debug("%s was not resolved anew: %r", name, error)
                return
            if room != self._resolved[name]:
                self._anew.add(name)

        await each([name for name in dict.fromkeys(self._named.values()) if name in self._resolved], look, AT_ONCE)

    def replaced(self, room: RoomId) -> None:
        """Another room has perhaps taken the place of this one; :meth:`run` finds out."""
        names = {name for name in self._named.values() if room in (self._ids.get(name), name)}
        self._anew |= names
        self._late |= names
        self._missing.set()

    def look(self, room: RoomId, user: UserId, *, joined: bool) -> bool:
        """Take news of a membership in a named room into account as soon as they arrive.

        Returns:
            Whether the homeserver must be asked who is in the room now.
        """
        self.stir(room)
        if user != self._bot:
            return self._members.look(room, user, joined=joined)
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
            if not error.is_outside:
                raise
            # It was removed, and nobody has said so.
            self._removed(room)
            return None

    def _forget(self, room: RoomId) -> None:
        self._joined.discard(room)
        self._members.forget(room)

    def _removed(self, room: RoomId) -> None:
        if room in self._joined:
            self._forget(room)
            self._missing.set()
            log.warning("! %s is not in the named room %s any more; invite it again", self._bot, room)

    async def run(self) -> None:
        """Try again what could not be joined, each room by itself, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                await self._missing.wait()
                self._missing.clear()
                for name in self._not_in():
                    task = self._trying.get(name)
                    if task is not None and name in self._late and name in self._pausing:
                        # It has run out of time just now, and not for the first time.
                        task.cancel()
                        task = None
                    if task is None:
                        self._trying[name] = tasks.create_task(self._try_on(name), name="room of the bot")

    async def _try_on(self, name: str) -> None:
        failures = 1  # It is tried here because it has failed.
        try:
            while name in self._not_in():
                if name not in self._late:
                    self._pausing.add(name)
                    await asyncio.sleep(Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S).pause_s(failures))
                    self._pausing.discard(name)
                    failures += 1
                async with self._turns:
                    await self._try(name)
                self._late.discard(name)
            await self._leave_unnamed()
        finally:
            if self._trying.get(name) is asyncio.current_task():
                del self._trying[name]
                self._pausing.discard(name)
                self._late.discard(name)
                if name in self._not_in():
                    self._missing.set()  # It was removed again meanwhile.

    def _kept(self) -> frozenset[RoomId]:
        """The rooms that the bot must not leave: the named ones, and those by which it finds them again."""
        begins = (RoomId(name) if name[:1] == "!" else self._resolved.get(name) for name in self._named.values())
        return self._wanted().union(*(self.successions.way(room) for room in begins if room is not None))

    def _wanted(self) -> frozenset[RoomId]:
        if self._wanted_now is None:
            resolved = {self._ids[name] for name in self._named.values() if name in self._ids}
            self._wanted_now = frozenset(resolved | {RoomId(name) for name in self._named.values() if name[:1] == "!"})
        return self._wanted_now | self.successions.joining if self.successions.joining else self._wanted_now
