"""The encrypted device of the client: its keys in the state folder, and calls by it (docs/reference/signal.md).

Only one process at a time may use a device: its messages are delivered once, and its sessions change with each. So a
command holds it from the beginning of a call until the connection is up, and another one meanwhile calls by a room.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import quote

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.config.private_files import open_private_file, take_lock, write_private_file
from mxrtc_bridge.core.call.events import CallMessage, Invite
from mxrtc_bridge.core.call.route import CallRoute, DevicePair
from mxrtc_bridge.core.call.to_device import (
    SIGNAL_TYPE,
    CallOrder,
    CallToDevice,
    call_to_device_content,
    parse_call_to_device,
)
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.crypto.sas_text import INTERCEPTED
from mxrtc_bridge.core.errors import EventError, LocalError, MxrtcError, StorageError
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.matrix.api.transport import Transport
from mxrtc_bridge.matrix.crypto.binding import available
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.keys import pickle_key
from mxrtc_bridge.matrix.crypto.sync import DeviceSync
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent
from mxrtc_bridge.storage.crypto import CryptoStore
from mxrtc_bridge.storage.database import Database

log = logging.getLogger(__name__)

LOCK_WAIT_S = 8.0
"""How long another command may hold the device before this one calls by a room: longer than one waits for an answer."""
LAST_SENDS_S = 2.0
MAX_KEY_BYTES = 256


class NoDeviceError(MxrtcError):
    """Calls cannot be made by devices now; says why."""


class DeviceCalls:
    """Calls one device of a peer from ours. Implements :class:`mxrtc_bridge.engine.ports.Signaller`."""

    def __init__(self, device: CryptoDevice, peer: DeviceIdentity) -> None:
        self.peer = peer
        self.route = DevicePair(device.user, peer.user, peer.device)
        self._device = device
        self._order = CallOrder()
        self._sent = 0
        self._sending = asyncio.Lock()
        self._open = True
        self.invited = asyncio.Event()
        """Set once the homeserver has the invite."""
        self.listener: Callable[[UserId, CallMessage], None] = lambda _user, _message: None
        """Given each message of a call from the peer, in order."""

    async def send(self, route: CallRoute, sender: UserId, message: CallMessage, *, step: str) -> None:
        """Send a message of a call; none any more once the device was given back.

        Raises:
            HomeserverError: it was not taken.
        """
        async with self._sending:
            if not self._open:
                # The control channel has said it.
                log.debug("the device is given back: %s of a call of %s by %s is not sent", step, sender, route)
                return
            content = call_to_device_content(CallToDevice(self._sent, time.time_ns() // 1_000_000, message))
            self._sent += 1
            await self._device.send_to_device([self.peer], SIGNAL_TYPE, content)
            if isinstance(message, Invite):
                self.invited.set()

    async def handle(self, _device: CryptoDevice, event: ToDeviceEvent) -> None:
        """Take what has come for our device: only the one that was called is heard, and only encrypted."""
        if event.type != SIGNAL_TYPE or event.device is None or event.sender != self.peer.user:
            return
        if (event.device.device, event.device.ed25519) != (self.peer.device, self.peer.ed25519):
            log.info("x a message of a call from another device of %s ignored", event.sender)
            return
        try:
            for signal in self._order.put(event.sender, event.device.device, parse_call_to_device(event.content)):
                self.listener(event.sender, signal.message)
        except EventError as error:
            log.info("x a message of a call from %s ignored: %s", event.sender, error.code)

    async def close(self) -> None:
        """Send nothing more, once what is being sent has gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LAST_SENDS_S), self._sending:
                pass
        self._open = False


@contextlib.asynccontextmanager
async def calls_by_device(state: StateFolder, login: Login, peer: UserId) -> AsyncIterator[DeviceCalls]:
    """Hold the client's device, and reach the device of a peer.

    Raises:
        NoDeviceError: that is not possible now; a call by a room may be.
        ClientError: the peer's identity is another than before.
        HomeserverError: the homeserver refuses us, or is away.
    """
    async with own_device(state, login) as (device, server):
        calls = DeviceCalls(device, await _device_of_peer(device, peer))
        listening = asyncio.create_task(DeviceSync(server, device, calls.handle).run(), name="device")
        try:
            yield calls
        finally:
            await calls.close()
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)


@contextlib.asynccontextmanager
async def own_device(state: StateFolder, login: Login) -> AsyncIterator[tuple[CryptoDevice, KeyServer]]:
    """Hold the client's device.

    Raises:
        NoDeviceError: there is none, or another command holds it.
        HomeserverError: the homeserver refuses us, or is away.
    """
    if not available():
        raise NoDeviceError("the package vodozemac is not installed")
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(state.opened())
        await stack.enter_async_context(_locked(folder, state.path / "crypto.lock"))
        key = _key(folder, state.path / "crypto.key")
        for name in ("crypto.db", "crypto.db-wal", "crypto.db-shm", "crypto.db-journal"):
            _check_database(folder, state.path / name)
        try:
            database = await stack.enter_async_context(await Database.open(_url(state.path / "crypto.db")))
        except StorageError as error:
            raise NoDeviceError(f"the keys of our device cannot be used: {error}") from error
        transport = Transport(login.homeserver, login.access_token)
        stack.push_async_callback(transport.close)
        server = KeyServer(transport, login.user_id, masquerade=False)
        device = CryptoDevice(
            server,
            CryptoStore(database).of(login.user_id),
            user=login.user_id,
            pickle_key=pickle_key(key),
            display_name="mxrtc",
            wall_ms=lambda: time.time_ns() // 1_000_000,
            device=DeviceId(login.device_id),
        )
        await device.start()
        yield device, server


@contextlib.asynccontextmanager
async def required_device(state: StateFolder, login: Login) -> AsyncIterator[tuple[CryptoDevice, KeyServer]]:
    """Hold the client's device, for a command that cannot do without.

    Raises:
        ClientError: there is none, or another command holds it.
        HomeserverError: the homeserver refuses us, or is away.
    """
    try:
        async with own_device(state, login) as held:
            yield held
    except NoDeviceError as error:
        raise ClientError(Exit.RETRY, str(error)) from error


async def _device_of_peer(device: CryptoDevice, peer: UserId) -> DeviceIdentity:
    """The one device of a peer that its owner has signed.

    Raises:
        NoDeviceError: it has none.
        ClientError: its identity has changed.
    """
    found = await device.devices_of(peer, fresh=True)
    if found.identity_changed:
        raise ClientError(
            Exit.DENIED,
            f"{peer} shows another identity than before: {INTERCEPTED}, or its admin has made a new one; "
            f"ask the admin, and if that is so, accept it with 'mxrtc trust {peer}'",
        )
    signed = [each for each in found.devices if each.trust.meets(Trust.CROSS_SIGNED)]
    if not signed:
        raise NoDeviceError(f"{peer} has no device with a signed identity")
    return signed[-1]


@contextlib.asynccontextmanager
async def _locked(folder: int, path: Path) -> AsyncIterator[None]:
    """Hold the lock on our device, after waiting a little for another command."""
    try:
        descriptor = open_private_file(folder, path.name, os.O_RDWR | os.O_CREAT, str(path))
    except LocalError as error:
        raise ClientError(Exit.LOCAL, str(error)) from error
    except OSError as error:
        raise NoDeviceError(f"{path} cannot be used: {error.strerror}") from error
    deadline = time.monotonic() + LOCK_WAIT_S
    try:
        while not take_lock(descriptor):
            if time.monotonic() >= deadline:
                raise NoDeviceError("another mxrtc command is using the device")
            await asyncio.sleep(0.05)
        yield
    finally:
        os.close(descriptor)


def _url(path: Path) -> str:
    return f"sqlite://{quote(str(path.absolute()))}"


def _key(folder: int, path: Path) -> bytes:
    """The key that the secrets of our device are encrypted with, made where there is none.

    Raises:
        ClientError: it is not ours alone, or cannot be used.
    """
    try:
        with contextlib.suppress(FileNotFoundError):
            key = _read_key(folder, path)
            # An empty one is what an earlier version has left that died while it wrote; it has encrypted nothing.
            if key or path.with_suffix(".db").exists():
                return key
        write_private_file(folder, path.name, secrets.token_urlsafe(32).encode(), str(path), replace=True)
        key = _read_key(folder, path)
    except LocalError as error:
        raise ClientError(Exit.LOCAL, str(error)) from error
    except OSError as error:
        raise ClientError(Exit.LOCAL, f"{path} cannot be used: {error.strerror}") from error
    return key


def _read_key(folder: int, path: Path) -> bytes:
    with os.fdopen(open_private_file(folder, path.name, os.O_RDONLY, str(path)), "rb") as file:
        return file.read(MAX_KEY_BYTES)


def _check_database(folder: int, path: Path) -> None:
    """Refuse a database that somebody else has put there.

    Raises:
        ClientError: it is not ours alone.
    """
    try:
        os.close(open_private_file(folder, path.name, os.O_RDONLY, str(path)))
    except FileNotFoundError:
        pass
    except (LocalError, OSError) as error:
        raise ClientError(Exit.LOCAL, str(error)) from error
