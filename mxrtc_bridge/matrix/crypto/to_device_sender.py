"""Messages from our device to others: encrypted, with new sessions where there are none, or in plain text.

Must never hold the lock of our device while a server is asked (:mod:`mxrtc_bridge.matrix.crypto.claims`), nor send what
was encrypted with a state that is not saved.
"""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.claims import Claims
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.keyed_locks import KeyedLocks
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity


class ToDeviceSender:
    """See the head of this module.

    Args:
        account: our device.
        claims: its sessions, its lock, and keys for new sessions.
        server: the homeserver, as our user.
        save: saves the state of our sessions; called under the lock.
    """

    def __init__(
        self, account: OwnAccount, claims: Claims, server: KeyServer, save: Callable[[], Awaitable[None]]
    ) -> None:
        self._account = account
        self._claims = claims
        self._server = server
        self._save = save
        # What goes to one device goes in order: taken before the lock.
        self._order = KeyedLocks()

    async def send(self, devices: Sequence[DeviceIdentity], event_type: str, content: Mapping[str, Any]) -> None:
        """Send an encrypted message to some devices; returns when the homeserver has it.

        What is sent to the same device goes in the order of the calls, and waits for nothing that goes to others. The
        type of what is sent tells nobody anything.

        Raises:
            HomeserverError: no session could be made; with status 0 when it did not answer. Then nothing was sent.
        """
        messages: dict[UserId, dict[str, Mapping[str, object]]] = {}

        async def encrypt() -> None:
            for device in devices:
                encrypted = await self._claims.olm.encrypt(device, event_type, content)
                if encrypted is None:
                    raise HomeserverError(f"{device.device} of {device.user} has no keys left to begin with", 200)
                messages.setdefault(device.user, {})[device.device] = encrypted
            await self._save()

        async with self._order.alone_with([f"{device.user} {device.device}" for device in devices]):
            await self._claims.for_devices(devices, encrypt)
            await self._server.send_to_device(self._account.device, "m.room.encrypted", messages, secrets.token_hex(12))

    async def begin_anew(self, device: DeviceIdentity) -> None:
        """Begin a new session with a device, by which it is written to from now on; the old one if it has no key left.

        Raises:
            HomeserverError: it was not asked.
        """
        claimed = await self._claims.olm.claim([device])
        async with self._claims.lock:
            await self._claims.olm.begin(claimed, anew=True)

    async def send_plain(
        self, user: UserId, devices: Iterable[DeviceId], event_type: str, content: Mapping[str, Any]
    ) -> None:
        """Send a message that everybody on its way can read: for verification, which proves itself.

        Raises:
            HomeserverError: it was not taken.
        """
        messages: dict[UserId, dict[str, Mapping[str, object]]] = {user: dict.fromkeys(devices, content)}
        await self._server.send_to_device(self._account.device, event_type, messages, secrets.token_hex(12))
