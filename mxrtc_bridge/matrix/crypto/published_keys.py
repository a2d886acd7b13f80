"""What the homeserver hands out of one device of ours: one-time keys and the fallback key, and whether we have them.

A database that was put back from a copy is older than the homeserver, and a homeserver that was put back is older than
the database. Either way others are given keys that we do not have, and what they send with them cannot be read. Both
are found out here, and nothing is mended: :class:`StrangeKeysError` says that the device is of no use as it is.

- Numbers of keys go up. One key is made and given at each start, and every hour in which messages come: an older
  database makes a number that the homeserver has seen with another key, which it refuses.
- One key is asked for, as others ask for it, and looked for among ours. That is done at the same times, and when
  somebody has used a key that we do not have; not more often than once a minute, as anybody can say so.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mxrtc_bridge.core.crypto.records import Changes
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.signed_json import parse_one_time_key
from mxrtc_bridge.matrix.crypto.store import DeviceStore
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity

log = logging.getLogger(__name__)

PROVE_EVERY_S = 3600.0
"""Only what a copy of the database lacks of the last hour may go unnoticed at the start from it."""
DOUBT_EVERY_S = 60.0
RENEW_EVERY_S = 60.0
"""A device that is of no use is replaced at most this often."""
RENEW_AGAIN_S = 3600.0
"""The same where the homeserver has not taken the keys of the new one."""
MAX_DRAINED = 500
"""Keys that are taken back of a device that keeps its name; beyond that the next doubt goes on."""
DRAINED_AT_A_TIME = 8
_ELSEWHERE = frozenset({401, 403, 404, 405, 429})
"""Refusals that say nothing about the keys: of the token, of the user, of what the homeserver can do, of our pace."""


class StrangeKeysError(HomeserverError):
    """The homeserver has keys of our device that our database does not know."""


class Renewals:
    """When a device was replaced: not again and again where the homeserver takes the keys of no new one either.

    Args:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._began_at = float("-inf")
        self._was_of_use = True

    def may_be(self) -> bool:
        """Whether it may be replaced now."""
        return self._monotonic() - self._began_at >= (RENEW_EVERY_S if self._was_of_use else RENEW_AGAIN_S)

    def begin(self) -> None:
        """Note that it is being replaced."""
        self._began_at, self._was_of_use = self._monotonic(), False

    def end(self) -> None:
        """Note that the homeserver has the new one."""
        self._was_of_use = True


class PublishedKeys:
    """See the head of this module.

    Args:
        account: of our device.
        server: the homeserver, as the device's user.
        store: the memory of the device.
        lock: of the device; held while the account changes, never while the homeserver is asked.
        wall_ms: milliseconds since the epoch.
        monotonic: seconds.
    """

    def __init__(
        self,
        account: OwnAccount,
        server: KeyServer,
        store: DeviceStore,
        lock: asyncio.Lock,
        *,
        wall_ms: Callable[[], int],
        monotonic: Callable[[], float],
    ) -> None:
        self._account = account
        self._server = server
        self._store = store
        self._lock = lock
        self._wall_ms = wall_ms
        self._monotonic = monotonic
        self._uploading = asyncio.Lock()
        self._proven_at = monotonic()
        self._asked_at = float("-inf")
        self._doubted = False

    async def refill(self, count: int | None, *, fallback_used: bool, at_least: int = 0) -> int | None:
        """Give the homeserver the keys that it lacks; returns how many it has then, None if it was given none.

        Args:
            count: one-time keys that it has; None where it did not say.
            fallback_used: whether it has no unused fallback key.
            at_least: one-time keys that are made although it has enough.

        Raises:
            StrangeKeysError: it has other keys by the same numbers.
            HomeserverError: it does not take them.
        """
        own = self._account
        async with self._uploading:
            async with self._lock:
                if not own.make_keys(count, fallback_used=fallback_used, now_ms=self._wall_ms(), at_least=at_least):
                    return None
                # Saved first: a key that the homeserver hands out must be one that we can use.
                await self._store.save(Changes(account=own.record()))
                content = own.keys_to_upload()
            try:
                has = await self._server.upload_keys(own.device, content)
            except HomeserverError as error:
                if 400 <= error.status < 500 and error.status not in _ELSEWHERE:
                    raise StrangeKeysError(str(error), error.status, error.errcode) from error
                raise
            async with self._lock:
                own.published()
                await self._store.save(Changes(account=own.record()))
            return has

    async def publish_first(self) -> None:
        """Publish a device that we have just named, and keys to hand out of it, which nobody else can have given.

        Raises:
            HomeserverError: it does not take them.
        """
        own = self._account
        async with self._lock:
            own.make_keys(0, fallback_used=True, now_ms=self._wall_ms())
            # Saved first, as in refill; given again they are the same.
            await self._store.save(Changes(account=own.record()))
            content = own.keys_to_upload()
        await self._server.upload_keys(own.device, {"device_keys": own.device_keys(), **content})
        async with self._lock:
            own.published()
            await self._store.save(Changes(account=own.record(uploaded=True)))

    async def publish_again(self, *, take_back: bool, of_login: bool) -> None:
        """Publish what the homeserver lacks of a device that it may know already.

        Args:
            take_back: have it give no one-time key to anybody that it has now.
            of_login: the device was made by a login, so that it may have keys of which our database knows nothing.

        Raises:
            StrangeKeysError: it has other keys than the database.
            HomeserverError: it does not take them.
        """
        own, count = self._account, None
        if not own.stored.uploaded:
            # Where the homeserver has keys already, the database of this device was lost.
            count = await self._server.upload_keys(own.device, {"device_keys": own.device_keys()})
            take_back = count > 0
            await self._store.save(Changes(account=own.record(uploaded=True)))
        elif not of_login and not take_back:
            count = await self.prove()
        if count is None:
            count = await self._server.upload_keys(own.device, {})
        if take_back:
            await self.take_back(count)
            count = 0
        await self.refill(count, fallback_used=own.stored.fallback_ms == 0)

    async def prove(self) -> int | None:
        """Find out whether database and homeserver have the same keys; returns how many one-time keys it has.

        Raises:
            StrangeKeysError: they have not.
            HomeserverError: it does not take keys.
        """
        self._proven_at = self._monotonic()
        await self._ask()
        # Also another fallback key, where the one of this database is not of the last hour.
        return await self.refill(None, fallback_used=True, at_least=1)

    async def prove_where_due(self, *, busy: bool) -> None:
        """The same where it is time or somebody has used a key that we do not have.

        Args:
            busy: whether messages have come just now.

        Raises:
            StrangeKeysError: database and homeserver have not the same keys.
            HomeserverError: it does not take keys.
        """
        now = self._monotonic()
        if busy and now - self._proven_at >= PROVE_EVERY_S:
            await self.prove()
        elif self._doubted and now - self._asked_at >= DOUBT_EVERY_S:
            await self._ask()

    def doubt(self) -> bool:
        """Note that somebody has used a key that we do not have: anybody can, and it may be that they were given it.

        Returns:
            Whether :meth:`prove_where_due` finds out now.
        """
        self._doubted = True
        return self._monotonic() - self._asked_at >= DOUBT_EVERY_S

    async def _ask(self) -> None:
        """Ask for a key of our own, as others do. It is used up by that.

        Raises:
            StrangeKeysError: it is not ours.
        """
        self._asked_at, self._doubted = self._monotonic(), False
        own = self._account
        try:
            claimed = await self._server.claim_keys(own.device, {own.user: [own.device]})
        except HomeserverError as error:
            log.debug("a key of the device %s of %s could not be asked for: %s", own.device, own.user, error)
            return
        given = claimed.get(own.user, {}).get(own.device)
        if not given:
            return
        key = parse_one_time_key(given, DeviceIdentity(own.user, own.device, own.ed25519, own.curve25519))
        async with self._lock:
            if key is None or not own.use_up(key):
                raise StrangeKeysError(
                    f"the homeserver gives others a key of {own.user} that the database does not know"
                )
            await self._store.save(Changes(account=own.record()))

    async def take_back(self, count: int) -> None:
        """Take back the one-time keys that the homeserver has, so that it gives them to nobody.

        Args:
            count: how many there are.

        Raises:
            HomeserverError: it does not answer.
        """
        own = self._account
        left = min(count, MAX_DRAINED)
        while left > 0:
            some = min(left, DRAINED_AT_A_TIME)
            async with asyncio.TaskGroup() as tasks:
                for _ in range(some):
                    tasks.create_task(self._server.claim_keys(own.device, {own.user: [own.device]}))
            left -= some


async def delete_others(server: KeyServer, own: DeviceId, user: UserId) -> None:
    """Delete a user's other devices, which nobody reads for: others would encrypt to them for ever.

    Those without keys too, which the homeserver does not show with the keys: they may be logins of a person whose
    account was taken over.
    """
    stale = [device for device in await server.devices() if device != own]
    if stale:
        await server.delete_devices(stale)
        log.info("%d old devices of %s deleted", len(stale), user)
