"""Which devices callers have now: asked for, never taken from what was known before.

A homeserver tells of changes only to those who share an encrypted room with a user, and may be late or silent. So
whoever wants to be let in by a device is asked for at that moment, and who is in is asked for again and again. Must
never take no answer for an answer; must never make a caller, or a server that does not answer, cost others more than
their share: one question at a time for each user, a few for each server, all of them bounded in time.

One file: how often who may be asked is one budget for all questions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum, auto
from http import HTTPStatus
from weakref import WeakValueDictionary

from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.call.limits import RateLimit
from mxrtc_bridge.core.crypto.records import CallerDevice, Trust
from mxrtc_bridge.core.errors import AnswerTooLongError, HomeserverError, StorageError
from mxrtc_bridge.core.ids import UserId, server_of
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists
from mxrtc_bridge.matrix.crypto.key_answers import is_named_in, keys_in
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, UserDevices

log = logging.getLogger(__name__)

LOOK_S = 4.0
"""How long a caller waits for being looked up; its program gives up after 5 seconds without a sign."""
FRESH_S = 1.5
"""An answer serves all who ask within this time of its being asked for."""
YOUNG_MS = 60_000
"""Where nobody answers, a new call is judged by what is known, if it is not older than this; and else refused."""
LOOKS = 3
"""How often it is asked for one caller: again when a change is announced meanwhile, or the device is not listed yet."""
UNLISTED_PAUSE_S = 1.0
"""A server may hear of a new device a moment after its first message."""
LOOKS_A_MINUTE, LOOKS_A_MINUTE_OF_SERVER = 60, 240
"""Questions for one user, and for all users of another server; those of our own have no budget together, because a few
accounts would use it up for all, and its answers come from its own database."""
OWN_AT_A_TIME, OF_SERVER_AT_A_TIME = 8, 2
"""Questions under way for callers of our homeserver, and of another one; the next ones wait for them."""
ANSWERING_AT_A_TIME, NEW_AT_A_TIME, SILENT_AT_A_TIME = 4, 2, 1
"""Questions under way for all other servers: those that have answered last time, those that were never asked, and those
that did not answer last time. Each kind waits for its own only, as names that hang cost nothing. Synapse answers ten at
a time for each virtual user, so that there is always room for its own.
"""
SILENT_S = 10.0
"""Another server that has not answered is not asked for another caller for so long. Ours has brought the call."""
USERS_PER_REQUEST = 100
SERVERS_AT_A_TIME = 3
REQUEST_S = 4.0
ALL_S = 8.0
"""How long the questions for all live callers may take together; those who did not answer last time come last."""
ALONE_AT_A_TIME = 8
"""Users who are asked for one by one, where the answer about all of them together is of no use."""
MAX_REMEMBERED = 1000


class Standing(Enum):
    """What the look-up of a calling device says."""

    GOOD = auto()
    UNTRUSTED = auto()
    """The policy asks for more than is known of it."""
    CHANGED = auto()
    """The same, because its user shows another identity than before."""
    UNLISTED = auto()
    """Its user has no such device with this key, or none any more."""
    UNKNOWN = auto()
    """Nobody answers, and what is known is too old."""


@dataclass(frozen=True, slots=True)
class JudgedCaller:
    """Who calls or gives a command, by which device, and what was decided about that device when this was made.

    Says nothing of rights: whoever has waited since asks for them again.
    """

    standing: Standing
    identity: DeviceIdentity | None = None
    """The user's device, to which answers between devices go; None where it came in plain text."""
    master: str | None = None
    """The identity that the user shows; None if there is none, or nobody has asked."""

    @property
    def device(self) -> CallerDevice | None:
        """The device for those who judge it again."""
        each = self.identity
        return None if each is None else CallerDevice(each.device, each.ed25519, each.trust, self.master)

    @property
    def is_good(self) -> bool:
        """Whether the device may be heard."""
        return self.standing is Standing.GOOD

    def under(self, least: Trust) -> JudgedCaller:
        """The same by a policy that may have become stricter meanwhile."""
        trust = Trust.UNSIGNED if self.identity is None else self.identity.trust
        return replace(self, standing=Standing.UNTRUSTED) if self.is_good and not trust.meets(least) else self


@dataclass(frozen=True, slots=True)
class _Asked:
    by: DeviceLists
    began_s: float
    answer: Mapping[str, object]


Pair = tuple[UserId, UserId]
"""A virtual user, and a caller."""


@dataclass(frozen=True, slots=True)
class LookupStatus:
    """What :meth:`DeviceLookups.status` says."""

    users: int
    """Users who are asked for, or wait for it."""
    answering: tuple[str, ...]
    """Servers that have answered when they were last asked, the newest last."""


class DeviceLookups:
    """See the head of this module.

    Args:
        lists_of: what the device of a virtual user knows of others; None where it has none.
        config: has the policy for devices, and the domain of our homeserver, which answers for its own users at once.
        monotonic: seconds that only ever grow.
        sleep: waits before a device that is not listed is asked for again.
        max_remembered: see :data:`MAX_REMEMBERED`.
        request_s: see :data:`REQUEST_S`.
        all_s: see :data:`ALL_S`.
        servers_at_a_time: see :data:`SERVERS_AT_A_TIME`.
    """

    def __init__(
        self,
        lists_of: Callable[[UserId], DeviceLists | None],
        config: CurrentConfig,
        *,
        monotonic: Callable[[], float] = elapsed_s,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        max_remembered: int = MAX_REMEMBERED,
        request_s: float = REQUEST_S,
        all_s: float = ALL_S,
        servers_at_a_time: int = SERVERS_AT_A_TIME,
    ) -> None:
        self._servers_at_a_time = servers_at_a_time
        self._all_s = all_s
        self._request_s = request_s
        self.lists_of = lists_of
        self._config = config
        self._own_server = config.in_force.homeserver.domain.lower()
        self._monotonic = monotonic
        self._sleep = sleep
        self._budget = RateLimit(LOOKS_A_MINUTE, LOOKS_A_MINUTE_OF_SERVER)
        self._own_budget = RateLimit(LOOKS_A_MINUTE, LOOKS_A_MINUTE * max_remembered)
        self._alone: WeakValueDictionary[UserId, asyncio.Lock] = WeakValueDictionary()
        self._asked = Latest[UserId, _Asked](max_remembered)
        self._own_places = asyncio.Semaphore(OWN_AT_A_TIME)
        self._answering_places = asyncio.Semaphore(ANSWERING_AT_A_TIME)
        self._new_places = asyncio.Semaphore(NEW_AT_A_TIME)
        self._silent_places = asyncio.Semaphore(SILENT_AT_A_TIME)
        self._places_of: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._answered: dict[str, float] = {}
        """Of the servers with live callers, when each has answered last."""
        self._silent = Latest[str, float](max_remembered)
        """Servers that do not answer, and when they were last asked in vain."""
        self._answering = Latest[str, None](max_remembered)
        """Servers that have answered when they were last asked, the newest last."""
        self._apart = Latest[UserId, None](max_remembered)
        """Users about whom no answer can be read: they are asked for apart from others."""
        self._seldom = RateLimitedLog(log, monotonic)

    def status(self) -> LookupStatus:
        """What is under way, and which servers answer."""
        return LookupStatus(len(self._alone), tuple(self._answering))

    @property
    def least(self) -> Trust:
        """What the policy in force asks of a device."""
        return self._config.in_force.encryption.least

    # --- one caller

    def judge_by_message(self, device: DeviceIdentity) -> JudgedCaller:
        """Judge a device by what was known of it when its message was decrypted; asks nobody."""
        return JudgedCaller(Standing.GOOD, device).under(self.least)

    async def judge(self, local: UserId, device: DeviceIdentity) -> JudgedCaller:
        """Look up a device that calls; only for somebody who has a right, as others must not make us ask.

        Args:
            local: whom it calls.
            device: the device, as its message proves it.
        """
        lists = self.lists_of(local)
        standing, found, master = Standing.UNKNOWN, device, None
        try:
            async with asyncio.timeout(LOOK_S):
                for attempt in range(LOOKS):
                    if attempt and standing is Standing.UNLISTED:
                        await self._sleep(UNLISTED_PAUSE_S)
                    seen = None if lists is None else await self._look(lists, device.user, first=attempt == 0)
                    if seen is None:
                        break
                    master, same = seen.master, _same(seen, device)
                    if same is None:
                        standing = Standing.UNLISTED
                        continue
                    standing, found = _standing(same, seen, self.least), same
                    break
        except TimeoutError:
            # A device that is not listed stays so; the pause before the next look has been cut short.
            log.debug("the devices of %s were not looked up within %g s", device.user, LOOK_S)
        if standing is Standing.UNKNOWN and lists is not None:
            seen = lists.recent(device.user, YOUNG_MS)
            same = None if seen is None else _same(seen, device)
            if seen is not None and same is not None:
                standing, found, master = _standing(same, seen, self.least), same, seen.master
        if standing is Standing.CHANGED:
            self._seldom.warning(
                device.user,
                "! %s shows another identity than before; on purpose? mxrtc-bridge trust %s",
                device.user,
                device.user,
            )
        return JudgedCaller(standing, found, master)

    async def _look(self, lists: DeviceLists, user: UserId, *, first: bool) -> UserDevices | None:
        """What is answered about a user now; None if nothing is, or if it changes faster than it is answered."""
        arrived_s = self._monotonic()
        async with self._alone.setdefault(user, asyncio.Lock()):
            for _ in range(LOOKS):
                asked = self._asked.get(user)
                if asked is None or not first or not self._serves(asked, lists, user, arrived_s):
                    asked = await self._ask_for_one(lists, user)
                if asked is None:
                    return None
                try:
                    seen = (await lists.learn([user], asked.answer, asked.began_s)).get(user)
                except StorageError as error:
                    self._seldom.warning(user, "! the devices of %s are not known: %s", user, error)
                    return None
                if seen is None:
                    self._note(server_of(user), "it does not answer our homeserver")
                    return None
                self._heard(server_of(user))
                if not lists.changed_since(user, asked.began_s):
                    return seen
                first = False
        return None

    def _serves(self, asked: _Asked, lists: DeviceLists, user: UserId, arrived_s: float) -> bool:
        """Whether an answer is new enough, and was given to somebody who may see this user."""
        return arrived_s - asked.began_s <= FRESH_S and (asked.by is lists or is_named_in(asked.answer, user))

    async def _ask_for_one(self, lists: DeviceLists, user: UserId) -> _Asked | None:
        server = server_of(user)
        budget = self._own_budget if server == self._own_server else self._budget
        if not budget.allow(user, self._monotonic()):
            self._seldom.info(user, "x the devices of %s are not asked for again so soon", user)
            return None
        if server != self._own_server and self._monotonic() - self._silent.get(server, -SILENT_S) < SILENT_S:
            return None
        try:
            async with self._place(server), self._noting(server):
                return await self._ask(lists, [user])
        except HomeserverError as error:
            if error.status == HTTPStatus.OK:
                # An answer that is of no use: that is this user's doing, and no silence of the server.
                self._seldom.info(user, "x the devices of %s cannot be read: %s", user, error)
            else:
                self._note(server, str(error))
            return None

    @contextlib.asynccontextmanager
    async def _noting(self, server: str) -> AsyncIterator[None]:
        """Note a server that has kept a question waiting for most of the time; who waits for others says nothing."""
        began_s = asyncio.get_running_loop().time()
        try:
            yield
        except asyncio.CancelledError:
            if (waited_s := asyncio.get_running_loop().time() - began_s) >= LOOK_S / 2:
                self._note(server, f"no answer within {waited_s:.0f} s")
            raise

    @contextlib.asynccontextmanager
    async def _place(self, server: str) -> AsyncIterator[None]:
        if server == self._own_server:
            async with self._own_places:
                yield
        else:
            of_server = self._places_of.setdefault(server, asyncio.Semaphore(OF_SERVER_AT_A_TIME))
            # Which kind it is, is asked once it has its turn: it may have answered meanwhile.
            async with of_server, self._places_for(server):
                yield

    def _places_for(self, server: str) -> asyncio.Semaphore:
        if server in self._silent:
            return self._silent_places
        return self._answering_places if server in self._answering else self._new_places

    async def _ask(self, lists: DeviceLists, users: Collection[UserId]) -> _Asked:
        began_s = self._monotonic()
        asked = _Asked(lists, began_s, await lists.ask(users))
        self._asked |= dict.fromkeys(users, asked)
        return asked

    # --- all who are in

    async def look_all(self, pairs: Iterable[Pair], heard: Callable[[Pair, UserDevices], None]) -> None:
        """Ask for the devices of all callers together.

        Those of our homeserver are in one request, or in one for each hundred. Each other server has a request of its
        own, because one that does not answer would keep the answer about all others waiting. And whoever has keys that
        make an answer unreadable, or too long, is asked for alone: nobody else's device may hide behind them.

        Args:
            pairs: virtual users and callers.
            heard: told of each pair as soon as there is an answer; not told where there is none.
        """
        by_server: dict[str, dict[UserId, list[UserId]]] = {}
        for local, remote in pairs:
            if self.lists_of(local) is not None:
                by_server.setdefault(server_of(remote), {}).setdefault(remote, []).append(local)
        places = asyncio.Semaphore(self._servers_at_a_time)

        async def ask(server: str, locals_of: dict[UserId, list[UserId]]) -> None:
            async with places:
                await self._look_group(server, locals_of, heard)

        async def ask_own(locals_of: dict[UserId, list[UserId]]) -> None:
            await self._look_group(self._own_server, locals_of, heard)

        try:
            async with asyncio.timeout(self._all_s), asyncio.TaskGroup() as tasks:
                # Whoever has answered longest ago comes first: many that hang in turns must not keep others unasked.
                self._answered = {each: self._answered.get(each, 0.0) for each in by_server}
                for server in sorted(by_server, key=lambda each: (each in self._silent, self._answered[each])):
                    for chunk in _chunks(by_server[server], self._apart):
                        tasks.create_task(ask_own(chunk) if server == self._own_server else ask(server, chunk))
        except TimeoutError:
            log.info("not all devices of callers were answered for within %g s", self._all_s)

    async def _look_group(
        self, server: str, locals_of: dict[UserId, list[UserId]], heard: Callable[[Pair, UserDevices], None]
    ) -> None:
        """Ask for users of one server, and have each of our devices that they called learn the answer."""
        asker = next(iter(locals_of.values()))[0]
        try:
            async with asyncio.timeout(self._request_s):
                await self._look_by(asker, server, locals_of, heard)
        except TimeoutError:
            self._note(server, f"no answer within {self._request_s:g} s")
        except HomeserverError as error:
            if error.status == HTTPStatus.OK:
                await self._look_apart(server, locals_of, heard, error)
            else:
                self._note(server, str(error))
        except StorageError as error:
            self._note(server, str(error))
        except Exception as error:  # noqa: BLE001 - whatever it was, those of other servers must be judged
            self._seldom.exception(server, "! the devices of callers of %s were not judged", server, error=error)

    async def _look_apart(
        self,
        server: str,
        locals_of: dict[UserId, list[UserId]],
        heard: Callable[[Pair, UserDevices], None],
        error: HomeserverError,
    ) -> None:
        """An answer has come that is of no use: find out whose keys make it so, and ask for the others without them."""
        if len(locals_of) > 1:
            places = asyncio.Semaphore(ALONE_AT_A_TIME)

            async def ask(user: UserId, locals_: list[UserId]) -> None:
                async with places:
                    await self._look_group(server, {user: locals_}, heard)

            async with asyncio.TaskGroup() as tasks:
                for user, locals_ in locals_of.items():
                    tasks.create_task(ask(user, locals_))
            return
        ((user, locals_),) = locals_of.items()
        if user not in self._apart:
            self._seldom.warning(user, "! the keys of the devices of %s are of no use: %s", user, error)
        self._apart[user] = None
        if isinstance(error, AnswerTooLongError):
            # Not silence: it is the user who lists more than any answer can hold, and could hide behind it for ever.
            for local in locals_:
                heard((local, user), UserDevices(user, (), None, None))

    async def _look_by(
        self,
        asker: UserId,
        server: str,
        locals_of: dict[UserId, list[UserId]],
        heard: Callable[[Pair, UserDevices], None],
    ) -> None:
        lists = self.lists_of(asker)
        if lists is None:
            return
        asked = await self._ask(lists, locals_of)
        answered = {user for user in locals_of if keys_in(asked.answer, user) is not None}
        for user in answered:
            self._apart.pop(user, None)
        if len(answered) < len(locals_of):
            self._note(server, "it does not answer our homeserver")
        else:
            self._heard(server)
        # The homeserver may hide users from those of ours who share no room with them: then each asks for itself.
        hidden: dict[UserId, dict[UserId, list[UserId]]] = {}
        for user in answered:
            for local in locals_of[user]:
                if local != asker and not is_named_in(asked.answer, user):
                    hidden.setdefault(local, {})[user] = [local]
                elif (own := self.lists_of(local)) is not None:
                    seen = (await own.learn([user], asked.answer, asked.began_s)).get(user)
                    if seen is not None:
                        heard((local, user), seen)
        for local, users in hidden.items():
            await self._look_by(local, server, users, heard)

    # --- servers that do not answer

    def _note(self, server: str, why: str) -> None:
        """Say once that a server does not answer."""
        if server not in self._silent:
            self._seldom.warning(server, "! the devices of callers of %s cannot be asked for: %s", server, why)
        self._answering.pop(server, None)
        self._silent[server] = self._monotonic()

    def _heard(self, server: str) -> None:
        self._answering[server] = None
        if server in self._answered:
            self._answered[server] = self._monotonic()
        if server in self._silent:
            del self._silent[server]
            self._seldom.info(server, "= the devices of callers of %s are answered for again", server)


def _same(seen: UserDevices, device: DeviceIdentity) -> DeviceIdentity | None:
    """The device with the same name and the same keys."""
    name = (device.device, device.ed25519, device.curve25519)
    return next((each for each in seen.devices if (each.device, each.ed25519, each.curve25519) == name), None)


def _standing(same: DeviceIdentity, seen: UserDevices, least: Trust) -> Standing:
    if same.trust.meets(least):
        return Standing.GOOD
    return Standing.CHANGED if seen.identity_changed else Standing.UNTRUSTED


def _chunks(locals_of: dict[UserId, list[UserId]], apart: Collection[UserId]) -> Iterable[dict[UserId, list[UserId]]]:
    yield from ({user: locals_of[user]} for user in locals_of if user in apart)
    users = [user for user in locals_of if user not in apart]
    for start in range(0, len(users), USERS_PER_REQUEST):
        yield {user: locals_of[user] for user in users[start : start + USERS_PER_REQUEST]}
