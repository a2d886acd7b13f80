"""Events between the inbox and the calls: decrypted where they are encrypted, refused where policy asks for more.

Must never let an event of a call through that came in plain text into an encrypted room, or from a device that the
policy does not admit; and must tell the caller why, in words, once an hour at most.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Protocol

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.bridge.devices.devices import Encryption, explain, readable_for_all
from mxrtc_bridge.bridge.devices.lookups import DeviceLookups, Standing
from mxrtc_bridge.core.access.policy import Allow
from mxrtc_bridge.core.call.codec import parse_message
from mxrtc_bridge.core.call.events import EVENT_TYPES, Reject, Version
from mxrtc_bridge.core.crypto.records import CallerDevice, Trust
from mxrtc_bridge.core.errors import EventError, HomeserverError, RefusalCode, StorageError
from mxrtc_bridge.core.ids import PartyId, RoomId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.encrypted_rooms import Opened
from mxrtc_bridge.matrix.crypto.values import Undecryptable
from mxrtc_bridge.matrix.outbox.outbox import Outbox

log = logging.getLogger(__name__)

RECENT_MS = 5 * 60 * 1000
"""Only who has just written something is told that it could not be read."""
EXPLAIN_EVERY_MS = 3600 * 1000
PLAIN_TEXT = "I take calls and commands only from encrypted rooms: please start an encrypted direct chat with me."
UNTRUSTED_DEVICE = (
    "I take calls and commands only from verified devices, and yours is not. "
    "Please verify it with another session of yours (in the security settings of your client), then try again."
)


CHANGED_IDENTITY = (
    "You show another identity than the one that I have seen first, so I do not take calls and commands from you. "
    "If you have made a new one, ask my admin to accept it, or verify me from your client while the admin looks on."
)
UNLISTED_DEVICE = (
    "Your homeserver does not list the device that you have written with, or not yet. "
    "Please try again; if that does not help, log in anew."
)
UNKNOWN_DEVICE = "I could not ask your homeserver about your devices just now. Please try again in a moment."
_WORDS = {
    Standing.UNTRUSTED: UNTRUSTED_DEVICE,
    Standing.CHANGED: CHANGED_IDENTITY,
    Standing.UNLISTED: UNLISTED_DEVICE,
    Standing.UNKNOWN: UNKNOWN_DEVICE,
}


class RoomUsers(Protocol):
    """What this module must know about rooms."""

    def members(self, room: RoomId) -> frozenset[UserId] | None: ...

    def speaker_in(self, room: RoomId) -> UserId | None: ...

    def is_encrypted(self, room: RoomId) -> bool: ...


class NoticeTimes(Protocol):
    """Remembers who was told what."""

    async def may_notify(self, user: UserId, now_ms: int, interval_ms: int, /) -> bool: ...


class RefusalCounter(Protocol):
    """Counts what is refused."""

    def refusal(self, code: RefusalCode) -> None: ...


class EventDecryption:
    """See the head of this module."""

    def __init__(
        self,
        encryption: Encryption,
        rooms: RoomUsers,
        outbox: Outbox,
        notices: NoticeTimes,
        *,
        lookups: DeviceLookups,
        rights: Rights,
        config: CurrentConfig,
        counters: RefusalCounter,
        wall_ms: Callable[[], int],
        handle_call: Callable[[RoomEvent, UserId, CallerDevice | None], Awaitable[None]],
        handle_message: Callable[[RoomEvent, UserId], Awaitable[None]],
        handle_verification: Callable[[RoomEvent, UserId], bool],
        later: Callable[[UserId, Callable[[], Awaitable[object]]], bool],
    ) -> None:
        """Make it.

        Args:
            encryption: the devices of our users.
            rooms: who is in which room, and which are encrypted.
            outbox: sends refusals.
            notices: remembers who was told what.
            lookups: asks what is to be thought of a device that calls or gives commands.
            rights: the rules in force.
            config: has the policy for devices.
            counters: counts what is refused.
            wall_ms: milliseconds since the epoch.
            handle_call: given each event of a call that may be looked at, in plain text, the peer it is for, and the
                device that has encrypted it.
            handle_message: the same for messages and reactions.
            handle_verification: given each event in plain text first; whether it belongs to a verification. Must not
                block.
            later: does what asks other homeservers, for a user, while the events behind this one are handled.
        """
        self._encryption = encryption
        self._rooms = rooms
        self._outbox = outbox
        self._notices = notices
        self._lookups = lookups
        self._rights = rights
        self._config = config
        self._counters = counters
        self._wall_ms = wall_ms
        self._handle_call = handle_call
        self._handle_message = handle_message
        self._handle_verification = handle_verification
        self._later = later
        self._preparing: set[tuple[RoomId, UserId]] = set()
        self._seldom = RateLimitedLog(log)

    async def handle(self, event: RoomEvent, local: UserId) -> None:
        """Take one event of a room of the peer ``local``; those of one sender come in order."""
        if event.type in ("m.room.member", "m.room.encryption"):
            self._prepare_keys(event, local)
        elif event.type == "m.room.encrypted":
            await self._handle_encrypted(event, local)
        elif self._handle_verification(event, local):
            # In plain text as well, as clients send it: what it says is believed only after people have compared it.
            return
        elif event.type in EVENT_TYPES and await self._is_believed(event, local):
            await self._handle_call(event, local, None)
        elif event.type == "m.room.message" and await self._is_believed(event, local):
            await self._handle_message(event, local)
        elif event.type == "m.reaction" and self._least is Trust.UNSIGNED:
            # Clients send reactions in plain text in encrypted rooms as well.
            await self._handle_message(event, local)

    def _prepare_keys(self, event: RoomEvent, local: UserId) -> None:
        """Share our key when somebody has joined, so that the first answer need not wait for it."""
        place = (event.room_id, local)
        if place in self._preparing or self._rooms.members(event.room_id) is None:
            return
        if self._rooms.is_encrypted(event.room_id) and self._later(event.sender, lambda: self._prepare(*place)):
            self._preparing.add(place)

    async def _prepare(self, room: RoomId, local: UserId) -> None:
        # From now on somebody else may join, for whom it is to be done once more.
        self._preparing.discard((room, local))
        members = self._rooms.members(room)
        if members is not None and self._rooms.is_encrypted(room):
            await self._encryption.prepare(room, local, members)

    async def _is_believed(self, event: RoomEvent, local: UserId) -> bool:
        """Whether an event in plain text is one that the room and the policy allow."""
        if self._encryption.is_on and await self._encryption.is_encrypted(
            event.room_id, local, state=self._rooms.is_encrypted(event.room_id)
        ):
            # Everybody on its way could have written it.
            self._counters.refusal(RefusalCode.PLAIN_IN_ENCRYPTED)
            self._seldom.info(
                event.sender, "x %s from %s ignored: in plain text, in an encrypted room", event.type, event.sender
            )
            return False
        if self._least is Trust.UNSIGNED:
            return True
        await self._refuse(event, local, PLAIN_TEXT)
        return False

    @property
    def _least(self) -> Trust:
        return self._config.in_force.encryption.least

    async def _handle_encrypted(self, event: RoomEvent, local: UserId) -> None:
        if not self._encryption.is_on:
            return

        async def late(event: RoomEvent, opened: Opened | Undecryptable) -> None:
            if self._rooms.speaker_in(event.room_id) == local:
                await self._handle_opened(event, opened, local)

        opened = await self._encryption.open(event, local, late)
        if opened is not None:
            await self._handle_opened(event, opened, local)

    async def _handle_opened(self, event: RoomEvent, opened: Opened | Undecryptable, local: UserId) -> None:
        if isinstance(opened, Undecryptable):
            self._counters.refusal(RefusalCode.UNDECRYPTABLE)
            self._seldom.info(
                event.sender, "x an event of %s to %s cannot be read: %s", event.sender, local, opened.obstacle.value
            )
            await self._say_once(event, local, "undecryptable", explain(opened))
        elif self._handle_verification(opened.event, local):
            # From any device: how far it is trusted is what is being found out.
            return
        elif opened.event.type in EVENT_TYPES or opened.event.type == "m.room.message":
            standing, known = await self._judge(opened, local)
            if standing is not Standing.GOOD:
                await self._refuse(opened.event, local, _WORDS[standing])
            elif opened.event.type in EVENT_TYPES:
                await self._handle_call(opened.event, local, known)
            else:
                await self._handle_message(opened.event, local)

    async def _judge(self, opened: Opened, local: UserId) -> tuple[Standing, CallerDevice]:
        """What is to be thought of the device of an event now.

        It is asked for where something new begins by it: a call, or a command while not every device is trusted. The
        rest of a call belongs to a session whose device is asked for again and again.
        """
        device, event = opened.device, opened.event
        begins = event.type == "m.call.invite" or (event.type == "m.room.message" and self._least is not Trust.UNSIGNED)
        if begins and self._may_use(event.sender, local):
            standing, known, _ = await self._lookups.judge(local, device, self._least)
            # The policy may have been changed meanwhile.
            trusted = standing is not Standing.GOOD or known.trust.meets(self._least)
            return standing if trusted else Standing.UNTRUSTED, known
        known = CallerDevice(device.device, device.ed25519, device.trust)
        return Standing.GOOD if device.trust.meets(self._least) else Standing.UNTRUSTED, known

    async def _refuse(self, event: RoomEvent, local: UserId, text: str) -> None:
        """Reject a call because of the device that has sent it, and say why."""
        self._counters.refusal(RefusalCode.DEVICE)
        self._seldom.info(
            event.sender, "x %s from %s ignored: the device is not trusted enough", event.type, event.sender
        )
        if event.type not in ("m.call.invite", "m.room.message") or not self._may_use(event.sender, local):
            return
        await self._say_once(event, local, "device", text)
        if event.type != "m.call.invite":
            return
        try:
            invite = parse_message(event.type, event.content)
            reject = Reject(invite.call_id, PartyId(secrets.token_hex(8)), Version.V1)
            with readable_for_all():
                await self._outbox.send(event.room_id, local, reject, step="device")
        except (EventError, HomeserverError) as error:
            log.info("a call was not rejected: %s", error)

    async def _say_once(self, event: RoomEvent, local: UserId, what: str, text: str) -> None:
        """Tell the sender of a recent event something, not more often than once an hour."""
        now = self._wall_ms()
        if now - event.origin_server_ts > RECENT_MS or not self._may_use(event.sender, local):
            return
        try:
            if await self._notices.may_notify(UserId(f"{what} {event.sender}"), now, EXPLAIN_EVERY_MS):
                with readable_for_all():
                    await self._outbox.send_notice(event.room_id, local, text, key=f"{what}-{event.event_id}")
        except (HomeserverError, StorageError) as error:
            log.warning("%s could not be told why: %s", event.sender, error)

    def _may_use(self, user: UserId, local: UserId) -> bool:
        return isinstance(self._rights.may_call(user, local), Allow)
