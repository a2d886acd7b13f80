"""Sessions of others that are broken: their messages cannot be read, and a new session takes their place.

Must not let anybody have us send, or ask their server, for every piece of rubbish that they send.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.call.limits import MAX_REMEMBERED, RateLimit
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists
from mxrtc_bridge.matrix.crypto.outbound import Later
from mxrtc_bridge.matrix.crypto.to_device_sender import ToDeviceSender
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity

log = logging.getLogger(__name__)

HOUR_S = 3600.0
REPLACED_AN_HOUR = 4
"""How often a session with one device is replaced in an hour: its store may be put back from a copy more than once."""
AGAIN_S = 10.0
"""Until the next time: the messages that were under way meanwhile cannot be read either."""
MAX_REPLACED = 1000
TRIES_A_MINUTE = 6
"""Of one user. All users of other servers have a limit together, by the places that there are for such work."""
REPLACE_S = 20.0
"""How long one may take: two questions to another server."""

SessionBegun = Callable[[DeviceIdentity, bool], None]
"""Told of a session with a device that took the place of a broken one, and whether it was us who could not read."""


class ReplacedSessions:
    """When sessions were replaced, by the name of the other device; of those of longest ago nothing is known.

    Args:
        monotonic: seconds.
    """

    def __init__(self, monotonic: Callable[[], float] = elapsed_s) -> None:
        self._monotonic = monotonic
        self._times = Latest[str, list[float]](MAX_REPLACED)

    def may_be(self, name: str) -> bool:
        """Whether the session with this device may be replaced again."""
        now = self._monotonic()
        times = [each for each in self._times.get(name, ()) if now - each < HOUR_S]
        return len(times) < REPLACED_AN_HOUR and (not times or now - times[-1] >= AGAIN_S)

    def note(self, name: str) -> None:
        """Note that it was."""
        now = self._monotonic()
        times = [each for each in self._times.get(name, ()) if now - each < HOUR_S]
        self._times[name] = [*times, now]

    def forget(self) -> None:
        """Begin anew, as our device does."""
        self._times.clear()

    def __len__(self) -> int:
        return len(self._times)


class BrokenSessions:
    """See the head of this module.

    Args:
        lists: the devices of others.
        sender: of our device.
        replaced: when sessions were replaced.
        later: does what servers are waited for with.
        begun: told of each device with which a new one was begun.
    """

    def __init__(
        self,
        lists: DeviceLists,
        sender: ToDeviceSender,
        replaced: ReplacedSessions,
        later: Later,
        begun: Callable[[DeviceIdentity], None],
    ) -> None:
        self._later = later
        self._begun = begun
        self._replacing: set[str] = set()
        """Devices whose turn has not come yet."""
        self._lists = lists
        self._sender = sender
        self._replaced = replaced
        self._tries = RateLimit(TRIES_A_MINUTE, TRIES_A_MINUTE * MAX_REMEMBERED)
        self._seldom = RateLimitedLog(log)

    def replace_later(self, sender: UserId, curve25519: str) -> None:
        """Have the session with a device replaced, outside of the order in which messages are read."""
        name = _name(sender, curve25519)
        if name in self._replacing or not self._replaced.may_be(name):
            return

        async def replace() -> None:
            try:
                for device in await self.replace(sender, curve25519):
                    self._begun(device)
            finally:
                self._replacing.discard(name)

        self._replacing.add(name)
        if not self._later(sender, replace):
            self._replacing.discard(name)

    async def replace(self, sender: UserId, curve25519: str) -> list[DeviceIdentity]:
        """Begin a new session with a device whose messages we cannot read; it uses the newest from then on.

        Returns:
            The device, if that was done.
        """
        # Also what ends without a session costs a question: a device that has no key left, a user who lists nothing.
        name = _name(sender, curve25519)
        if not self._replaced.may_be(name) or not self._tries.allow(sender, elapsed_s()):
            return []
        found = []
        try:
            async with asyncio.timeout(REPLACE_S):
                for device in (await self._lists.of([sender]))[sender].devices:
                    if device.curve25519 == curve25519:
                        await self._sender.begin_anew(device)
                        await self._sender.send([device], "m.dummy", {})
                        found.append(device)
        except (HomeserverError, StorageError, TimeoutError) as error:
            self._seldom.info(sender, "no new session with %s: %s", sender, error)
            return []
        # Only now: where nobody could be asked, the next message has another try.
        self._replaced.note(name)
        return found


def _name(sender: UserId, curve25519: str) -> str:
    """The name of a device; with its user, as anybody can say that a key is theirs."""
    return f"{sender} {curve25519}"
