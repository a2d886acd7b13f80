"""The sessions of this process: made for the first who needs one, warm for all others, ended some time after the last.

Few are kept for nobody, and only while there is room: each counts at the bridge as a call of this user.
Whoever waits for a call that is being placed waits for all of it alone: that another one gives up ends nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from mxrtc_bridge.client.calls.connection import Connection
from mxrtc_bridge.client.options import CallOptions, SignalBy
from mxrtc_bridge.client.report import Says
from mxrtc_bridge.core.ids import UserId

LINGER_S = 60.0
"""How long a session of a guest is kept for the next one."""
MAX_IDLE, MAX_WITH_IDLE = 2, 3
"""Sessions that are kept so, and all sessions beside which some are: one less than a bridge gives a user, unless its
admin has said otherwise."""

Place = Callable[[UserId, CallOptions, Says], AbstractAsyncContextManager[Connection]]
"""Calls a peer; the connection lives inside of the context."""


class _Audience:
    """All who wait for, or use, one session."""

    def __init__(self) -> None:
        self.members: list[Says] = []

    def say(self, kind: str, sentence: str, **fields: object) -> None:
        for each in tuple(self.members):
            each.say(kind, sentence, **fields)


@dataclass(slots=True, eq=False)
class _Warm:
    """One session, from the first one who wants it to the last."""

    peer: UserId
    options: CallOptions
    up: asyncio.Future[Connection]
    audience: _Audience = field(default_factory=_Audience)
    unused: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    lingers: bool = False
    """Whether it is kept for a while once nobody uses it."""
    idling: asyncio.Task[None] | None = None
    """Ends it after that while."""

    @property
    def is_up(self) -> bool:
        """Whether the call got through, and lives."""
        up = self.up
        if not up.done() or up.cancelled() or up.exception() is not None:
            return False
        return not up.result().links.lost.is_set()

    def fits(self, peer: UserId, options: CallOptions) -> bool:
        """Whether somebody who wants a session with these options can use this one."""
        mine, wanted = self.options, options
        if self.unused.is_set() or (self.peer, mine.policy, mine.interfaces) != (
            peer,
            wanted.policy,
            wanted.interfaces,
        ):
            return False
        if not self.up.done():
            return mine.signal is wanted.signal
        if not self.is_up or (connection := self.up.result()).links.is_full:
            return False
        # One by devices is as good as any, but for whoever wants a room.
        by_device = connection.device is not None and wanted.signal is not SignalBy.ROOM
        return by_device or mine.signal is wanted.signal


class SessionPool:
    """The sessions.

    Args:
        place: makes one.
        linger_s: see :data:`LINGER_S`.
    """

    def __init__(self, place: Place, *, linger_s: float = LINGER_S) -> None:
        self._place = place
        self._linger_s = linger_s
        self._all: set[_Warm] = set()
        self._idle: list[_Warm] = []
        """Those that nobody uses, the oldest first."""
        self._may_linger = True

    @contextlib.asynccontextmanager
    async def connection(
        self, peer: UserId, options: CallOptions, says: Says, *, lingers: bool = False
    ) -> AsyncIterator[Connection]:
        """Use a session with a peer, warm or new.

        Args:
            peer: whom.
            options: how to call; one that was called in the same way is used.
            says: told what a person should know, as long as the context lasts.
            lingers: whether it is kept for a while after the last one.

        Raises:
            ClientError: the call did not get through; says why, and whether to try again.
            HomeserverError: the homeserver refuses us, or is away.
        """
        warm = next((each for each in self._all if each.fits(peer, options)), None) or self._begin(peer, options)
        self._use(warm)
        warm.lingers = warm.lingers or lingers
        warm.audience.members.append(says)
        try:
            yield await asyncio.shield(warm.up)
        finally:
            warm.audience.members.remove(says)
            if not warm.audience.members:
                if self._keeps(warm):
                    self._idle.append(warm)
                    warm.idling = asyncio.create_task(self._idling(warm), name="warm session")
                    await self._end_idle(MAX_IDLE)
                else:
                    await self._end(warm)

    async def stop_lingering(self) -> None:
        """Keep no session for nobody from now on."""
        self._may_linger = False
        await self._end_idle(0)

    async def close(self) -> None:
        """End all sessions in order, whoever uses them."""
        self._may_linger = False
        for each in tuple(self._idle):
            self._use(each)
        await asyncio.gather(*(self._end(each) for each in tuple(self._all)))

    def _begin(self, peer: UserId, options: CallOptions) -> _Warm:
        warm = _Warm(peer, options, asyncio.get_running_loop().create_future())
        # Nobody may be left who waits for it.
        warm.up.add_done_callback(lambda up: up.cancelled() or up.exception())
        warm.task = asyncio.create_task(self._live(warm), name="session")
        self._all.add(warm)
        return warm

    def _use(self, warm: _Warm) -> None:
        if warm in self._idle:
            self._idle.remove(warm)
        if warm.idling is not None:
            warm.idling.cancel()
            warm.idling = None

    def _keeps(self, warm: _Warm) -> bool:
        if not (self._may_linger and warm.lingers) or warm.unused.is_set() or len(self._all) > MAX_WITH_IDLE:
            return False
        return warm.is_up

    async def _idling(self, warm: _Warm) -> None:
        """End a session that nobody uses after a while, or when it is lost."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._linger_s):
                await warm.up.result().links.lost.wait()
        self._idle.remove(warm)
        await self._end(warm)

    async def _end_idle(self, most: int) -> None:
        """End those sessions that nobody uses, the oldest first, but for so many."""
        while len(self._idle) > most:
            warm = self._idle[0]
            self._use(warm)
            await self._end(warm)

    async def _live(self, warm: _Warm) -> None:
        try:
            if len(self._all) > MAX_WITH_IDLE:
                # Before the call: those count at the bridge as well.
                await self._end_idle(0)
            async with self._place(warm.peer, warm.options, warm.audience) as connection:
                warm.up.set_result(connection)
                await warm.unused.wait()
        except BaseException as error:
            if warm.up.done():
                raise
            if isinstance(error, Exception):
                warm.up.set_exception(error)
            else:
                warm.up.cancel()
                raise
        finally:
            self._all.discard(warm)

    async def _end(self, warm: _Warm) -> None:
        assert warm.task is not None
        warm.unused.set()
        if not warm.up.done():
            warm.task.cancel()
        # Not awaited itself: that it was cancelled must not be taken for our own end, nor the other way round.
        await asyncio.wait([warm.task])
        if not warm.task.cancelled():
            warm.task.result()
