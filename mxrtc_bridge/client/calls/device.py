"""The encrypted device of the client: its keys in the state folder, and calls by it (docs/reference/signal.md).

Only one process at a time may use a device: its messages are delivered once, and its sessions change with each. So a
command holds it from the beginning of a call until the connection is up, and another one waits for it; calls of one
process have it in common (:mod:`mxrtc_bridge.client.calls.shared_device`).

One file: whose device it is, that nobody else has it, and what is said by it in a call are one story with one end.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.login.tokens import tokens_of
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.client.waiting import HOMESERVER
from mxrtc_bridge.config.private_files import open_private_file, take_lock, write_private_file
from mxrtc_bridge.core.call.events import CallMessage, Invite
from mxrtc_bridge.core.call.route import DevicePair
from mxrtc_bridge.core.call.to_device import (
    SIGNAL_TYPE,
    CallOrder,
    CallToDevice,
    call_to_device_content,
    parse_call_to_device,
)
from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.crypto.sas_text import INTERCEPTED
from mxrtc_bridge.core.errors import EventError, HomeserverError, LocalError, StorageError
from mxrtc_bridge.core.ids import CallId, DeviceId, UserId, server_of
from mxrtc_bridge.engine.fair_work import FairWork
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.api.transport import RequestPolicy, Transport
from mxrtc_bridge.matrix.crypto.binding import available
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.key_answers import keys_in
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.keys import pickle_key
from mxrtc_bridge.matrix.crypto.values import DeviceIdentity, ToDeviceEvent
from mxrtc_bridge.storage.crypto import CryptoStore, verified_master_in_file
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.disk_space import is_full

log = logging.getLogger(__name__)

LOCK_WAIT_S = 20.0
"""How long other commands may hold the device before this one gives up: several calls, one after the other."""
LAST_SENDS_S = 2.0
DATABASE_FILES = ("crypto.db", "crypto.db-wal", "crypto.db-shm", "crypto.db-journal")
DEVICE_ANSWER_S = 5.0
"""Without a sign of life from the device that was called (docs/reference/signal.md, section 4)."""
SLOW_LINE_TIMES = 4
"""Where our own homeserver took so long that this many times is more, that is waited: on a line that loses much a
question and its answer take from one second to several."""
LOOK_AGAIN_S = 2.5
"""After so long an invite is said again, by a new session: as a rule the other side answers within one second."""
APPEARS_S, APPEARS_AGAIN_S = 4.0, 0.5
"""How long a device of a peer that has none is waited for, and how often it is asked for: a bridge is ready a moment
before its devices are, when it has started for the first time."""
MAX_KEY_BYTES = 256

OTHER_COMMAND = "another mxrtc command, which uses our device"
NEW_DEVICE = "its device; its bridge may have been started a moment ago"
"""What is waited for, as the user reads it."""

Waits = Callable[[str], None]
"""Told what is waited for, each time that changes."""


def _nobody(_what: str) -> None:
    """Whom nobody asked to be told."""


class NoDeviceError(ClientError):
    """Calls cannot be made by devices now; a command that can do without goes on."""


def no_call_by_device(name: str, error: NoDeviceError, *, deviceless: bool) -> ClientError:
    """Say why a call cannot be made by devices, and what helps.

    Args:
        name: the peer, as the user calls it.
        error: what was found.
        deviceless: one of the two sides has no device, so trying again does not help.
    """
    if not deviceless or isinstance(error, NoOwnDeviceError):
        return ClientError(error.code, f"no call to {name} by a device: {error}")
    return ClientError(
        Exit.USAGE,
        f"no call to {name} by a device: {name} has none, as its bridge has encryption off, its homeserver gives no "
        "devices to peers, or it has never run; leave out --signal device to call by a room",
    )


class NoOwnDeviceError(NoDeviceError):
    """The same, as no device of ours can be used here at all."""

    def __init__(self, message: str) -> None:
        super().__init__(Exit.LOCAL, message)


class SilentPeerError(Exception):
    """The device that was called gives no sign of life."""


class UnreadableAnswerError(Exception):
    """The device that was called has answered what we cannot read; there is a new session with it."""


class DeviceCalls:
    """Calls one device of a peer from ours."""

    def __init__(self, device: CryptoDevice, peer: DeviceIdentity, heard: asyncio.Event | None = None) -> None:
        self.peer = peer
        """The device that is called; another one once the peer has replaced it."""
        self.route = DevicePair(device.user, peer.user, peer.device)
        self._device = device
        self._order = CallOrder()
        self._said: dict[CallId, list[CallToDevice]] = {}
        self._sending = asyncio.Lock()
        self._open = True
        self._news = asyncio.Event()
        self._unreadable = False
        self._seldom = RateLimitedLog(log)
        self.invited = asyncio.Event()
        """Set once the homeserver has the invite."""
        self._slowest_s = 0.0
        self.heard = heard or asyncio.Event()
        """Set once we hear what comes for our device; on a bad line that can take longer than an invite."""
        self.clocks: tuple[int, int] | None = None
        """Our clock and the peer's, in milliseconds since 1970, when it last said something."""
        self.listener: Callable[[UserId, CallMessage], None] = lambda _user, _message: None
        """Given each message of a call from the peer, in order."""

    async def send(self, sender: UserId, message: CallMessage, step: str) -> None:
        """Send a message of a call; none any more once the device was given back.

        Raises:
            HomeserverError: it was not taken.
        """
        try:
            async with self._sending:
                if self._open:
                    await self._say(message)
        except HomeserverError:
            if self._open:
                raise
        if not self._open:
            # The control channel has said it.
            log.debug("the device is given back: %s of a call of %s by %s is not sent", step, sender, self.route)

    async def _say(self, message: CallMessage) -> None:
        said = self._said.setdefault(message.call_id, [])
        signal = CallToDevice(len(said), _now_ms(), message)
        said.append(signal)
        began = asyncio.get_running_loop().time()
        await self._device.sender.send([self.peer], SIGNAL_TYPE, call_to_device_content(signal))
        self._slowest_s = max(self._slowest_s, asyncio.get_running_loop().time() - began)
        if isinstance(message, Invite):
            self.invited.set()

    async def handle(self, _device: CryptoDevice, event: ToDeviceEvent) -> None:
        """Take what has come for our device: only the one that was called is heard, and only encrypted."""
        if event.type != SIGNAL_TYPE or event.device is None or event.sender != self.peer.user:
            return
        if (event.device.device, event.device.ed25519) != (self.peer.device, self.peer.ed25519):
            self._seldom.info(event.sender, "x a message of a call from another device of %s ignored", event.sender)
            return
        try:
            for signal in self._order.put(event.sender, event.device.device, parse_call_to_device(event.content)):
                self.clocks = _now_ms(), signal.sent_ms
                self.listener(event.sender, signal.message)
        except EventError as error:
            self._seldom.info(event.sender, "x a message of a call from %s ignored: %s", event.sender, error.in_full)

    def session_begun(self, device: DeviceIdentity, by_us: bool) -> None:
        """Take into account that one of the two sides could not read the other.

        Where it is the peer, it may have replaced its device, whose place only one takes that the peer has signed.
        """
        if device.user != self.peer.user:
            return
        if by_us:
            self._unreadable = self._unreadable or device.device == self.peer.device
        elif device.trust.meets(Trust.CROSS_SIGNED):
            self.peer = device
        self._news.set()

    async def see_through(self, call_id: CallId, is_unanswered: Callable[[], bool]) -> None:
        """Say an invite again that was perhaps not understood; ends with an error, and never once it is answered.

        Args:
            call_id: of the call.
            is_unanswered: whether there was no answer yet.

        Raises:
            SilentPeerError: there is no sign of the peer's device.
            UnreadableAnswerError: there is one, and another call is worth while.
            ClientError: the peer's identity is another than before.
        """
        now = asyncio.get_running_loop().time
        await self.invited.wait()
        invited_at = now()
        await self.heard.wait()
        slowest_s = max(self._slowest_s, now() - invited_at)
        look_at, deadline = now() + LOOK_AGAIN_S, now() + max(DEVICE_ANSWER_S, SLOW_LINE_TIMES * slowest_s)
        while is_unanswered():
            try:
                async with asyncio.timeout_at(min(look_at, deadline)):
                    await self._news.wait()
            except TimeoutError:
                if not is_unanswered():
                    break
                if look_at > deadline:
                    raise SilentPeerError from None
                look_at = float("inf")
                await self._outlive(self._look_again(call_id))
                continue
            self._news.clear()
            if self._unreadable:
                self._unreadable = False
                self.invited.clear()
                raise UnreadableAnswerError
            deadline = max(deadline, now() + LOOK_AGAIN_S)
            await self._outlive(self._say_again(call_id))
        await asyncio.get_running_loop().create_future()

    async def _look_again(self, call_id: CallId) -> None:
        """Say all of a call again, by a new session, to the device that the peer has now."""
        peer = await _device_of_peer(self._device, self.peer.user)
        await self._device.sender.begin_anew(peer)
        self.peer = peer
        await self._say_again(call_id)

    async def _say_again(self, call_id: CallId) -> None:
        """Whoever has read it before drops it by its numbers."""
        async with self._sending:
            for signal in self._said.get(call_id, ()) if self._open else ():
                await self._device.sender.send([self.peer], SIGNAL_TYPE, call_to_device_content(signal))

    async def _outlive(self, work: Awaitable[None]) -> None:
        try:
            await work
        except (NoDeviceError, HomeserverError) as error:
            log.info("an invite was not sent again: %s", error)

    async def close(self) -> None:
        """Send nothing more, once what is being sent has gone."""
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LAST_SENDS_S), self._sending:
                    pass
        finally:
            self._open = False


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


@contextlib.asynccontextmanager
async def own_device(
    state: StateFolder,
    login: Login,
    patience: RequestPolicy | None = None,
    *,
    transport: Transport | None = None,
    waits: Waits = _nobody,
) -> AsyncIterator[tuple[CryptoDevice, KeyServer]]:
    """Hold the client's device.

    Args:
        state: where its keys are.
        login: as whom.
        patience: how to ask the homeserver.
        transport: the homeserver, where somebody has it already, with a policy of its own; stays open.
        waits: told what is waited for.

    Raises:
        NoDeviceError: there is none, or another command holds it.
        HomeserverError: the homeserver refuses us, or is away.
    """
    if not available():
        raise NoOwnDeviceError("the package vodozemac is not installed")
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(state.opened())
        await stack.enter_async_context(device_lock(folder, state.path / "crypto.lock", waits=waits))
        key = device_key(folder, state.path / "crypto.key")
        database = await stack.enter_async_context(await _database(state, folder))
        if transport is None:
            transport = Transport(login.homeserver, tokens_of(state, login), patience or RequestPolicy())
            stack.push_async_callback(transport.close)
        # Nobody but the user of this program orders work here, beside those who write to the user.
        beside = FairWork("what a device waits for", server_of(login.user_id), lambda _user: True)
        await stack.enter_async_context(running(beside.run(), "beside the device"))
        server = KeyServer(transport, login.user_id, masquerade=False)
        device = CryptoDevice(
            server,
            CryptoStore(database).of(login.user_id),
            user=login.user_id,
            pickle_key=pickle_key(key),
            display_name="mxrtc",
            wall_ms=_now_ms,
            device=DeviceId(login.device_id),
            later=beside.put,
        )
        try:
            await device.start()
        except HomeserverError as error:
            if error.retryable or error.status in (401, 403):
                raise
            raise ClientError(
                Exit.USAGE,
                f"the homeserver does not take the keys of this device ({error}); make another one: mxrtc logout, then "
                "mxrtc login",
            ) from error
        yield device, server


async def _database(state: StateFolder, folder: int) -> Database:
    """Open what the device remembers.

    Raises:
        ClientError: it is not ours alone.
        NoOwnDeviceError: it cannot be used.
    """
    _check_database(folder, state.path)
    path = state.path / "crypto.db"
    try:
        return await Database.open(_url(path))
    except StorageError as error:
        remedy = "" if is_full(path) else f"; if {path} is damaged, remove it, and they are made anew"
        raise NoOwnDeviceError(f"the keys of our device cannot be used: {error}{remedy}") from error


async def is_verified(state: StateFolder, login: Login, peer: UserId) -> bool:
    """Whether the user has compared the identity of a peer; also where nothing can be written, or the device be used.

    Raises:
        ClientError: what is known is not ours alone, or cannot be read.
    """
    path = state.path / "crypto.db"
    if not path.exists():
        return False
    with state.opened() as folder:
        _check_database(folder, state.path)
        try:
            return await asyncio.to_thread(verified_master_in_file, path, login.user_id, peer) is not None
        except StorageError as error:
            raise ClientError(Exit.LOCAL, f"{error}; if {path} is damaged, remove it, and it is made anew") from error


async def shows_device(state: StateFolder, login: Login, peer: UserId, patience: RequestPolicy) -> bool:
    """Whether a peer has a device at all, signed or not.

    Raises:
        HomeserverError: its homeserver does not say.
    """
    transport = Transport(login.homeserver, tokens_of(state, login), patience)
    try:
        answer = await KeyServer(transport, login.user_id, masquerade=False).query_keys([peer])
    finally:
        await transport.close()
    keys = keys_in(answer, peer)
    if keys is None:
        raise HomeserverError(
            f"your homeserver does not reach {server_of(peer)}, so it does not say whether {peer} has a device; "
            "is that the name of the server?"
        )
    return bool(keys.devices)


@contextlib.asynccontextmanager
async def running(work: Coroutine[Any, Any, None], name: str) -> AsyncIterator[asyncio.Task[None]]:
    """Have ``work`` done in a task while the context lasts; how it ends is the caller's business."""
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def appearing_device(device: CryptoDevice, peer: UserId, waits: Waits | None) -> DeviceIdentity:
    """The one device of a peer that its owner has signed; ``waits`` is told where its first one is waited for.

    Raises:
        NoDeviceError: it has none.
        ClientError: its identity has changed.
    """
    now = asyncio.get_running_loop().time
    deadline = now() + APPEARS_S
    while True:
        try:
            return await _device_of_peer(device, peer)
        except NoDeviceError:
            if waits is None or now() >= deadline:
                raise
        waits(NEW_DEVICE)
        await asyncio.sleep(APPEARS_AGAIN_S)


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
        raise NoDeviceError(Exit.RETRY, f"{peer} has no device with a signed identity")
    return signed[-1]


@contextlib.asynccontextmanager
async def device_lock(
    folder: int, path: Path, *, wait_s: float = LOCK_WAIT_S, waits: Waits = _nobody
) -> AsyncIterator[None]:
    """Hold the lock on our device, after waiting a little for another command."""
    try:
        descriptor = open_private_file(folder, path.name, os.O_RDWR | os.O_CREAT, str(path))
    except LocalError as error:
        raise ClientError(Exit.LOCAL, str(error)) from error
    except OSError as error:
        raise NoOwnDeviceError(f"{path} cannot be used: {error.strerror}") from error
    deadline = time.monotonic() + wait_s
    try:
        while not take_lock(descriptor):
            if time.monotonic() >= deadline:
                raise NoDeviceError(Exit.RETRY, "another mxrtc command is using the device")
            waits(OTHER_COMMAND)
            await asyncio.sleep(0.05)
        waits(HOMESERVER)
        yield
    finally:
        os.close(descriptor)


def _url(path: Path) -> str:
    return f"sqlite://{quote(str(path.absolute()))}"


def device_key(folder: int, path: Path) -> bytes:
    """The key that the secrets of our device are encrypted with, made where there is none.

    Raises:
        ClientError: it is not ours alone.
        NoOwnDeviceError: it cannot be used.
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
        raise NoOwnDeviceError(f"{path} cannot be used: {error.strerror}") from error
    return key


def _read_key(folder: int, path: Path) -> bytes:
    with os.fdopen(open_private_file(folder, path.name, os.O_RDONLY, str(path)), "rb") as file:
        return file.read(MAX_KEY_BYTES)


def _check_database(folder: int, path: Path) -> None:
    """Refuse a database that somebody else has put there.

    Raises:
        ClientError: it is not ours alone.
    """
    for name in DATABASE_FILES:
        try:
            with contextlib.suppress(FileNotFoundError):
                os.close(open_private_file(folder, name, os.O_RDONLY, str(path / name)))
        except (LocalError, OSError) as error:
            raise ClientError(Exit.LOCAL, str(error)) from error
