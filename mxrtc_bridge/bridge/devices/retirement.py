"""Takes the devices of an earlier run away from the homeserver, where encryption is off and nobody reads for them.

Callers would wait in vain for an answer, and clients encrypt for nobody. They come back, with the same keys, when
encryption is on again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import replace

from mxrtc_bridge.core.crypto.records import Changes
from mxrtc_bridge.core.errors import MxrtcError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.side_by_side import each
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.storage.crypto import CryptoStore

log = logging.getLogger(__name__)

RETIRE_S = 15.0
AT_A_TIME = 8


async def retire(
    users: Iterable[UserId],
    store: CryptoStore,
    transport: Transport,
    note_defect: Callable[[UserId, Exception], None],
    *,
    within_s: float = RETIRE_S,
) -> None:
    """Take their devices away, each for itself; what fails is logged, and done at the next start.

    Args:
        users: ours.
        store: remembers all devices.
        transport: to the homeserver.
        note_defect: given what each failure comes from.
        within_s: seconds, for all of them.
    """

    async def take_away(user: UserId) -> None:
        record = await store.of(user).account()
        if record is not None and record.uploaded:
            await KeyServer(transport, user, masquerade=True).delete_devices([record.device])
            await store.of(user).save(Changes(account=replace(record, uploaded=False)))
            log.info("the device of %s is taken away from the homeserver", user)

    async def outlive(user: UserId) -> None:
        try:
            await take_away(user)
        except Exception as error:  # noqa: BLE001 - as with a device that is brought up
            note_defect(user, error)
            why = in_words(error)
            log.warning("! the device of %s stays at the homeserver, and nobody reads for it: %s", user, why)

    try:
        async with asyncio.timeout(within_s):
            await each(tuple(users), outlive, AT_A_TIME)
    except TimeoutError:
        log.warning("! not all devices were taken away from the homeserver within %g s", within_s)


def in_words(error: Exception) -> str:
    """What a failure of one device is called in the log."""
    return str(error) if isinstance(error, MxrtcError) else type(error).__name__
