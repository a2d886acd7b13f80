"""Messages of the bridge's users that nobody waits for: posted now, sent in the order of each room when it can be.

Whoever posts never waits, and never hears of a failure: what a notice tells has happened already, and is written down
elsewhere (the log, the ledger of a directory). Hence the bounds: a room has at most :data:`MAX_PER_ROOM` notices that
wait, all rooms together :data:`MAX_WAITING`. Beyond that a notice is left out; the next one that is sent in the room
says how many were. Notices that wait when the bridge stops are lost.

Of a room that is not read yet nobody knows who is in it: what is posted there is kept until then, at most
:data:`MAX_KEPT_PER_ROOM` notices of a room and :data:`MAX_KEPT` in all. It is sent if the room holds two.

How it works: rooms that have something to send stand in line, each once. A few senders take the first room, send its
first notice, and put the room back at the end. The homeserver's own limits of the rate are waited for below, in the
transport.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from mxrtc_bridge.core.errors import MxrtcError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.outbox.outbox import Outbox

log = logging.getLogger(__name__)

MAX_PER_ROOM = 64
MAX_WAITING = 1024
MAX_KEPT_PER_ROOM = 16
MAX_KEPT = 256
"""Notices for rooms that are not read yet."""
SENDERS = 4
"""Rooms that are sent to at a time."""


@dataclass(frozen=True, slots=True)
class _Notice:
    sender: UserId
    text: str
    html: str | None
    key: str
    fields: Mapping[str, object] | None


@dataclass(slots=True)
class _Room:
    waiting: deque[_Notice] = field(default_factory=deque)
    left_out: int = 0
    in_line: bool = False


class Notices:
    """See the head of this module. :meth:`run` must run for anything to be sent."""

    def __init__(
        self, *, max_waiting: int = MAX_WAITING, is_unread: Callable[[RoomId], bool] = lambda _room: False
    ) -> None:
        """Make them; nothing is sent before :meth:`run`.

        Args:
            max_waiting: See :data:`MAX_WAITING`.
            is_unread: whether it is not known yet who is in a room; :meth:`room_was_read` must be called when it is.
        """
        self._max_waiting = max_waiting
        self._is_unread = is_unread
        self._kept: dict[RoomId, list[_Notice]] = {}
        self._rooms: dict[RoomId, _Room] = {}
        self._line: asyncio.Queue[RoomId] = asyncio.Queue()
        self._waiting = 0
        self._seldom = RateLimitedLog(log)

    @property
    def waiting(self) -> int:
        """Notices that are not sent yet."""
        return self._waiting + sum(map(len, self._kept.values()))

    @property
    def rooms(self) -> int:
        """Rooms of which something is remembered."""
        return len(self._rooms)

    def post(
        self,
        room: RoomId,
        sender: UserId,
        text: str,
        html: str | None = None,
        *,
        key: str,
        fields: Mapping[str, object] | None = None,
    ) -> None:
        """Send a notice when it can be sent.

        Args:
            room: where to.
            sender: a virtual user who is in the room.
            text: the plain body.
            html: the same as HTML, all foreign text in it escaped.
            key: names this notice: the same key again is the same event.
            fields: what programs read, beside the body.
        """
        notice = _Notice(sender, text, html, key, fields)
        if self._is_unread(room):
            self._keep(room, notice)
        else:
            self._queue_up(room, notice)

    def _keep(self, room: RoomId, notice: _Notice) -> None:
        kept = self._kept.get(room, [])
        if len(kept) >= MAX_KEPT_PER_ROOM or sum(map(len, self._kept.values())) >= MAX_KEPT:
            self._seldom.warning(room, "! notices are left out: too many wait for rooms to be read")
            return
        self._kept.setdefault(room, kept).append(notice)

    def room_was_read(self, room: RoomId, holds_two: bool) -> None:
        """Send what was kept for a room; or forget it, as others than it was meant for may be there."""
        for notice in self._kept.pop(room, ()):
            if holds_two:
                self._queue_up(room, notice)

    def _queue_up(self, room: RoomId, notice: _Notice) -> None:
        queue = self._rooms.setdefault(room, _Room())
        if self._waiting >= self._max_waiting or len(queue.waiting) >= MAX_PER_ROOM:
            if not queue.left_out:
                self._seldom.warning(room, "! notices are left out: too many wait for the homeserver")
            queue.left_out += 1
            self._forget_if_idle(room)
            return
        queue.waiting.append(notice)
        self._waiting += 1
        self._stand_in_line(room, queue)

    async def run(self, outbox: Outbox) -> None:
        """Send by ``outbox`` until cancelled."""
        async with asyncio.TaskGroup() as senders:
            for number in range(SENDERS):
                senders.create_task(self._send_all(outbox), name=f"notices-{number}")

    async def _send_all(self, outbox: Outbox) -> None:
        while True:
            room = await self._line.get()
            queue = self._rooms[room]
            notice = queue.waiting.popleft()
            self._waiting -= 1
            left_out, queue.left_out = queue.left_out, 0
            try:
                await self._send(outbox, room, notice, left_out)
            finally:
                queue.in_line = False
                if queue.waiting:
                    self._stand_in_line(room, queue)
                else:
                    self._forget_if_idle(room)

    async def _send(self, outbox: Outbox, room: RoomId, notice: _Notice, left_out: int) -> None:
        text, html = notice.text, notice.html
        if left_out:
            words = "1 notice before this one was left out." if left_out == 1 else f"{left_out} were left out before."
            text = f"{text}\n({words})"
            html = None if html is None else f"{html}<br>({words})"
        try:
            await outbox.send_notice(room, notice.sender, text, html, key=notice.key, fields=notice.fields)
        except MxrtcError as error:  # the homeserver refuses, or the database is away
            self._seldom.warning(room, "! a notice of %s was not sent: %s", notice.sender, error)
        except Exception as error:  # noqa: BLE001 - one that cannot be sent, for a mistake of ours, must not keep others back
            self._seldom.exception(room, "! a notice of %s was not sent", notice.sender, error=error)

    def _stand_in_line(self, room: RoomId, queue: _Room) -> None:
        if not queue.in_line:
            queue.in_line = True
            self._line.put_nowait(room)

    def _forget_if_idle(self, room: RoomId) -> None:
        queue = self._rooms[room]
        if not queue.waiting and not queue.in_line:
            # What was left out while all rooms together had too many is said nowhere but in the log.
            del self._rooms[room]
