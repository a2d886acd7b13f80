"""Reads the policy lists that the admin has named, and follows them.

A list is read when the bot has joined its room and at every start, before calls are taken; then its events are
followed. What is known stays in force while the bot cannot see the room, also over a restart; only a list that the
configuration names no more is forgotten. A list that could never be read denies nobody, and the log says so.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.core.policy_lists import MAX_RULES, RULE_TYPES, DenyLists, ListRule, RuleKey, parse_rule
from mxrtc_bridge.matrix.room_event import RoomEvent

log = logging.getLogger(__name__)


class StateServer(Protocol):
    """What this module needs of the homeserver."""

    async def all_state(
        self, room: RoomId, types: Collection[str], as_user: UserId | None = None
    ) -> list[tuple[str, str, dict[str, object]]]: ...


class RuleMemory(Protocol):
    """Keeps the rules over a restart; every method may raise StorageError."""

    async def load(self, rooms: Collection[RoomId], /) -> Mapping[RoomId, Sequence[tuple[RuleKey, ListRule]]]: ...

    async def replace(self, room: RoomId, rules: Iterable[tuple[RuleKey, ListRule]], /) -> None: ...

    async def set_rule(self, room: RoomId, key: RuleKey, rule: ListRule | None, /) -> None: ...


class PolicyLists:
    """The lists of one bot.

    Args:
        homeserver: acts as the bot.
        bot: who sees.
        memory: keeps what is known.
        rooms: that are lists.
        changed: called after each change; must not block.
    """

    def __init__(
        self,
        homeserver: StateServer,
        bot: UserId,
        memory: RuleMemory,
        rooms: Collection[RoomId],
        changed: Callable[[], None],
    ) -> None:
        self._homeserver = homeserver
        self._bot = bot
        self._memory = memory
        self._rooms = frozenset(rooms)
        self._changed = changed
        self._lists = DenyLists()
        self._meanwhile: dict[RoomId, dict[RuleKey, ListRule | None]] = {}
        """What has changed in the lists that are being read just now."""

    def denial(self, user: UserId) -> str | None:
        """The rule that denies ``user`` everything, or None."""
        return self._lists.denial(user)

    def reload(self, rooms: Collection[RoomId]) -> None:
        """Take over which rooms are lists; those that are new are read when the bot joins them."""
        self._rooms = frozenset(rooms)
        gone = self._lists.rooms() - self._rooms
        for room in gone:
            self._lists.drop(room)
        if gone:
            self._changed()

    async def recall(self) -> None:
        """Take over what was known at the end of the last run; to be called once, before anything else.

        Raises:
            StorageError: the database cannot be read.
        """
        for room, rules in (await self._memory.load(self._rooms)).items():
            self._lists.replace(room, rules)

    async def learn(self, room: RoomId) -> None:
        """Read a list, if ``room`` is one.

        Raises:
            HomeserverError: the homeserver did not give it; what was known stays in force.
        """
        if room not in self._rooms:
            return
        # Events come in order but the answer may be older than some of them: they are applied to it once more. One that
        # is older than the answer is followed by what has replaced it.
        self._meanwhile[room] = {}
        try:
            state = await self._homeserver.all_state(room, RULE_TYPES, self._bot)
        finally:
            meanwhile = self._meanwhile.pop(room)
        before = self._lists.rules(room)
        parsed = [((kind, key), parse_rule(kind, content)) for kind, key, content in state]
        if not self._lists.replace(room, [(key, rule) for key, rule in parsed if rule is not None]):
            log.warning("! the policy list %s has more than %d rules; those beyond are not used", room, MAX_RULES)
        if unusable := self._lists.unusable(room):
            log.warning("! %d rules of the policy list %s have too many wildcards and deny nobody", unusable, room)
        for key, rule in meanwhile.items():
            self._lists.set_rule(room, key, rule)
        log.info("the policy list %s has %d rules", room, self._lists.count(room))
        self._changed()
        after = self._lists.rules(room)
        if dict(before) != dict(after):
            await self._keep(self._memory.replace(room, after))

    async def _keep(self, work: Awaitable[None]) -> None:
        try:
            await work
        except StorageError as error:
            # In force all the same; it is read again at the next start, as a rule.
            log.error("! a policy list was not written down: %s", error)

    async def apply(self, event: RoomEvent) -> None:
        """Take a state event of a list into account; others mean nothing."""
        if event.room_id not in self._rooms or event.type not in RULE_TYPES or event.state_key is None:
            return
        key, rule = (event.type, event.state_key), parse_rule(event.type, event.content)
        if event.room_id in self._meanwhile:
            self._meanwhile[event.room_id][key] = rule
        if self._lists.set_rule(event.room_id, key, rule):
            log.info("the policy list %s has %d rules now", event.room_id, self._lists.count(event.room_id))
            self._changed()
            await self._keep(self._memory.set_rule(event.room_id, key, rule))
