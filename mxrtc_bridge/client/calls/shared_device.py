"""The device of this account, which the calls of this process have in common while they are placed.

It is opened by the first call that needs it and put away after the last one, so that what comes for the device is asked
for only as long as somebody waits for an answer. No call waits for another one: each hears everything, and takes what
is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from mxrtc_bridge.client.calls.device import (
    OTHER_COMMAND,
    DeviceCalls,
    Waits,
    appearing_device,
    own_device,
    running,
)
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.sync import DeviceSync
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent


def _nobody(_what: str) -> None:
    """Whom nobody asked to be told."""


@dataclass(slots=True)
class _Opened:
    """The device while it is open."""

    device: CryptoDevice
    transport: Transport
    """That of the call that has opened it."""
    stack: contextlib.AsyncExitStack
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    calls: set[DeviceCalls] = field(default_factory=set)
    users: int = 0
    transport_left: bool = False
    """Whether the call that has opened it is over, and has left its transport behind."""

    async def handle(self, device: CryptoDevice, event: ToDeviceEvent) -> None:
        for calls in tuple(self.calls):
            await calls.handle(device, event)

    def session_begun(self, device: DeviceIdentity, by_us: bool) -> None:
        for calls in tuple(self.calls):
            calls.session_begun(device, by_us)


class SharedDevice:
    """Our device.

    Args:
        state: where its keys are.
        login: whose it is.
    """

    def __init__(self, state: StateFolder, login: Login) -> None:
        self._state = state
        self._login = login
        self._changing = asyncio.Lock()
        """Held while it is opened or put away."""
        self._opened: _Opened | None = None

    @contextlib.asynccontextmanager
    async def calls(
        self, peer: UserId, transport: Transport, *, waits: Waits = _nobody, appears: bool = True
    ) -> AsyncIterator[DeviceCalls]:
        """Reach the device of a peer by ours.

        Args:
            peer: whom.
            transport: the homeserver, as this user; to be closed by :meth:`done_with`.
            waits: told what is waited for.
            appears: whether a peer without a device is waited for, as its first one may be about to appear.

        Raises:
            NoDeviceError: that is not possible now; a call by a room may be.
            ClientError: the peer's identity is another than before.
            HomeserverError: the homeserver refuses us, or is away.
        """
        opened = await self._take(transport, waits)
        calls = None
        try:
            found = await appearing_device(opened.device, peer, waits if appears else None)
            calls = DeviceCalls(opened.device, found, opened.heard)
            opened.calls.add(calls)
            yield calls
        finally:
            try:
                if calls is not None:
                    await calls.close()
                    opened.calls.discard(calls)
            finally:
                await self._give_back(opened)

    async def done_with(self, transport: Transport) -> None:
        """Close the transport of a call that is over, once no other call asks for messages by it."""
        if self._opened is not None and self._opened.transport is transport:
            self._opened.transport_left = True
        else:
            await transport.close()

    async def _take(self, transport: Transport, waits: Waits) -> _Opened:
        if self._changing.locked():
            waits(OTHER_COMMAND)
        async with self._changing:
            opened = self._opened
            if opened is None:
                opened = await self._open(transport, waits)
                self._opened = opened
            opened.users += 1
            return opened

    async def _open(self, transport: Transport, waits: Waits) -> _Opened:
        async with contextlib.AsyncExitStack() as stack:
            device, server = await stack.enter_async_context(
                own_device(self._state, self._login, transport=transport, waits=waits)
            )
            opened = _Opened(device, transport, stack)
            device.session_begun = opened.session_begun
            sync = DeviceSync(server, device, opened.handle, heard=opened.heard)
            await stack.enter_async_context(running(sync.run(), "device"))
            opened.stack = stack.pop_all()
            return opened

    async def _give_back(self, opened: _Opened) -> None:
        opened.users -= 1
        async with self._changing:
            if opened.users == 0 and self._opened is opened:
                self._opened = None
                await opened.stack.aclose()
                if opened.transport_left:
                    await opened.transport.close()
