"""Sends the call events of our side: the ``Signaller`` of the engine, for the bridge and for the client.

It must never send two events of a room out of the order in which they were handed over, and never let a repeated send
become a second event.

How it works: one lock a room, handed on in order of arrival; the caller's own task does the sending, so that there is
no task to own here. The transaction id is a hash of the room, the call, the sender and the step, which makes the
homeserver recognise a repetition even after a restart of ours. At the bounds a send fails at once: a room that far
behind has no call left that could be saved.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from mxrtc_bridge.core.call.codec import content_of
from mxrtc_bridge.core.call.events import CallMessage
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import CallId, EventId, RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import Homeserver

MAX_WAITING_PER_ROOM = 128
"""Sends in one room at the same time; at the limit a send fails. A call sends about six events."""
MAX_WAITING = 4096
"""Sends at the same time, all rooms together."""
SEND_TIMEOUT_S = 60.0
"""Seconds for one send, its time in the queue included."""


def transaction_id(room: RoomId, sender: UserId, call_id: CallId | str, step: str) -> str:
    """Name one send for good. The parts are told apart by length, so that no two different sends share a name."""
    digest = hashlib.sha256()
    for part in (room, sender, call_id, step):
        data = part.encode()
        digest.update(len(data).to_bytes(4, "big"))
        digest.update(data)
    return f"mxrtc-{digest.hexdigest()[:40]}"


def notice_content(text: str, html: str | None = None) -> dict[str, object]:
    """An ``m.notice``, which bots do not answer, and which mentions nobody.

    Args:
        text: the plain body.
        html: the same as HTML, all foreign text in it escaped.
    """
    content: dict[str, object] = {"msgtype": "m.notice", "body": text, "m.mentions": {}}
    if html is not None:
        content |= {"format": "org.matrix.custom.html", "formatted_body": html}
    return content


class _RoomQueue:
    __slots__ = ("lock", "waiting")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0


class Outbox:
    """Ordered sends per room."""

    def __init__(
        self,
        homeserver: Homeserver,
        *,
        masquerade: bool,
        timeout_s: float = SEND_TIMEOUT_S,
        max_waiting: int = MAX_WAITING,
        max_waiting_per_room: int = MAX_WAITING_PER_ROOM,
    ) -> None:
        """Make an outbox.

        Args:
            homeserver: sends the events.
            masquerade: whether our token is an application service's, which names the sender in each request.
            timeout_s: seconds for one send, its time in the queue included.
            max_waiting: See :data:`MAX_WAITING`.
            max_waiting_per_room: See :data:`MAX_WAITING_PER_ROOM`.
        """
        self._max_waiting_per_room = max_waiting_per_room
        self._max_waiting = max_waiting
        self._homeserver = homeserver
        self._masquerade = masquerade
        self._timeout_s = timeout_s
        self._rooms: dict[RoomId, _RoomQueue] = {}
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """Messages that wait or are being sent, over all rooms."""
        return self._waiting

    @property
    def rooms(self) -> int:
        """Rooms of which something is remembered."""
        return len(self._rooms)

    async def send(self, room: RoomId, sender: UserId, message: CallMessage, *, step: str) -> EventId:
        """Send a call event; returns its id when the homeserver has it.

        Args:
            room: the room of the call.
            sender: our side of the call.
            message: what to say.
            step: names this message within its call: the same step again is the same event.

        Raises:
            HomeserverError: it was refused, too many sends wait, or the homeserver did not take it in time.
        """
        event_type, content = content_of(message)
        return await self._send(room, sender, event_type, content, transaction_id(room, sender, message.call_id, step))

    async def send_notice(
        self,
        room: RoomId,
        sender: UserId,
        text: str,
        html: str | None = None,
        *,
        key: str,
        fields: Mapping[str, object] | None = None,
    ) -> EventId:
        """Send an ``m.notice`` (which bots do not answer) in its turn, without calling anybody's attention.

        Args:
            room: where to.
            sender: our side.
            text: the plain body.
            html: the same as HTML, all foreign text in it escaped.
            key: names this message: the same key again is the same event.
            fields: what programs read, beside the body; names of our own only.

        Raises:
            HomeserverError: as for :meth:`send`.
        """
        content = {**(fields or {}), **notice_content(text, html)}
        return await self._send(room, sender, "m.room.message", content, transaction_id(room, sender, key, "notice"))

    async def send_event(
        self, room: RoomId, sender: UserId, event_type: str, content: Mapping[str, object], *, key: str
    ) -> EventId:
        """Send any other event in its turn; the same ``key`` again is the same event.

        Raises:
            HomeserverError: as for :meth:`send`.
        """
        return await self._send(room, sender, event_type, content, transaction_id(room, sender, key, event_type))

    async def _send(
        self, room: RoomId, sender: UserId, event_type: str, content: Mapping[str, object], txn_id: str
    ) -> EventId:
        try:
            async with asyncio.timeout(self._timeout_s), self._turn(room):
                as_user = sender if self._masquerade else None
                return await self._homeserver.send_event(room, event_type, content, txn_id, as_user)
        except TimeoutError as error:
            raise HomeserverError(
                f"could not send {event_type} to {room}: "
                f"the homeserver did not take it within {self._timeout_s:g} seconds"
            ) from error

    @asynccontextmanager
    async def _turn(self, room: RoomId) -> AsyncIterator[None]:
        queue = self._rooms.get(room)
        if self._waiting >= self._max_waiting or (queue is not None and queue.waiting >= self._max_waiting_per_room):
            raise HomeserverError(f"could not send to {room}: too many messages wait for the homeserver")
        if queue is None:
            queue = self._rooms[room] = _RoomQueue()
        queue.waiting += 1
        self._waiting += 1
        try:
            async with queue.lock:
                yield
        finally:
            queue.waiting -= 1
            self._waiting -= 1
            if not queue.waiting:
                del self._rooms[room]
