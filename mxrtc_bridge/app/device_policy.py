"""Which devices may have sessions, judged again while they last: by the policy, and by what is known of devices.

A session that was let in stays only as long as its device would be let in: the admin may ask for more, a device may be
deleted, and a user may show another identity. What cannot be found out just now ends nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from mxrtc_bridge.core.encryption import Trust
from mxrtc_bridge.core.errors import MxrtcError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.session import Session
from mxrtc_bridge.matrix.crypto.device import CryptoDevice

log = logging.getLogger("mxrtc_bridge.encryption")

EVERY_S = 15.0
"""A look-up for each session, unless the homeserver has said that devices have changed."""
MESSAGE = "this bridge takes calls only from verified devices, and yours does not count as one any more"


async def shows_another_identity(device: CryptoDevice, user: UserId) -> bool:
    """Whether a refused user shows another identity than the one that ``device`` has seen first; the log says so."""
    try:
        changed = (await device.devices_of(user)).identity_changed
    except MxrtcError as error:
        log.info("the devices of %s could not be asked for: %s", user, error)
        return False
    if changed:
        log.warning("! %s shows another identity than before; on purpose? mxrtc-bridge trust %s", user, user)
    return changed


class Sessions(Protocol):
    """The live sessions."""

    @property
    def sessions(self) -> Iterable[Session]: ...

    def end_sessions(self, which: Callable[[Session], bool], message: str) -> int: ...


class DevicePolicy:
    """See the head of this module.

    Args:
        device_of: the device of one of our users, if it is up.
        sessions: the live sessions.
        least: what the policy asks for.
        sleep: waits until they are judged again.
    """

    def __init__(
        self,
        device_of: Callable[[UserId], CryptoDevice | None],
        sessions: Sessions,
        least: Callable[[], Trust],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._device_of = device_of
        self._sessions = sessions
        self._least = least
        self._sleep = sleep

    async def run(self) -> None:
        """Judge all sessions again and again, until cancelled."""
        while True:
            await self._sleep(EVERY_S)
            await self.judge_again()

    async def judge_again(self) -> None:
        """End the sessions whose devices would not be let in now."""
        least = self._least()
        if least is Trust.UNSIGNED:
            return
        refused = {session for session in tuple(self._sessions.sessions) if not await self._admits(session, least)}
        if refused:
            for session in refused:
                log.info("x session of %s with %s: its device is not trusted enough", session.remote, session.local)
            self._sessions.end_sessions(lambda session: session in refused, MESSAGE)

    async def _admits(self, session: Session, least: Trust) -> bool:
        caller = session.device
        if caller is None:
            # It has called from a room without encryption, when that was allowed.
            return False
        device = self._device_of(session.local)
        if device is None:
            return True
        try:
            known = await device.devices_of(session.remote)
        except MxrtcError as error:
            log.info("the devices of %s could not be asked for: %s", session.remote, error)
            return True
        same = (each for each in known.devices if (each.device, each.ed25519) == (caller.device, caller.ed25519))
        return any(each.trust.meets(least) for each in same)
