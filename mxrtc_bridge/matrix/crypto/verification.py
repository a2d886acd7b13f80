"""Verifications of one device of ours: the edge between the machine of the core and messages, to devices or in rooms.

Must never take a key for somebody's before a person has said that both sides show the same
(:mod:`mxrtc_bridge.core.crypto.sas`), nor let anybody begin whom its owner does not admit.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.crypto.sas import Stage, Verification
from mxrtc_bridge.core.crypto.sas_codes import ShortCode
from mxrtc_bridge.core.crypto.sas_events import EVENT_TYPES, TYPES, Request, parse_sas_event, transaction_of
from mxrtc_bridge.core.crypto.sas_values import (
    Agreement,
    Ask,
    Compared,
    Effect,
    GiveUp,
    LocalKeys,
    Received,
    RemoteKeys,
    SendToDevices,
    VerificationEnded,
    VerificationEvent,
    VerificationTick,
    VerifiedKeys,
)
from mxrtc_bridge.core.errors import EventError, HomeserverError
from mxrtc_bridge.core.ids import DeviceId, RoomId, UserId
from mxrtc_bridge.core.text.foreign_json import inside
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.binding import vodozemac
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent

log = logging.getLogger(__name__)

OLDEST_MS = 10 * 60 * 1000
NEWEST_MS = 5 * 60 * 1000
"""How far a request's time may be from ours, as the specification says."""
MAX_OPEN = 16
"""Verifications of one device at a time; of one user there is one, the newest."""


class OlmSecret:
    """An ephemeral key. Implements :class:`mxrtc_bridge.core.crypto.sas_values.Secret`."""

    def __init__(self) -> None:
        self._sas = vodozemac.Sas()
        self.public = self._sas.public_key.to_base64()

    def agree(self, key: str) -> Agreement:
        """Agree with the other side's key; once.

        Raises:
            ValueError: that is no key.
        """
        return _OlmAgreement(self._sas.diffie_hellman(vodozemac.Curve25519PublicKey.from_base64(key)))


class _OlmAgreement:
    def __init__(self, established: vodozemac.EstablishedSas) -> None:
        self._established = established

    def code(self, info: str) -> ShortCode:
        found = self._established.bytes(info)
        return ShortCode(tuple(found.emoji_indices), found.decimals)

    def mac(self, text: str, info: str) -> str:
        return self._established.calculate_mac(text, info)


async def own_keys(device: CryptoDevice) -> dict[str, str]:
    """The keys that a device of ours vouches for, by their ids: its own, and its user's identity if it is verified.

    Raises:
        HomeserverError: the devices of the own user are not known, and it does not answer.
    """
    keys = {f"ed25519:{device.device_id}": device.ed25519}
    master = device.master_key
    if master is None:
        own = await device.devices_of(device.user)
        master = own.master if any(each.trust is Trust.VERIFIED for each in own.devices) else None
    if master is not None:
        keys[f"ed25519:{master}"] = master
    return keys


@dataclass(slots=True, eq=False)
class Exchange:
    """One verification with one user."""

    user: UserId
    transaction: str
    machine: Verification
    room: RoomId | None = None
    """Where it takes place; None for one between devices."""
    vouched: VerifiedKeys | None = None
    """What is verified."""
    ended: VerificationEnded | None = None
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One event at a time, with all that follows from it: messages must leave in order."""

    @property
    def device(self) -> DeviceId | None:
        """Their device, once it is known."""
        return self.machine.device

    @property
    def code(self) -> ShortCode | None:
        """What is to be compared, once it is known."""
        return self.machine.code

    @property
    def waits_for_us(self) -> bool:
        """Whether our person has still to compare."""
        return self.machine.stage in (Stage.COMPARING, Stage.THEY_AGREE)


Changed = Callable[[Exchange, Effect], Awaitable[None]]
SendInRoom = Callable[[RoomId, SendToDevices, str], Awaitable[None]]
"""Sends an event in a room; the same key again is the same event."""


class Verifications:
    """The verifications of one device of ours."""

    def __init__(
        self,
        device: CryptoDevice,
        *,
        admits: Callable[[UserId], bool],
        changed: Changed,
        monotonic: Callable[[], float],
        wall_ms: Callable[[], int],
        send_in_room: SendInRoom | None = None,
    ) -> None:
        """Make them.

        Args:
            device: our device.
            admits: whether a user may begin one.
            changed: given what is to be shown, what is verified, and how it ends.
            monotonic: seconds, also of a machine that sleeps.
            wall_ms: milliseconds since the epoch.
            send_in_room: None where there are none in rooms.
        """
        self._device = device
        self._send_in_room = send_in_room
        self._admits = admits
        self._changed = changed
        self._monotonic = monotonic
        self._wall_ms = wall_ms
        self._open: dict[tuple[UserId, str], Exchange] = {}
        self._seldom = device.seldom.of(log)

    @property
    def open(self) -> tuple[Exchange, ...]:
        """All that have not ended, the oldest first."""
        return tuple(self._open.values())

    async def ask(self, user: UserId) -> Exchange | None:
        """Ask all devices of a user; None where there is none.

        Raises:
            HomeserverError: it does not answer.
        """
        theirs = await self._theirs(user)
        if not theirs.devices:
            return None
        exchange = await self._begin(user, secrets.token_hex(16), theirs, None)
        await self._feed(exchange, Ask(self._wall_ms()))
        return exchange

    async def receive(self, event: ToDeviceEvent) -> bool:
        """Take what has come for our device; False if it is no message of a verification.

        Raises:
            HomeserverError: an answer could not be sent.
        """
        if event.type not in EVENT_TYPES:
            return False
        try:
            transaction = transaction_of(event.content)
        except EventError as error:
            self._seldom.info(
                event.sender, "x a message of a verification from %s ignored: %s", event.sender, error.in_full
            )
            return True
        await self._take(event.sender, Received(event.type, event.content), transaction, None, None)
        return True

    async def receive_in_room(self, event: RoomEvent) -> bool:
        """Take an event of a room that is encrypted for our device; False if it is none of a verification.

        Raises:
            HomeserverError: an answer could not be sent.
        """
        if event.type == "m.room.message" and event.content.get("msgtype") == TYPES[Request]:
            if event.content.get("to") == self._device.user:
                received = Received(TYPES[Request], event.content)
                await self._take(event.sender, received, event.event_id, event.room_id, event.origin_server_ts)
            return True
        if event.type not in EVENT_TYPES or event.type == TYPES[Request]:
            return False
        about = inside(event.content, "m.relates_to", "event_id")
        if isinstance(about, str):
            await self._take(event.sender, Received(event.type, event.content), about, event.room_id, None)
        return True

    async def _take(
        self, sender: UserId, received: Received, transaction: str, room: RoomId | None, sent_ms: int | None
    ) -> None:
        exchange = self._open.get((sender, transaction))
        if exchange is None and received.type == TYPES[Request]:
            exchange = await self._asked(sender, received, transaction, room, sent_ms)
        if exchange is not None and exchange.room == room:
            await self._feed(exchange, received)

    async def _asked(
        self, sender: UserId, received: Received, transaction: str, room: RoomId | None, sent_ms: int | None
    ) -> Exchange | None:
        if not self._admits(sender):
            self._seldom.info(sender, "x %s may not be verified with %s", sender, self._device.user)
            return None
        try:
            request = parse_sas_event(received.type, received.content)
        except EventError as error:
            self._seldom.info(sender, "x a request of %s ignored: %s", sender, error.in_full)
            return None
        assert isinstance(request, Request)
        age_ms = self._wall_ms() - ((request.timestamp_ms or 0) if sent_ms is None else sent_ms)
        if not -NEWEST_MS <= age_ms <= OLDEST_MS:
            self._seldom.info(sender, "x a request of %s ignored: it is too old, or a clock is wrong", sender)
            return None
        return await self._begin(sender, transaction, await self._theirs(sender), room)

    async def _theirs(self, user: UserId) -> RemoteKeys:
        known = await self._device.devices_of(user, fresh=True)
        own = self._device.device_id if user == self._device.user else None
        keys = {each.device: each.ed25519 for each in known.devices if each.device != own}
        return RemoteKeys(user, keys, known.master)

    async def _begin(self, user: UserId, transaction: str, theirs: RemoteKeys, room: RoomId | None) -> Exchange:
        ours = LocalKeys(self._device.user, self._device.device_id, await own_keys(self._device))
        machine = Verification(
            ours,
            theirs,
            reference=(
                {"transaction_id": transaction}
                if room is None
                else {"m.relates_to": {"rel_type": "m.reference", "event_id": transaction}}
            ),
            transaction=transaction,
            secret=OlmSecret(),
            now=self._monotonic(),
        )
        exchange = Exchange(user, transaction, machine, room)
        # Whoever tries again need not wait until the first one is too old.
        of_user = [each for each in self.open if each.user == user]
        for old in of_user or self.open[: max(0, len(self._open) - MAX_OPEN + 1)]:
            await self.give_up(old)
        self._open[user, transaction] = exchange
        return exchange

    async def compared(self, exchange: Exchange, *, same: bool) -> None:
        """Say whether both sides show the same.

        Raises:
            HomeserverError: the other side could not be told.
        """
        await self._feed(exchange, Compared(same))

    async def give_up(self, exchange: Exchange) -> None:
        """End one."""
        await self._feed(exchange, GiveUp())

    async def tick(self) -> None:
        """End those that take too long."""
        for exchange in self.open:
            await self._feed(exchange, VerificationTick())

    async def _feed(self, exchange: Exchange, event: VerificationEvent) -> None:
        async with exchange.turn:
            exchange.machine.handle(self._monotonic(), event)
            effects: list[Effect] = []
            while (effect := exchange.machine.poll_effect()) is not None:
                effects.append(effect)
            for effect in effects:
                if isinstance(effect, VerificationEnded):
                    exchange.ended = effect
                    self._open.pop((exchange.user, exchange.transaction), None)
                elif isinstance(effect, VerifiedKeys):
                    exchange.vouched = effect
            for effect in effects:
                if isinstance(effect, SendToDevices):
                    await self._send(exchange, effect)
                else:
                    await self._changed(exchange, effect)

    async def _send(self, exchange: Exchange, effect: SendToDevices) -> None:
        try:
            if exchange.room is None:
                await self._device.sender.send_plain(exchange.user, effect.devices, effect.type, effect.content)
            elif self._send_in_room is not None:
                await self._send_in_room(exchange.room, effect, f"{exchange.transaction} {effect.type}")
        except HomeserverError as error:
            if exchange.ended is None:
                raise
            # It is over here in any case; there it ends by its time.
            self._seldom.info(exchange.user, "%s was not told of the end of a verification: %s", exchange.user, error)
