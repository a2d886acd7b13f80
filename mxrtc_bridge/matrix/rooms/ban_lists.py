"""Reads the policy lists that the admin has named, and follows them.

A list is read when the bot has joined its room and at every start, before calls are taken, and once more whenever
something has happened in it. An event only ever adds a rule, when it arrives; that a rule was replaced, taken back or
redacted is believed when the homeserver's answer says so. What is known stays in force while the bot cannot see the
room, also over a restart; only a list that the configuration names no more is forgotten. A list that could never be
read denies nobody, and the log says so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from mxrtc_bridge.core.access.ban_lists import MAX_RULES, RULE_TYPES, BanRules, ListRule, RuleKey, parse_rule
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.rooms.refresh import SETTLE_S

log = logging.getLogger(__name__)

MAX_ARRIVED = 2000
"""Rules of one list that have arrived and are not in an answer yet; those beyond count with the next answer."""
MAX_SINGLE = 20
"""Changed rules of one answer that are written one by one; where there are more, the list is written anew."""
_ARRIVED = "arrived "
"""In front of the type of a rule that is known by its event only, so that it stands beside the one that it replaces."""


class RuleMemory(Protocol):
    """Keeps the rules over a restart; every method may raise StorageError."""

    async def load(self, rooms: Collection[RoomId], /) -> Mapping[RoomId, Sequence[tuple[RuleKey, ListRule]]]: ...

    async def replace(self, room: RoomId, rules: Iterable[tuple[RuleKey, ListRule]], /) -> None: ...

    async def set_rule(self, room: RoomId, key: RuleKey, rule: ListRule | None, /) -> None: ...


class BanLists:
    """The lists of one bot.

    Args:
        homeserver: acts as the bot.
        bot: who sees.
        memory: keeps what is known.
        rooms: that are lists.
        changed: called after each change; must not block.
        monotonic: seconds.
    """

    def __init__(
        self,
        homeserver: QuietHomeserver,
        bot: UserId,
        memory: RuleMemory,
        rooms: Collection[RoomId],
        changed: Callable[[], None],
        monotonic: Callable[[], float] = elapsed_s,
    ) -> None:
        self._homeserver = homeserver
        self._bot = bot
        self._memory = memory
        self._rooms = frozenset(rooms)
        self._changed = changed
        self._lists = BanRules()
        self._monotonic = monotonic
        self._arrived: dict[RoomId, dict[RuleKey, tuple[ListRule, float]]] = {}
        """Rules that no answer has held yet, and when they came."""
        self._reading: dict[RoomId, asyncio.Lock] = {}
        self._seldom = RateLimitedLog(log)

    def denial(self, user: UserId) -> str | None:
        """The rule that denies ``user`` everything, or None."""
        return self._lists.denial(user)

    def reload(self, rooms: Collection[RoomId]) -> None:
        """Take over which rooms are lists; those that are new are read when the bot joins them."""
        self._rooms = frozenset(rooms)
        gone = self._lists.rooms() - self._rooms
        for room in gone:
            self._arrived.pop(room, None)
            self._lists.drop(room)
        for room in self._reading.keys() - self._rooms:
            if not self._reading[room].locked():
                del self._reading[room]
        if gone:
            self._changed()

    async def recall(self) -> None:
        """Take over what was known at the end of the last run; to be called once, before anything else.

        Raises:
            StorageError: the database cannot be read.
        """
        for room, rules in (await self._memory.load(self._rooms)).items():
            self._lists.replace(room, rules)

    async def learn(self, room: RoomId) -> float | None:
        """Read a list, if ``room`` is one.

        Returns:
            After how many seconds it must be read again, because the answer may be too old; or None.

        Raises:
            HomeserverError: the homeserver did not give it; what was known stays in force.
        """
        if room not in self._rooms:
            return None
        async with self._reading.setdefault(room, asyncio.Lock()):
            return await self._learn(room) if room in self._rooms else None

    async def _learn(self, room: RoomId) -> float | None:
        began = self._monotonic()
        state = await self._homeserver.all_state(room, RULE_TYPES, self._bot)
        if room not in self._rooms:
            return None
        before = dict(self._lists.rules(room))
        parsed = [((kind, key), parse_rule(kind, content)) for kind, key, content in state]
        rules = {key: rule for key, rule in parsed if rule is not None}
        # The answer may be older than some of the events: what they said stays until it is in one, or it has had time.
        arrived = {
            (kind, key): (rule, when)
            for (kind, key), (rule, when) in self._arrived.pop(room, {}).items()
            if when > began - SETTLE_S and rules.get((kind.removeprefix(_ARRIVED), key)) != rule
        }
        if arrived:
            self._arrived[room] = arrived
        early = {key: rule for key, (rule, _) in arrived.items()}
        if not self._lists.replace(room, [*early.items(), *rules.items()]):
            self._seldom.warning(
                room, "! the policy list %s has more than %d rules; those beyond are not used", room, MAX_RULES
            )
        if unusable := self._lists.unusable(room):
            self._seldom.warning(
                room, "! %d rules of the policy list %s have too many wildcards and deny nobody", unusable, room
            )
        after = dict(self._lists.rules(room))
        if set(before.values()) != set(after.values()):
            self._seldom.info(room, "the policy list %s has %d rules", room, self._lists.count(room))
            self._changed()
        known = {key: rule for key, rule in before.items() if not key[0].startswith(_ARRIVED)}
        await self._keep(room, known, rules)
        return SETTLE_S if arrived else None

    async def _keep(self, room: RoomId, before: Mapping[RuleKey, ListRule], after: Mapping[RuleKey, ListRule]) -> None:
        changed = {key: after.get(key) for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
        changed = {key: rule for key, rule in changed.items() if _can_be_stored(key, rule)}
        try:
            if len(changed) <= MAX_SINGLE:
                for key, rule in changed.items():
                    await self._memory.set_rule(room, key, rule)
            else:
                whole = ((key, rule) for key, rule in after.items() if _can_be_stored(key, rule))
                await self._memory.replace(room, whole)
        except StorageError as error:
            # In force all the same; it is read again at the next start, as a rule.
            self._seldom.log(logging.ERROR, room, "! a policy list was not written down: %s", error)

    def follows(self, room: RoomId) -> bool:
        """Whether ``room`` is a list."""
        return room in self._rooms

    def look(self, room: RoomId, key: RuleKey, rule: ListRule | None) -> bool:
        """Take a state event of a list into account as soon as it arrives: a rule denies from now on.

        Returns:
            Whether the list must be read, because ``room`` is one.
        """
        if room not in self._rooms:
            return False
        if rule is None or self._lists.has(room, rule):
            return True
        arrived = self._arrived.setdefault(room, {})
        early = (_ARRIVED + key[0], key[1])
        if early in arrived or len(arrived) < MAX_ARRIVED:
            arrived[early] = (rule, self._monotonic())
            if self._lists.set_rule(room, early, rule):
                self._changed()
        return True


def _can_be_stored(key: RuleKey, rule: ListRule | None) -> bool:
    """Whether both databases take the texts; what they do not take stands in no id of anybody, and is read anew."""
    text = key[0] + key[1] + ("" if rule is None else rule.entity)
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
