"""The command that holds the account: it lends data channels of its sessions to others, by its socket.

Each connection to the socket is one guest, who asks for one peer, or for something that the device does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from mxrtc_bridge.client.options import CallOptions
from mxrtc_bridge.client.sharing.heartbeat import BEAT_S
from mxrtc_bridge.client.sharing.pool import SessionPool
from mxrtc_bridge.client.sharing.served_guest import MAX_UNTAKEN_BYTES, ORDER_S, DeviceUse, Guest
from mxrtc_bridge.client.state import Login
from mxrtc_bridge.sinks.frame_socket import Bound, FrameSocket, bind, serve

MAX_GUESTS = 64
"""Others are told so, and call by themselves."""


class Holder:
    """Answers guests; from :meth:`open` to :meth:`close`.

    Args:
        pool: the sessions that it lends.
        device: does what guests ask of the device.
        options: how to call, but for what a guest says.
        login: whose sessions they are.
        max_guests: see :data:`MAX_GUESTS`.
        max_untaken: see :data:`~mxrtc_bridge.client.sharing.served_guest.MAX_UNTAKEN_BYTES`.
        order_s: see :data:`~mxrtc_bridge.client.sharing.served_guest.ORDER_S`.
        beat_s: see :data:`mxrtc_bridge.client.sharing.heartbeat.BEAT_S`.
    """

    def __init__(
        self,
        pool: SessionPool,
        device: DeviceUse,
        options: CallOptions,
        login: Login,
        *,
        max_guests: int = MAX_GUESTS,
        max_untaken: int = MAX_UNTAKEN_BYTES,
        order_s: float = ORDER_S,
        beat_s: float = BEAT_S,
    ) -> None:
        self.pool = pool
        self.device = device
        self.login = login
        self._order_s = order_s
        self._beat_s = beat_s
        self._options = options
        self._max_guests = max_guests
        self._max_untaken = max_untaken
        self._guests: set[Guest] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._made: Bound | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    async def open(self, folder: int, path: Path) -> None:
        """Listen.

        Raises:
            OSError: as the kernel says.
        """
        self._made = bind(folder, path)
        try:
            self._server = await serve(self._made.socket, self._guest)
        except BaseException:
            # Also of one that is ended meanwhile.
            self._made.socket.close()
            self._made.remove()
            raise
        self.start(self._beat(), "signs of life")

    @property
    def guests(self) -> int:
        """How many have asked for something."""
        return sum(each.is_served for each in self._guests)

    @property
    def waiting_bytes(self) -> int:
        """What guests have sent, and waits here for its turn."""
        return sum(each.waiting_bytes for each in self._guests)

    def turn_away(self) -> None:
        """Take no more guests; those who are there stay, and are told that our own work is done."""
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._made is not None:
            self._made.remove()
            self._made = None
        for guest in tuple(self._guests):
            guest.go()

    async def wait_until_empty(self) -> None:
        """Wait until the last guest has gone."""
        await self._empty.wait()

    def _guest(self, socket: FrameSocket) -> Guest:
        return Guest(socket, self, self._options, max_untaken=self._max_untaken, order_s=self._order_s)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self._beat_s)
            for guest in tuple(self._guests):
                guest.beat()

    async def close(self) -> None:
        """End, and tell every guest."""
        self.turn_away()
        for guest in tuple(self._guests):
            guest.end()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # For guests

    def start(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def takes(self, guest: Guest) -> bool:
        """Whether there is room for one more."""
        if self._server is None or len(self._guests) >= self._max_guests:
            return False
        self._guests.add(guest)
        self._empty.clear()
        return True

    def left(self, guest: Guest) -> None:
        self._guests.discard(guest)
        if not self._guests:
            self._empty.set()
