"""The rooms that settings and grants name: joined and left as they are named; members and policy lists are followed.

What is known of them is a copy, and may be wrong: the homeserver is asked again when something has happened in a room,
every :data:`COMPARE_S` while somebody in it has a session, and before somebody is let in by it. What must be known now
and cannot be asked for is believed while it is not older than that; it gives nothing new when it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.access.grants import GrantTable
from mxrtc_bridge.core.access.revocations import (
    AccessListChange,
    EncryptionChange,
    MembershipChange,
    News,
    RedactionChange,
    RuleChange,
    TombstoneChange,
    UnreadableChange,
)
from mxrtc_bridge.core.errors import MxrtcError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.rooms.ban_lists import BanLists, RuleMemory
from mxrtc_bridge.matrix.rooms.bot_rooms import BotRooms
from mxrtc_bridge.matrix.rooms.members import MemberLists
from mxrtc_bridge.matrix.rooms.refresh import Gap, Refresher

log = logging.getLogger(__name__)

COMPARE_S = 60.0
"""How old the copy of who is in a room may become while somebody in it has a session."""
LISTS_S = 300.0
"""The same for policy lists: whole lists are read, and they may be long."""
TICK_S = 10.0
"""How often it is looked whether it is time."""
CONFIRMED_S = 3.0
"""An answer that is not older confirms another call as well."""
CONFIRM_S = 5.0
"""How long a call waits for an answer."""


@dataclass(frozen=True, slots=True)
class ComparisonTimes:
    """How old what is known may become, in seconds."""

    compare_s: float = COMPARE_S
    lists_s: float = LISTS_S
    tick_s: float = TICK_S
    confirmed_s: float = CONFIRMED_S
    confirm_s: float = CONFIRM_S


NOT_READ = "the policy lists were not read yet"
"""The rule that denies everybody until then."""


def named_rooms(config: CurrentConfig, given: GrantTable) -> frozenset[RoomId]:
    """The rooms whose members some rule names: a grant of the configuration, a given one, or who may be given one."""
    return config.in_force.member_rooms | given.rooms()


class ConfiguredRooms:
    """See the head of this module. Before :meth:`recall` nobody has a right by what is known here.

    :meth:`run` must run for rooms to be joined that are named later.

    Args:
        homeserver: acts as the bot.
        rules: remembers the rules of policy lists.
        config: names rooms and policy lists.
        given: the grants that people have given; they name rooms as well.
        times: how old what is known may become.
        gap: between two questions about a room.
        monotonic: seconds.
    """

    def __init__(
        self,
        homeserver: QuietHomeserver,
        rules: RuleMemory,
        config: CurrentConfig,
        given: GrantTable,
        *,
        times: ComparisonTimes = ComparisonTimes(),
        gap: Gap = Gap(),  # noqa: B008 - a value
        monotonic: Callable[[], float] = elapsed_s,
    ) -> None:
        self._times = times
        self._config = config
        self._given = given
        self._judge_again: Callable[[Collection[UserId] | None], None] | None = None
        self._to_be_judged = False
        self._changed = asyncio.Event()
        bot = config.in_force.appservice.bot
        self._members = MemberLists(homeserver, bot, self.rights_changed, monotonic)
        self._lists = BanLists(homeserver, bot, rules, config.in_force.policy_lists, self._judge_soon)
        self._lists_read = False
        self._names = self._named()
        """The rooms that the bot was told to be in."""
        self.bot_rooms = BotRooms(
            homeserver, bot, self._names, self._members, (self._lists,), self._entered, self._follow
        )
        self._who = Refresher(
            "who is in a named room",
            lambda room: self.bot_rooms.learn_again(room, self._members),
            monotonic=monotonic,
            gap=gap,
        )
        # A list may be long, and is read whole: one at a time.
        self._rules = Refresher(
            "the policy list",
            lambda room: self.bot_rooms.learn_again(room, self._lists),
            monotonic=monotonic,
            parallel=1,
            gap=gap,
        )
        self._replaced: set[RoomId] = set()
        """Rooms that the bot is in, of which it was said that another one has taken their place."""
        self._more_lists: dict[RoomId, RoomId] = {}
        """Rooms that have taken the place of policy lists, with those: the rules of both are in force."""

    def rooms_of(self, user: UserId) -> frozenset[RoomId]:
        """The rooms that ``user`` is joined to, as they are named: where one was replaced, the new one counts."""
        return self.bot_rooms.successions.as_named(self._members.rooms_of(user))

    def denial(self, user: UserId) -> str | None:
        """The rule of a policy list that denies ``user`` everything, or None; all are denied before :meth:`recall`."""
        return self._lists.denial(user) if self._lists_read else NOT_READ

    def rights_changed(self, users: Collection[UserId] | None = None) -> None:
        """Judge live sessions again, those of some users or all, and look whether rights name other rooms now."""
        self._judge(users)
        self._changed.set()

    def _judge(self, users: Collection[UserId] | None = None) -> None:
        if self._judge_again is not None:
            self._judge_again(users)

    def _judge_soon(self) -> None:
        """Judge live sessions again, once, when all rules that have arrived together are known."""
        if not self._to_be_judged:
            self._to_be_judged = True
            asyncio.get_running_loop().call_soon(self._judge_now)

    def _judge_now(self) -> None:
        self._to_be_judged = False
        self._judge()

    def look(self, news: News) -> None:  # noqa: C901 - one row for each kind
        """Take into account at once what an event that has arrived takes away; never blocks."""
        match news:
            case MembershipChange(room=room, user=user, joined=joined):
                if self.bot_rooms.look(room, user, joined=joined):
                    self._who.doubt(room)
            case RuleChange(room=room, key=key, rule=rule):
                self.bot_rooms.stir(room)
                if self._lists.look(room, key, rule):
                    self._rules.doubt(room)
            case EncryptionChange(room=room):
                self.bot_rooms.now_encrypted(room)
            case RedactionChange(room=room):
                if self._lists.follows(room):
                    self._rules.doubt(room)
            case TombstoneChange(room=room):
                self._replaced_by_another(room)
            case AccessListChange(room=room):
                self._members.access_list_changed(room)
                self._doubt(room)
            case UnreadableChange(room=room):
                self._doubt(room)

    def _doubt(self, unread: RoomId | None) -> None:
        for room in self.bot_rooms.named() if unread is None else self.bot_rooms.named() & {unread}:
            self.bot_rooms.could_not_read(room)
            self._who.doubt(room)
            if self._lists.follows(room):
                self._rules.doubt(room)

    def _replaced_by_another(self, room: RoomId) -> None:
        joined = self.bot_rooms.joined()
        if room not in joined:
            return
        self._replaced &= joined
        if room not in self._replaced:
            self._replaced.add(room)
            log.warning("! %s was replaced by another room; it is followed where the bot can enter that one", room)
        self.bot_rooms.replaced(room)

    def _follow(self, old: RoomId, new: RoomId) -> None:
        """A room takes the place of another one; a list keeps its rules, as nobody copies them for certain."""
        if self._lists.follows(old) and not self._lists.follows(new):
            self._more_lists[new] = old
            self.configure()

    def compare(self, callers: Iterable[UserId]) -> None:
        """Have the homeserver asked again about rooms that ``callers`` are in, and lists, where it is time."""
        for room in frozenset[RoomId]().union(*map(self._members.rooms_of, callers)):
            if self._is_due(self._who, room, self._times.compare_s):
                self._who.doubt(room)
        for room in self.bot_rooms.joined():
            if self._lists.follows(room) and self._is_due(self._rules, room, self._times.lists_s):
                self._rules.doubt(room)

    async def confirm(self, rooms: Collection[RoomId]) -> bool:
        """Make sure who is in some rooms; returns whether that is known now, of all of them.

        The homeserver is asked, unless it was a moment ago. When it does not answer in time, what it has said within
        the last :data:`COMPARE_S` counts.
        """
        results = await asyncio.gather(*(self._confirm(room) for room in rooms))
        return all(results)

    async def _confirm(self, room: RoomId) -> bool:
        room = self.bot_rooms.successions.now(room)
        try:
            async with asyncio.timeout(self._times.confirm_s):
                await self._who.confirm(room, self._times.confirmed_s)
        except (MxrtcError, TimeoutError):
            self._who.doubt(room)
            age = self._who.age(room)
            return age is not None and age <= self._times.compare_s
        return True

    def doubtful(self) -> frozenset[RoomId]:
        """The rooms in which something has happened that the homeserver was not asked about yet."""
        return self._who.doubtful()

    def _entered(self, room: RoomId, unsure: bool) -> None:
        for refresher in (self._who, self._rules) if self._lists.follows(room) else (self._who,):
            refresher.learned(room)
            if unsure:
                refresher.doubt(room)
        self._judge()  # Perhaps it has taken the place of another one.

    async def recall(self, judge_again: Callable[[Collection[UserId] | None], None]) -> None:
        """Take over what the policy lists said at the end of the last run; from then on there are rights.

        Given grants must have been loaded: they name rooms.

        Args:
            judge_again: called when members or lists have changed, to judge live sessions again, those of the users
                that it is given or all; must not block.

        Raises:
            StorageError: the database cannot be read.
        """
        self._judge_again = judge_again
        await self._lists.recall()
        self._lists_read = True
        # Before it enters its rooms, and leaves all others: grants that were given in earlier runs are known now.
        self._names = self._named()
        self.bot_rooms.name(self._names)

    def configure(self) -> None:
        """Take over which rooms are policy lists; :meth:`reload` joins those that are new."""
        lists = set(self._config.in_force.policy_lists)
        for new, old in self._more_lists.items():  # in the order in which they were found
            if old in lists:
                lists.add(new)
        self._lists.reload(lists)

    async def reload(self) -> None:
        """Join and leave rooms by the configuration in force.

        Raises:
            MxrtcError: the homeserver or the database failed.
        """
        self._names = self._named()
        await self.bot_rooms.reload(self._names)

    async def run(self) -> None:
        """Follow the rooms, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._who.run(), name="members of named rooms")
            tasks.create_task(self._rules.run(), name="policy lists")
            tasks.create_task(self._follow_names(), name="names of rooms")

    async def _follow_names(self) -> None:
        """Join the rooms that given grants name, and leave those that none names any more, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._named() != self._names:
                try:
                    await self.reload()
                except MxrtcError as error:
                    log.error("! rooms that grants name were not joined: %s", error)

    def _named(self) -> dict[str, str]:
        """Rooms that the bot must join, keyed by purpose."""
        config = self._config.in_force
        watched = {f"the members of {room}": str(room) for room in named_rooms(self._config, self._given)}
        lists = {f"the policy list {room}": str(room) for room in config.policy_lists}
        return {**config.rooms.named(), **watched, **lists}

    def _is_due(self, refresher: Refresher, room: RoomId, every_s: float) -> bool:
        age = refresher.age(room)
        return age is None or age >= every_s - self._times.tick_s
