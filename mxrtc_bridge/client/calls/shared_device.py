"""The device of this account, which all who need it in this process have in common: calls that are placed, and others.

It is opened by the first who needs it and put away after the last one, and what comes for the device is asked for only
as long as somebody waits for an answer. Nobody waits for another one: each hears everything, and takes what is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
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
from mxrtc_bridge.matrix.crypto.device import CryptoDevice, Handler
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.sync import DeviceSync
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent


def _nobody(_what: str) -> None:
    """Whom nobody asked to be told."""


@dataclass(slots=True, eq=False)
class OpenDevice:
    """The device while it is open."""

    device: CryptoDevice
    server: KeyServer
    transport: Transport
    """That of whoever has opened it."""
    stack: contextlib.AsyncExitStack
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once what comes for the device is heard."""
    calls: set[DeviceCalls] = field(default_factory=set)
    handlers: list[Handler] = field(default_factory=list)
    users: int = 0
    transport_left: bool = False
    """Whether whoever has opened it is done, and has left its transport behind."""
    _syncing: asyncio.Task[None] | None = None

    async def listen(self) -> asyncio.Task[None]:
        """Ask for what comes for the device, if nobody has had that done; the task ends by an error alone.

        Whoever only asks something must not take messages that another one waits for, such as a verification.
        """
        if self._syncing is None:
            sync = DeviceSync(self.server, self.device, self.handle, heard=self.heard)
            self._syncing = await self.stack.enter_async_context(running(sync.run(), "device"))
        return self._syncing

    @contextlib.contextmanager
    def handled_by(self, handler: Handler) -> Iterator[None]:
        """Inside of the context ``handler`` is given what comes for the device too."""
        self.handlers.append(handler)
        try:
            yield
        finally:
            self.handlers.remove(handler)

    async def handle(self, device: CryptoDevice, event: ToDeviceEvent) -> None:
        for calls in tuple(self.calls):
            await calls.handle(device, event)
        for handler in tuple(self.handlers):
            await handler(device, event)

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
        self._opened: OpenDevice | None = None

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
        async with self.opened(transport, waits=waits) as opened:
            await opened.listen()
            found = await appearing_device(opened.device, peer, waits if appears else None)
            calls = DeviceCalls(opened.device, found, opened.heard)
            opened.calls.add(calls)
            try:
                yield calls
            finally:
                await calls.close()
                opened.calls.discard(calls)

    @contextlib.asynccontextmanager
    async def opened(self, transport: Transport, *, waits: Waits = _nobody) -> AsyncIterator[OpenDevice]:
        """Have the device open.

        Args:
            transport: the homeserver, as this user; to be closed by :meth:`done_with`.
            waits: told what is waited for.

        Raises:
            NoDeviceError: that is not possible now.
            HomeserverError: the homeserver refuses us, or is away.
        """
        opened = await self._take(transport, waits)
        try:
            yield opened
        finally:
            await self._give_back(opened)

    async def done_with(self, transport: Transport) -> None:
        """Close the transport of somebody who is done, once nobody else asks for messages by it."""
        if self._opened is not None and self._opened.transport is transport:
            self._opened.transport_left = True
        else:
            await transport.close()

    async def _take(self, transport: Transport, waits: Waits) -> OpenDevice:
        if self._changing.locked():
            waits(OTHER_COMMAND)
        async with self._changing:
            opened = self._opened
            if opened is None:
                opened = await self._open(transport, waits)
                self._opened = opened
            opened.users += 1
            return opened

    async def _open(self, transport: Transport, waits: Waits) -> OpenDevice:
        async with contextlib.AsyncExitStack() as stack:
            device, server = await stack.enter_async_context(
                own_device(self._state, self._login, transport=transport, waits=waits)
            )
            opened = OpenDevice(device, server, transport, stack)
            device.session_begun = opened.session_begun
            opened.stack = stack.pop_all()
            return opened

    async def _give_back(self, opened: OpenDevice) -> None:
        opened.users -= 1
        async with self._changing:
            if opened.users == 0 and self._opened is opened:
                self._opened = None
                await opened.stack.aclose()
                if opened.transport_left:
                    await opened.transport.close()
