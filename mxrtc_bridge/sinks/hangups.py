"""Tells when a socket that nobody reads at the moment has been reset, or is gone.

A loop's readers and writers do not tell that alone: a reader of a socket whose other side has half-closed would be
called for ever, so it is taken away, and then nobody looks. epoll tells of errors and of the end of both directions for
whatever it watches (epoll_ctl(2), EPOLLERR and EPOLLHUP), and an epoll is itself a descriptor that a loop can wait for.

Where the system has no epoll such a socket is noticed at the next write, or by its keep-alive.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from weakref import WeakKeyDictionary, ref

from mxrtc_bridge import system

_EDGES, _HAS_ERROR = 1 << 31, 0x08
"""EPOLLET and EPOLLERR, which other systems have no names for."""
_MAX_EVENTS = 256
"""Told at once; the rest with the loop's next turn."""


class HangupWatcher:
    """The descriptors of one loop that are watched. There is one of it for each loop, see :func:`watcher`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = ref(loop)
        self._told: dict[int, Callable[[bool], None]] = {}
        self._epoll: Any = None

    def add(self, descriptor: int, told: Callable[[bool], None]) -> None:
        """Watch a descriptor until :meth:`remove`.

        Args:
            descriptor: of a socket.
            told: called once for each change with True if the socket has an error (a reset), or with False if both
                of its directions have ended.
        """
        loop = self._loop()
        assert loop is not None
        # Without room for one more it is noticed as where there is no epoll.
        with suppress(OSError):
            if self._epoll is None:
                self._epoll = system.make_epoll()
                if self._epoll is None:
                    return
                loop.add_reader(self._epoll.fileno(), self._ready)
            # Edges only: what is told once stays so.
            self._epoll.register(descriptor, _EDGES)
            self._told[descriptor] = told

    def remove(self, descriptor: int) -> None:
        """Watch no longer; must be called before the descriptor is closed. A second call does nothing."""
        if self._told.pop(descriptor, None) is None:
            return
        assert self._epoll is not None
        # A descriptor that was closed is gone from it already.
        with suppress(OSError):
            self._epoll.unregister(descriptor)
        loop = self._loop()
        if not self._told and loop is not None:
            loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._epoll = None

    def _ready(self) -> None:
        assert self._epoll is not None
        for descriptor, events in self._epoll.poll(0, _MAX_EVENTS):
            # Whoever was told before may have ended others.
            told = self._told.get(descriptor)
            if told is not None:
                told(bool(events & _HAS_ERROR))


_watchers: WeakKeyDictionary[asyncio.AbstractEventLoop, HangupWatcher] = WeakKeyDictionary()


def watcher() -> HangupWatcher:
    """The one of the running loop."""
    loop = asyncio.get_running_loop()
    return _watchers.setdefault(loop, HangupWatcher(loop))
