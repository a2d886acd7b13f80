"""The rooms that settings and grants name: joined and left as they are named; members and policy lists are followed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mxrtc_bridge.app.rights import Rights
from mxrtc_bridge.core.errors import MxrtcError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.bot_rooms import BotRooms
from mxrtc_bridge.matrix.homeserver import Homeserver
from mxrtc_bridge.matrix.member_lists import MemberLists
from mxrtc_bridge.matrix.policy_lists import PolicyLists, RuleMemory
from mxrtc_bridge.matrix.room_event import RoomEvent

log = logging.getLogger(__name__)


class NamedRooms:
    """See the head of this module. :meth:`run` must run for rooms to be joined that are named later.

    Args:
        homeserver: acts as the bot.
        rules: remembers the rules of policy lists.
        rights: the rules in force; told who is a member of what, and whom the lists deny.
        judge_again: called when either has changed, to judge live sessions again; must not block.
    """

    def __init__(
        self, homeserver: Homeserver, rules: RuleMemory, rights: Rights, judge_again: Callable[[], None]
    ) -> None:
        self._rights = rights
        self._judge_again = judge_again
        self._changed = asyncio.Event()
        bot = rights.config.appservice.bot
        self._members = MemberLists(homeserver, bot, self.rights_changed)
        self._lists = PolicyLists(homeserver, bot, rules, rights.config.policy_lists, judge_again)
        rights.rooms_of = self.rooms_of
        rights.listed = self._lists.denial
        self.bot_rooms = BotRooms(homeserver, bot, self._named(), self._members, (self._lists,))

    def rooms_of(self, user: UserId) -> frozenset[RoomId]:
        """The rooms that ``user`` is joined to, of those that are followed."""
        return self._members.rooms_of(user)

    def rights_changed(self) -> None:
        """Judge live sessions again, and look whether rights name other rooms now."""
        self._judge_again()
        self._changed.set()

    async def receive(self, event: RoomEvent) -> None:
        """Take an event of any room; memberships come in by :class:`~mxrtc_bridge.matrix.peers.Peers`."""
        await self._lists.apply(event)

    async def recall(self) -> None:
        """Take over what the policy lists said at the end of the last run.

        Raises:
            StorageError: the database cannot be read.
        """
        await self._lists.recall()

    def configure(self) -> None:
        """Take over which rooms are policy lists; :meth:`reload` joins those that are new."""
        self._lists.reload(self._rights.config.policy_lists)

    async def reload(self) -> None:
        """Join and leave rooms by the configuration in force.

        Raises:
            MxrtcError: the homeserver or the database failed.
        """
        await self.bot_rooms.reload(self._named())

    async def run(self) -> None:
        """Join the rooms that given grants name, and leave those that none names any more, until cancelled."""
        known = self._named()
        while True:
            await self._changed.wait()
            self._changed.clear()
            if (named := self._named()) != known:
                known = named
                try:
                    await self.bot_rooms.reload(named)
                except MxrtcError as error:
                    log.error("! rooms that grants name were not joined: %s", error)

    def _named(self) -> dict[str, str]:
        """The rooms that the bot must be in, by what for."""
        config = self._rights.config
        watched = {f"the members of {room}": str(room) for room in self._rights.named_rooms()}
        lists = {f"the policy list {room}": str(room) for room in config.policy_lists}
        return {**config.rooms.named(), **watched, **lists}
