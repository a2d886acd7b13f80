"""The sessions of this process: made for the first who needs one, warm for all others, ended after the last.

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
        if self.up.cancelled() or self.up.exception() is not None:
            return False
        connection = self.up.result()
        if connection.links.lost.is_set() or connection.links.is_full:
            return False
        # One by devices is as good as any, but for whoever wants a room.
        by_device = connection.device is not None and wanted.signal is not SignalBy.ROOM
        return by_device or mine.signal is wanted.signal


class SessionPool:
    """The sessions.

    Args:
        place: makes one.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._all: set[_Warm] = set()

    @contextlib.asynccontextmanager
    async def connection(self, peer: UserId, options: CallOptions, says: Says) -> AsyncIterator[Connection]:
        """Use a session with a peer, warm or new.

        Args:
            peer: whom.
            options: how to call; one that was called in the same way is used.
            says: told what a person should know, as long as the context lasts.

        Raises:
            ClientError: the call did not get through; says why, and whether to try again.
            HomeserverError: the homeserver refuses us, or is away.
        """
        warm = next((each for each in self._all if each.fits(peer, options)), None) or self._begin(peer, options)
        warm.audience.members.append(says)
        try:
            yield await asyncio.shield(warm.up)
        finally:
            warm.audience.members.remove(says)
            if not warm.audience.members:
                await self._end(warm)

    async def close(self) -> None:
        """End all sessions in order, whoever uses them."""
        await asyncio.gather(*(self._end(each) for each in tuple(self._all)))

    def _begin(self, peer: UserId, options: CallOptions) -> _Warm:
        warm = _Warm(peer, options, asyncio.get_running_loop().create_future())
        # Nobody may be left who waits for it.
        warm.up.add_done_callback(lambda up: up.cancelled() or up.exception())
        warm.task = asyncio.create_task(self._live(warm), name="session")
        self._all.add(warm)
        return warm

    async def _live(self, warm: _Warm) -> None:
        try:
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
