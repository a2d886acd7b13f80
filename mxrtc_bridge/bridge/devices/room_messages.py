"""What virtual users say and hear in rooms, encrypted and decrypted by their devices.

Must never say in plain text what belongs into an encrypted room, nor let anything wait for a key that is late: what is
late is handled when its key comes (:mod:`.late_keys`), for a minute, and then its sender is told.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar

from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.bridge.devices.devices import Encryption
from mxrtc_bridge.bridge.devices.late_keys import LateHandler, LateKeys, session_of
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.errors import HomeserverError, LocalError, StateError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.encrypted_rooms import Opened
from mxrtc_bridge.matrix.crypto.values import Obstacle, Undecryptable
from mxrtc_bridge.matrix.rooms.room_index import RoomIndex

log = logging.getLogger(__name__)

_LEAST: ContextVar[Trust | None] = ContextVar("least trust", default=None)
"""Overrides the policy for what the current task sends."""


class RoomMessages:
    """See the head of this module. Nothing waits for its key before :meth:`run` runs.

    Args:
        devices: of all virtual users.
        rooms: who is in which room, and which are encrypted.
        config: who is trusted.
        has_right: whether a user holds any right.
    """

    def __init__(
        self, devices: Encryption, rooms: RoomIndex, config: CurrentConfig, has_right: Callable[[UserId], bool]
    ) -> None:
        self._devices = devices
        self._rooms = rooms
        self._config = config
        self._late = LateKeys(config.in_force.homeserver.domain, has_right)
        self._seldom = RateLimitedLog(log)
        self.run = self._late.run
        """Owns what waits for its key, until cancelled."""

    @property
    def is_on(self) -> bool:
        """Whether encrypted rooms are understood."""
        return self._devices.is_on

    def shows_other(self, local: UserId) -> bool:
        """Whether the homeserver shows another identity of a virtual user than ours."""
        return self._devices.shows_other(local)

    async def is_encrypted(self, room: RoomId, local: UserId) -> bool:
        """Whether a room is or ever was encrypted, as far as we know."""
        rooms, state = self._devices.rooms_of(local), self._rooms.is_encrypted(room)
        return state if rooms is None else await rooms.encryption_of(room, encrypted=state) is not None

    async def seal(
        self, room: RoomId, local: UserId, event_type: str, content: Mapping[str, object]
    ) -> tuple[str, Mapping[str, object]]:
        """Return what is to be sent in a room: encrypted where the room is, and where we can.

        Where encryption is switched off everything is plain text, and users are told so in each encrypted room.

        Raises:
            HomeserverError: keys could not be asked for or sent, or the device is not up.
        """
        if room in self._rooms.unread:
            # Whether it is encrypted is not known yet; no other room waits for this one, so it counts as a refusal.
            raise HomeserverError(f"{local} says nothing in {room} before it is known who is in it", 403)
        rooms, state = self._devices.rooms_of(local), self._rooms.is_encrypted(room)
        if rooms is None and not (self.is_on and state):
            return event_type, content
        encryption = None if rooms is None else await rooms.encryption_of(room, encrypted=state)
        if rooms is not None and encryption is None:
            return event_type, content
        rooms = await self._devices.rooms_when_up(local)
        if rooms is None or encryption is None:
            raise HomeserverError(f"{local} cannot speak in an encrypted room: its device is not up")
        members = self._rooms.members(room)
        if members is None:
            # Of a room that is not known here nobody but the virtual user is known to be in it.
            named = state and self._rooms.speaker_in(room) == local
            members = await rooms.joined_members(room) if named else frozenset({local})
        least = _LEAST.get() or self._config.in_force.encryption.least
        sealed = await rooms.device.outbound.encrypt(encryption, members, event_type, content, least=least)
        return "m.room.encrypted", sealed

    async def is_readable_by(self, room: RoomId, local: UserId, user: UserId) -> bool:
        """Whether what a virtual user says in an encrypted room can be read by any device of a user, by the policy.

        Raises:
            HomeserverError: their devices could not be asked for.
        """
        rooms = await self._devices.rooms_when_up(local)
        if rooms is None or room in self._rooms.unread:
            return False
        known = (await rooms.device.lists.of([user])).get(user)
        least = self._config.in_force.encryption.least
        return known is not None and any(device.trust.meets(least) for device in known.devices)

    async def prepare(self, room: RoomId, local: UserId) -> None:
        """Give the devices of a room our key before there is something to say; failures are not the caller's."""
        rooms, members = self._devices.rooms_of(local), self._rooms.members(room)
        if rooms is None or members is None or not self._rooms.is_encrypted(room):
            return
        if self._devices.device_of(local) is None:
            return
        try:
            encryption = await rooms.encryption_of(room, encrypted=True)
            if encryption is not None:
                await rooms.device.outbound.prepare(encryption, members, least=self._config.in_force.encryption.least)
        except (HomeserverError, LocalError) as error:
            self._seldom.info(room, "the keys of a room of %s are not prepared: %s", local, error)

    async def open(self, event: RoomEvent, local: UserId, late: LateHandler) -> Opened | Undecryptable | None:
        """Decrypt an event; None where it waits for its key: ``late`` is given it when the key has come, or will not.

        Raises:
            StateError: encryption is off, or the device is not up.
        """
        rooms = await self._devices.rooms_when_up(local)
        if rooms is None:
            raise StateError(self._devices.why_off or f"the device of {local} is not up")
        session = session_of(event, local)
        result: Opened | Undecryptable = Undecryptable(Obstacle.NO_KEY, session[-1])
        if not self._late.holds(session):
            result = await rooms.open(event)
            if not isinstance(result, Undecryptable) or not result.may_come:
                return result
        return None if self._late.put(session, event, rooms.open, late) else result


@contextmanager
def readable_for_all() -> Iterator[None]:
    """Let untrusted devices read what is sent in this block: a refusal that they cannot read is none.

    They get the session from this message on; it is replaced before anything else is said.
    """
    token = _LEAST.set(Trust.UNSIGNED)
    try:
        yield
    finally:
        _LEAST.reset(token)


def explain(result: Undecryptable) -> str:
    """Say to a user why we could not read a message, and what to do."""
    words = f"I could not read your last message: {result.obstacle.value}."
    match result.obstacle:
        case Obstacle.NO_KEY:
            return f"{words} Please try again; if that does not help, restart your client."
        case Obstacle.WITHHELD:
            return f"{words} Please check in your client's security settings that you let devices like mine read along."
        case _:
            return f"{words} Please send it again from an up-to-date client."
