"""Verifications by emoji of the devices of virtual users: users ask, the admin at the bridge's machine compares.

Must never be answered in a chat: what is compared must not pass through the homeserver that it guards against. Must
never take an identity for verified for more than its admin has seen, nor for somebody who has lost their right since.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mxrtc_bridge.bridge.access.rights import Rights
from mxrtc_bridge.bridge.audit.events import AuditEvents
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.bridge.devices.devices import Encryption
from mxrtc_bridge.core.crypto.sas_text import END_TEXT
from mxrtc_bridge.core.crypto.sas_values import Compare, Effect, SendToDevices, VerificationEnded, VerifiedKeys
from mxrtc_bridge.core.errors import AdminError, HomeserverError, MxrtcError
from mxrtc_bridge.core.ids import Actor, RoomId, UserId
from mxrtc_bridge.engine.clock import Clock
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent
from mxrtc_bridge.matrix.crypto.verification import Exchange, Verifications
from mxrtc_bridge.matrix.outbox.outbox import Outbox

log = logging.getLogger(__name__)

TICK_S = 15.0
MAX_WAITING = 32
"""Verifications that wait for the admin, of all peers; one more ends the oldest."""
HOW = "mxrtc-bridge verify"


@dataclass(slots=True, eq=False)
class _Waiting:
    number: int
    local: UserId
    exchange: Exchange
    of: Verifications


class BridgeVerifications:
    """See the head of this module.

    Args:
        vouching: told which identities were compared.
        rooms: sends events of virtual users.
        rights: the rules in force.
        config: names identities that an admin has written down.
        audited: where it is written down.
        tell_admins: says something to the admins.
        new_number: gives a number that no verification has had before.
        clock: where time comes from.
        sleep: waits before it is looked for what takes too long.
    """

    def __init__(
        self,
        vouching: Encryption,
        rooms: Outbox,
        *,
        rights: Rights,
        config: CurrentConfig,
        audited: AuditEvents,
        tell_admins: Callable[[str], None],
        new_number: Callable[[], Awaitable[int]],
        clock: Clock,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._vouching = vouching
        self._rooms = rooms
        self._rights = rights
        self._config = config
        self._audited = audited
        self._tell_admins = tell_admins
        self._clock = clock
        self._sleep = sleep
        self._of: dict[UserId, tuple[CryptoDevice, Verifications]] = {}
        self._waiting: dict[Exchange, _Waiting] = {}
        self._new_number = new_number
        self._seldom = RateLimitedLog(log)

    async def handle(self, device: CryptoDevice, event: ToDeviceEvent) -> bool:
        """Take what another device has sent to one of ours; False if it belongs to no verification."""
        return await self._outlive(event.sender, self._verifications(device).receive(event))

    async def handle_in_room(self, device: CryptoDevice, event: RoomEvent) -> bool:
        """Take an event of an encrypted room, decrypted; False if it belongs to no verification."""
        return await self._outlive(event.sender, self._verifications(device).receive_in_room(event))

    async def run(self) -> None:
        """End what takes too long, until cancelled."""
        while True:
            await self._sleep(TICK_S)
            for device, verifications in tuple(self._of.values()):
                await self._outlive(device.user, verifications.tick())

    # At the bridge's machine

    def rows(self) -> Sequence[dict[str, object]]:
        """What waits for the admin, the oldest first."""
        return [
            {
                "number": each.number,
                "user": each.exchange.user,
                "device": each.exchange.device,
                "peer": each.local,
                "emoji": list(each.exchange.code.names),
                "symbols": list(each.exchange.code.symbols),
                "numbers": list(each.exchange.code.decimals),
                "answered": not each.exchange.waits_for_us,
            }
            for each in self._waiting.values()
            if each.exchange.code is not None
        ]

    async def decide(self, number: int, *, same: bool, by: Actor) -> str:
        """Say whether both sides show the same; returns what came of it.

        Raises:
            AdminError: there is none with this number, its user has no right any more, or it took too long.
            HomeserverError: the other side could not be told.
        """
        found = [each for each in self._waiting.values() if each.number == number]
        if not found or not found[0].exchange.waits_for_us:
            raise AdminError(f"No verification {number} waits for an answer; {HOW} shows those that do.")
        (waiting,) = found
        exchange = waiting.exchange
        if not self._rights.allows(exchange.user, waiting.local):
            await waiting.of.give_up(exchange)
            raise AdminError(f"{exchange.user} has no right to {waiting.local} any more, so nothing is verified.")
        await waiting.of.compared(exchange, same=same)
        if exchange.ended is not None and exchange.ended.code == "m.timeout":
            raise AdminError(
                f"Verification {number} has ended: {END_TEXT['m.timeout']}. Its user can begin another one."
            )
        self._audited.verified(
            by, exchange.user, waiting.local, exchange.device, "both show the same" if same else "they differ"
        )
        if not same:
            return f"Verification {number} is ended: someone may be intercepting the connection of {exchange.user}."
        if exchange.vouched is None:
            return f"Noted. {exchange.user} has still to say that both sides show the same."
        return _outcome(exchange)

    async def trust(self, user: UserId, key: str | None, *, by: Actor) -> str:
        """Accept the identity that a user shows now, on purpose; returns what came of it.

        Raises:
            AdminError: there is none, it is not the one that was compared, or the configuration names one.
            MxrtcError: it cannot be found out or stored.
        """
        named = self._config.in_force.encryption.identities.get(user)
        if named is not None:
            raise AdminError(f"The configuration says which identity {user} has; change encryption.identities there.")
        known = await self._vouching.accept_identity(user, key)
        if known.master is None:
            raise AdminError(f"{user} shows no identity that could be accepted.")
        if key not in (None, known.master):
            raise AdminError(f"{user} shows the identity {known.master}, which is not the one that you gave.")
        how = "accepted unseen" if key is None else "compared by its key"
        self._audited.verified(by, user, None, None, f"the identity {known.master} is {how}")
        before = f", before {known.pinned}" if known.identity_changed else ""
        return f"{user} is known by the identity {known.master} now{before}" + (", verified." if key else ".")

    # One virtual user

    def _verifications(self, device: CryptoDevice) -> Verifications:
        known = self._of.get(device.user)
        if known is not None and known[0] is device:
            return known[1]
        local = device.user

        async def changed(exchange: Exchange, effect: Effect) -> None:
            await self._changed(local, made, exchange, effect)

        async def send_in_room(room: RoomId, effect: SendToDevices, key: str) -> None:
            await self._rooms.send_event(room, local, effect.type, effect.content, key=key)

        made = Verifications(
            device,
            admits=lambda user: self._rights.allows(user, local),
            changed=changed,
            # Ten minutes are short so that nobody answers later; a machine that sleeps must not make them long.
            monotonic=lambda: self._clock.elapsed_ms() / 1000,
            wall_ms=self._clock.wall_ms,
            send_in_room=send_in_room,
        )
        self._of[local] = (device, made)
        return made

    async def _changed(self, local: UserId, of: Verifications, exchange: Exchange, effect: Effect) -> None:
        match effect:
            case Compare():
                await self._wait_for_admin(local, of, exchange)
            case VerifiedKeys(master=master):
                if master is not None:
                    await self._vouching.vouch_for(exchange.user, master)
                self._seldom.info(exchange.user, "= %s and %s: %s", exchange.user, local, _outcome(exchange))
            case VerificationEnded(code=code):
                self._waiting.pop(exchange, None)
                if code:
                    why = END_TEXT.get(code, code)
                    self._seldom.info(
                        exchange.user, "= the verification of %s with %s ended: %s", exchange.user, local, why
                    )

    async def _wait_for_admin(self, local: UserId, of: Verifications, exchange: Exchange) -> None:
        number = await self._new_number()
        while len(self._waiting) >= MAX_WAITING:
            oldest = next(iter(self._waiting.values()))
            self._waiting.pop(oldest.exchange)
            await oldest.of.give_up(oldest.exchange)
        self._waiting[exchange] = _Waiting(number, local, exchange, of)
        self._seldom.info(
            exchange.user,
            "= verification %d of %s with %s waits for an admin: %s",
            number,
            exchange.user,
            local,
            HOW,
        )
        self._tell_admins(
            f"{exchange.user} wants to compare emoji with {local}. At the bridge's machine: {HOW} shows them. "
            "Compare them with the user over the telephone, or face to face; not here."
        )

    async def _outlive(self, user: UserId, work: Awaitable[bool | None]) -> bool:
        """Do what belongs to a verification, also if it fails: that must not end what else the bridge does."""
        try:
            return bool(await work)
        except MxrtcError as error:
            level = logging.WARNING if isinstance(error, HomeserverError) else logging.ERROR
            self._seldom.log(level, user, "! a verification with %s has failed: %s", user, error)
            return True


def _outcome(exchange: Exchange) -> str:
    assert exchange.vouched is not None
    if exchange.vouched.master is None:
        return (
            f"Verified for {exchange.user}. Their device has not vouched for their identity, so the bridge remembers "
            "nothing: their own session must be verified first."
        )
    return f"Verified: {exchange.user} is known by the identity {exchange.vouched.master} now."
