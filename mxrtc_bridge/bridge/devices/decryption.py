"""Events between the inbox and the calls: decrypted where they are encrypted, refused where policy asks for more.

Must never let an event of a call through that came in plain text into an encrypted room, or from a device that the
policy does not admit; and must tell the caller why, in words, once an hour at most.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.devices.lookups import DeviceLookups, JudgedCaller, Standing
from mxrtc_bridge.bridge.devices.room_messages import RoomMessages, explain, readable_for_all
from mxrtc_bridge.core.call.codec import parse_message
from mxrtc_bridge.core.call.events import EVENT_TYPES, Reject, Version
from mxrtc_bridge.core.call.to_device import PEER_IDENTITY
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.errors import EventError, HomeserverError, RefusalCode, StorageError
from mxrtc_bridge.core.ids import PartyId, RoomId, UserId
from mxrtc_bridge.engine.ports import Counters
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.encrypted_rooms import Opened
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, Undecryptable
from mxrtc_bridge.matrix.outbox.outbox import Outbox
from mxrtc_bridge.matrix.rooms.room_index import RoomIndex
from mxrtc_bridge.storage.notice_times import NoticeStore

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
OTHER_IDENTITY = (
    "The homeserver shows another identity of me than mine, so that somebody else may answer in my place. "
    "I take no calls until that is mended; please tell my admin, whose log says more."
)
_WORDS = {
    Standing.UNTRUSTED: UNTRUSTED_DEVICE,
    Standing.CHANGED: CHANGED_IDENTITY,
    Standing.UNLISTED: UNLISTED_DEVICE,
    Standing.UNKNOWN: UNKNOWN_DEVICE,
}


@dataclass(frozen=True, slots=True)
class ClearEvent:
    """An event of a room of a virtual user, in plain text."""

    event: RoomEvent
    local: UserId
    device: DeviceIdentity | None
    """The device that has encrypted it; None where it came in plain text."""


class EventDecryption:
    """See the head of this module."""

    def __init__(
        self,
        messages: RoomMessages,
        rooms: RoomIndex,
        outbox: Outbox,
        notices: NoticeStore,
        *,
        lookups: DeviceLookups,
        rights: Rights,
        counters: Counters,
        wall_ms: Callable[[], int],
        later: Callable[[UserId, Callable[[], Awaitable[object]]], bool],
    ) -> None:
        """Make it.

        Args:
            messages: what virtual users say and hear in rooms.
            rooms: who is in which room, and which are encrypted.
            outbox: sends refusals.
            notices: remembers who was told what.
            lookups: asks what is to be thought of a device that calls or gives commands.
            rights: the rules in force.
            counters: counts what is refused.
            wall_ms: milliseconds since the epoch.
            later: does what asks other homeservers, for a user, while the events behind this one are handled.
        """
        self._messages = messages
        self._rooms = rooms
        self._outbox = outbox
        self._notices = notices
        self._lookups = lookups
        self._rights = rights
        self._counters = counters
        self._wall_ms = wall_ms
        self._later = later
        self._preparing: set[tuple[RoomId, UserId]] = set()
        self._seldom = RateLimitedLog(log)

    async def open(
        self, event: RoomEvent, local: UserId, late: Callable[[ClearEvent], Awaitable[None]]
    ) -> ClearEvent | None:
        """Return what an event of a room of ``local`` says; None where that is nothing, or nothing yet.

        Args:
            event: the event; those of one sender come in order.
            local: the virtual user in its room.
            late: given what it says when its key has come later.
        """
        if event.type in ("m.room.member", "m.room.encryption"):
            self._prepare_keys(event, local)
            return None
        if event.type != "m.room.encrypted":
            return ClearEvent(event, local, None)
        if not self._messages.is_on:
            return None

        async def read_late(event: RoomEvent, opened: Opened | Undecryptable) -> None:
            if self._rooms.speaker_in(event.room_id) == local:
                clear = await self._readable(event, opened, local)
                if clear is not None:
                    await late(clear)

        opened = await self._messages.open(event, local, read_late)
        return None if opened is None else await self._readable(event, opened, local)

    async def admit(self, clear: ClearEvent) -> JudgedCaller | None:
        """Judge who has sent a call or a command; None if it must not be heard, which its sender is told."""
        event, local = clear.event, clear.local
        is_call, is_message = event.type in EVENT_TYPES, event.type == "m.room.message"
        plain = JudgedCaller(Standing.GOOD)
        if clear.device is None:
            if event.type == "m.reaction" and self._lookups.least is Trust.UNSIGNED:
                # Clients send reactions in plain text in encrypted rooms as well.
                return plain
            return plain if (is_call or is_message) and await self._is_believed(event, local) else None
        if not (is_call or is_message):
            return None
        caller = await self._judge(event, local, clear.device)
        if caller.is_good:
            return caller
        await self._refuse(event, local, _WORDS[caller.standing])
        return None

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
        await self._messages.prepare(room, local)

    async def _is_believed(self, event: RoomEvent, local: UserId) -> bool:
        """Whether an event in plain text is one that the room and the policy allow."""
        if self._messages.is_on and await self._messages.is_encrypted(event.room_id, local):
            # Everybody on its way could have written it.
            self._counters.refusal(RefusalCode.PLAIN_IN_ENCRYPTED)
            self._seldom.info(
                event.sender, "x %s from %s ignored: in plain text, in an encrypted room", event.type, event.sender
            )
            return False
        if event.type == "m.call.invite" and self._messages.shows_other(local):
            # By the room nothing would tell the caller that something is wrong.
            self._counters.refusal(RefusalCode.UNAVAILABLE)
            self._seldom.info(event.sender, "x call from %s: %s shows another identity", event.sender, local)
            await self._tell_refused(event, local, "identity", OTHER_IDENTITY, PEER_IDENTITY)
            return False
        if self._lookups.least is Trust.UNSIGNED:
            return True
        await self._refuse(event, local, PLAIN_TEXT)
        return False

    async def _readable(self, event: RoomEvent, opened: Opened | Undecryptable, local: UserId) -> ClearEvent | None:
        if isinstance(opened, Opened):
            return ClearEvent(opened.event, local, opened.device)
        self._counters.refusal(RefusalCode.UNDECRYPTABLE)
        self._seldom.info(
            event.sender, "x an event of %s to %s cannot be read: %s", event.sender, local, opened.obstacle.value
        )
        if self._rights.allows(event.sender, local):
            await self._say_once(event, local, "undecryptable", explain(opened))
        return None

    async def _judge(self, event: RoomEvent, local: UserId, device: DeviceIdentity) -> JudgedCaller:
        """What is to be thought of the device of an event now.

        It is asked for where something new begins by it: a call, or a command while not every device is trusted. The
        rest of a call belongs to a session whose device is asked for again and again.
        """
        begins = event.type == "m.call.invite" or (
            event.type == "m.room.message" and self._lookups.least is not Trust.UNSIGNED
        )
        if begins and self._rights.allows(event.sender, local):
            return await self._lookups.judge(local, device)
        return self._lookups.judge_by_message(device)

    async def _refuse(self, event: RoomEvent, local: UserId, text: str) -> None:
        """Reject a call because of the device that has sent it, and say why."""
        self._counters.refusal(RefusalCode.DEVICE)
        self._seldom.info(
            event.sender, "x %s from %s ignored: the device is not trusted enough", event.type, event.sender
        )
        await self._tell_refused(event, local, "device", text)

    async def _tell_refused(
        self, event: RoomEvent, local: UserId, what: str, text: str, reason: str | None = None
    ) -> None:
        if event.type not in ("m.call.invite", "m.room.message") or not self._rights.allows(event.sender, local):
            return
        await self._say_once(event, local, what, text)
        if event.type != "m.call.invite":
            return
        try:
            invite = parse_message(event.type, event.content)
            reject = Reject(invite.call_id, PartyId(secrets.token_hex(8)), Version.V1, reason)
            with readable_for_all():
                await self._outbox.send(event.room_id, local, reject, step=what)
        except (EventError, HomeserverError) as error:
            self._seldom.info(event.sender, "a call of %s was not rejected: %s", event.sender, error)

    async def _say_once(self, event: RoomEvent, local: UserId, what: str, text: str) -> None:
        """Tell the sender of a recent event, who has a right, something; not more often than once an hour."""
        now = self._wall_ms()
        if now - event.origin_server_ts > RECENT_MS:
            return
        try:
            if await self._notices.may_notify(UserId(f"{what} {event.sender}"), now, EXPLAIN_EVERY_MS):
                with readable_for_all():
                    await self._outbox.send_notice(event.room_id, local, text, key=f"{what}-{event.event_id}")
        except (HomeserverError, StorageError) as error:
            self._seldom.warning(event.sender, "%s could not be told why: %s", event.sender, error)
