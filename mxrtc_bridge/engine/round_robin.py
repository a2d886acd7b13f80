"""Turns: who is next where many order work and only some of it can be done at a time.

Those with a right, the users of our own server and foreign servers take turns; of foreign servers each in its turn,
and of each server its users in their turn. So nobody waits for a crowd, however many names it has, and work that takes
long holds only the places of whoever has ordered it. Work of one sender begins in the order in which it was ordered.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from mxrtc_bridge.core.bounds.shares import FullShare, ShareLimits, Shares, host_of
from mxrtc_bridge.core.ids import UserId

_Queue = deque["asyncio.Future[None]"]


class _Line:
    """Those who wait, by server and by sender; whoever was served goes to the end."""

    def __init__(self) -> None:
        self._servers: OrderedDict[str, OrderedDict[UserId, _Queue]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._servers)

    def put(self, sender: UserId, waiter: asyncio.Future[None]) -> None:
        self._servers.setdefault(host_of(sender), OrderedDict()).setdefault(sender, deque()).append(waiter)

    def take(self, full: Callable[[UserId], FullShare | None]) -> tuple[UserId, asyncio.Future[None]] | None:
        """The next one that may go. Passes over those who have their share, of whom there are as many as work runs."""
        for _ in range(len(self._servers)):
            server, senders = next(iter(self._servers.items()))
            for _ in range(len(senders)):
                sender = next(iter(senders))
                why = full(sender)
                if why is None:
                    return sender, self._pop(server, senders, sender)
                if why is FullShare.SENDER:
                    senders.move_to_end(sender)
                elif why is FullShare.SERVER:
                    break
                else:
                    return None
            self._servers.move_to_end(server)
        return None

    def _pop(self, server: str, senders: OrderedDict[UserId, _Queue], sender: UserId) -> asyncio.Future[None]:
        queue = senders[sender]
        waiter = queue.popleft()
        self._tidy(server, senders, sender)
        if server in self._servers:
            self._servers.move_to_end(server)
        return waiter

    def _tidy(self, server: str, senders: OrderedDict[UserId, _Queue], sender: UserId) -> None:
        if senders[sender]:
            senders.move_to_end(sender)
        else:
            del senders[sender]
        if not senders:
            del self._servers[server]

    def remove(self, sender: UserId, waiter: asyncio.Future[None]) -> bool:
        """Forget one who waits no more, the others keep their places; False if it is not here."""
        server = host_of(sender)
        senders = self._servers.get(server)
        if senders is None or waiter not in senders.get(sender, ()):
            return False
        senders[sender].remove(waiter)
        if not senders[sender]:
            self._tidy(server, senders, sender)
        return True


class RoundRobin:
    """See the head of this module. How many may wait is for the caller to bound: each of them is a task of its own.

    Args:
        at_once: how much of each may be done at the same time.
        own_server: the server name of our homeserver.
        has_right: whether a user holds any right; asked only where somebody has to wait.
    """

    def __init__(self, at_once: ShareLimits, own_server: str, has_right: Callable[[UserId], bool]) -> None:
        self._active = Shares(at_once, own_server)
        self._has_right = has_right
        self._with_right, self._own, self._foreign = _Line(), _Line(), _Line()
        self._lines = deque((self._with_right, self._own, self._foreign))
        self.waiting = 0
        """How many wait for their turn."""

    @property
    def active(self) -> int:
        """How much is being done."""
        return len(self._active)

    @property
    def servers(self) -> int:
        """Servers that are remembered, since somebody of theirs waits."""
        return sum(map(len, self._lines))

    @asynccontextmanager
    async def of(self, sender: UserId) -> AsyncIterator[None]:
        """The next turn of ``sender``: ``async with`` waits for it, and the block that follows is the work."""
        if self.waiting or self._active.full(sender, has_right=_nobody) is not None:
            await self._wait(sender)
        else:
            self._active.add(sender)
        try:
            yield
        finally:
            self._active.remove(sender)
            if self.waiting:
                self._go_on()

    async def _wait(self, sender: UserId) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        foreign = self._active.is_foreign(sender)
        line = self._with_right if self._has_right(sender) else self._foreign if foreign else self._own
        line.put(sender, waiter)
        self.waiting += 1
        self._go_on()
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                # Its turn had come in the same step.
                self._active.remove(sender)
            elif line.remove(sender, waiter):
                self.waiting -= 1
            self._go_on()
            raise

    def _go_on(self) -> None:
        """Give the turns that are free to those who wait, one line after the other."""
        passed = 0
        while self.waiting and passed < len(self._lines):
            line = self._lines[0]
            self._lines.rotate(-1)
            found = line.take(self._full_with_right if line is self._with_right else self._full)
            if found is None:
                passed += 1
                continue
            passed = 0
            sender, waiter = found
            self.waiting -= 1
            if not waiter.done():
                self._active.add(sender)
                waiter.set_result(None)

    def _full(self, sender: UserId) -> FullShare | None:
        return self._active.full(sender, has_right=_nobody)

    def _full_with_right(self, sender: UserId) -> FullShare | None:
        return self._active.full(sender, has_right=_everybody)


def _nobody(_user: UserId) -> bool:
    return False


def _everybody(_user: UserId) -> bool:
    return True
