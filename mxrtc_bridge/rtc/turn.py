"""Gets a relayed address from one address of a TURN server (RFC 8656), and says why there is none."""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import os
import socket
import ssl
import struct
from abc import abstractmethod
from collections.abc import Coroutine
from contextlib import suppress
from http import HTTPStatus

from aioice import stun, turn
from aioice.utils import random_transaction_id

from mxrtc_bridge.core.webrtc.gathering_report import ServerOutcome
from mxrtc_bridge.engine.certificate_faults import certificate_fault
from mxrtc_bridge.engine.outside import in_one_thread
from mxrtc_bridge.rtc.alternate_server import alternate_of
from mxrtc_bridge.rtc.datagrams import PARSER_ERRORS, Address, GuardedStun
from mxrtc_bridge.rtc.ice_servers import TurnServer

log = logging.getLogger(__name__)

SERVER_ERRORS = (
    OSError,
    ValueError,
    LookupError,
    stun.TransactionError,
    asyncio.IncompleteReadError,
    struct.error,  # what it has us repeat, as its nonce, is longer than a message can be
)
"""What asking a server raises when it is the server, or the way to it, that is at fault."""

LEAST_REFRESH_S = 5.0
"""Between two refreshes of an allocation. A server that names no lifetime at all would be asked without a pause."""

MESSAGES_PER_TURN = 256
"""Messages of one connection before others get their turn. The smallest have four bytes, and a read can have 64 KiB."""

_OUTCOMES_OF_CODES = {
    401: ServerOutcome.CREDENTIALS,
    438: ServerOutcome.CREDENTIALS,
    441: ServerOutcome.CREDENTIALS,
    486: ServerOutcome.QUOTA,
    508: ServerOutcome.QUOTA,
}
"""RFC 8489 section 14.8, RFC 8656 section 19."""

_OUTCOMES_OF_KINDS: tuple[tuple[tuple[type[Exception], ...], ServerOutcome], ...] = (
    ((stun.TransactionTimeout, TimeoutError), ServerOutcome.TIMED_OUT),
    ((socket.gaierror, UnicodeError), ServerOutcome.NAME_UNKNOWN),
    ((ssl.SSLCertVerificationError,), ServerOutcome.CERTIFICATE),
    ((ConnectionRefusedError,), ServerOutcome.REFUSED),
)

_UNREACHABLE = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL, errno.EACCES})


ALLOCATION_MISMATCH = 437
STALE_NONCE = 438
MAX_PORTS = 3
"""From which an allocation is asked for, as long as the server still knows another one from the same: of a session that
has ended, or of somebody who had this port of a NAT before (RFC 8656 section 7.4)."""


async def allocate(server: TurnServer, address: Address, protocol: GuardedStun, *, channel_refresh_s: float) -> None:
    """Give ``protocol`` a relayed socket.

    aioice's own function goes to the first address of a name only, and has no place for the name in the certificate.

    Args:
        server: how it is reached, and as whom; one that names another instead is followed.
        address: one of its addresses.
        protocol: gets what comes by the relay; its transport is open when this returns.
        channel_refresh_s: after how long each channel is bound again.

    Raises:
        Exception: one of :data:`SERVER_ERRORS`; nothing is left open, here or at the server.
    """
    asked = [address]
    while True:
        try:
            return await _allocate_from_free_port(server, asked[-1], protocol, channel_refresh_s)
        except stun.TransactionFailed as error:
            alternate = alternate_of(error, server, asked)
            if alternate is None:
                raise
        server = alternate[0]
        asked.append(alternate[1])


async def _allocate_from_free_port(
    server: TurnServer, address: Address, protocol: GuardedStun, channel_refresh_s: float
) -> None:
    for _ in range(MAX_PORTS - 1):
        try:
            return await _allocate(server, address, protocol, channel_refresh_s)
        except stun.TransactionFailed as error:
            if error.response.error_code != ALLOCATION_MISMATCH:
                raise
    return await _allocate(server, address, protocol, channel_refresh_s)


async def _allocate(server: TurnServer, address: Address, protocol: GuardedStun, channel_refresh_s: float) -> None:
    loop = asyncio.get_running_loop()
    client: _TcpClient | _UdpClient
    transport: asyncio.BaseTransport
    if server.transport == "tcp":
        client = stream = _TcpClient(server, address, channel_refresh_s)
        name = server.host if server.tls else None
        # To read the list of authorities takes 30 ms and more, in which no session would move.
        tls = await in_one_thread(ssl.create_default_context) if server.tls else None
        transport, _ = await loop.create_connection(lambda: stream, *address, ssl=tls, server_hostname=name)
    else:
        client = datagrams = _UdpClient(server, address, channel_refresh_s)
        transport, _ = await loop.create_datagram_endpoint(lambda: datagrams, remote_addr=address)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, turn.UDP_SOCKET_BUFFER_SIZE)
    try:
        await client.unless_gone(_Relay(client)._connect(protocol))
    except BaseException:
        client.give_back()
        raise


class _Client(turn.TurnClientMixin):
    """Fails at once when the server is gone, where aioice's own repeats its question into the void.

    It binds channels again by itself, which renews their permissions as well (RFC 8656 section 12): coturn lets those
    live as long as a channel, other servers do not. aioice's ``send_data`` does it later than that, by the wall
    clock, which may be set, and holds back what is sent meanwhile, each datagram with a question of its own.
    """

    def __init__(self, server: TurnServer, address: Address, channel_refresh_s: float) -> None:
        lifetimes_s = turn.DEFAULT_ALLOCATION_LIFETIME, turn.DEFAULT_CHANNEL_REFRESH_TIME
        super().__init__(address, server.username, server.credential, *lifetimes_s)
        self._refresh_s = channel_refresh_s
        self._loop = asyncio.get_running_loop()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._refresh_at: dict[int, float] = {}
        self.forbids = False
        """Whether it has forbidden an address."""
        self._refreshing: set[asyncio.Task[None]] = set()

    def send_bound(self, data: bytes, address: Address) -> bool:
        """Send a datagram, if there is a channel to ``address``; False where it must be bound first."""
        channel = self.peer_to_channel.get(address)
        if channel is None:
            return False
        if self.transport.is_closing():
            return True  # what is sent on a path that has ended is lost
        if self._loop.time() >= self._refresh_at.setdefault(channel, self._loop.time() + self._refresh_s):
            self._refresh_at[channel] = math.inf
            task = self._loop.create_task(self._bind_again(channel, address), name="turn-channel")
            self._refreshing.add(task)
            task.add_done_callback(self._refreshing.discard)
        self._send(struct.pack("!HH", channel, len(data)) + data)
        return True

    async def _bind_again(self, channel: int, address: Address) -> None:
        pause_s = self._refresh_s
        try:
            await self.channel_bind(channel, address)
        except SERVER_ERRORS as error:
            log.debug("TURN channel not bound again: %s", without_addresses(error))
            pause_s /= 24
        self._refresh_at[channel] = self._loop.time() + pause_s

    async def refresh(self, time_to_expiry: float) -> None:
        """Keep the allocation until it is given back, or the server does not know it any more.

        Args:
            time_to_expiry: seconds, as the server says.
        """
        while True:
            await asyncio.sleep(max(5 / 6 * time_to_expiry, LEAST_REFRESH_S))
            request = stun.Message(message_method=stun.Method.REFRESH, message_class=stun.Class.REQUEST)
            request.attributes["LIFETIME"] = self.lifetime
            try:
                response, _ = await self.request_with_retry(request)
                time_to_expiry = response.attributes["LIFETIME"]
            except SERVER_ERRORS as error:
                log.debug("TURN allocation not refreshed: %s", without_addresses(error))
                self.transport.close()  # it expires, so it is of no use
                return

    def _send(self, data: bytes) -> None:
        # A question is repeated by a timer that knows of no end, and uvloop raises where a connection has ended.
        if not self.transport.is_closing():
            super()._send(data)

    def datagram_received(self, data: bytes | str, addr: Address) -> None:
        """Take a message of the server; one that cannot be read is dropped."""
        with suppress(*PARSER_ERRORS):
            super().datagram_received(data, addr)

    async def channel_bind(self, channel_number: int, addr: Address) -> None:
        """Bind a channel, and note whether the server forbids what it leads to (RFC 8656 section 9.2)."""
        try:
            await super().channel_bind(channel_number, addr)
        except stun.TransactionFailed as error:
            self.forbids |= error.response.error_code == HTTPStatus.FORBIDDEN
            raise

    async def request_with_retry(self, request: stun.Message) -> tuple[stun.Message, Address]:
        """Ask again if the nonce was another one by then.

        The answer to our first packet may come behind that to a repeated one, and each has its own (RFC 8489 section
        9.2.5).
        """
        try:
            return await super().request_with_retry(request)
        except stun.TransactionFailed as error:
            if error.response.error_code != STALE_NONCE:
                raise
            request.transaction_id = random_transaction_id()
            return await super().request_with_retry(request)

    async def unless_gone(self, work: Coroutine[None, None, None]) -> None:
        """Do ``work``.

        Raises:
            ConnectionError: the server refuses or closes the connection before that is done.
        """
        task = asyncio.create_task(work)
        try:
            await asyncio.wait({task, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            if self._gone.done():
                self._gone.result()
            await task
        finally:
            self._gone.cancel()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection has ended."""
        self.fail(exc if isinstance(exc, ConnectionError) else ConnectionAbortedError(errno.ECONNABORTED, "closed"))
        for task in self._refreshing:
            task.cancel()
        super().connection_lost(exc)

    def error_received(self, exc: Exception) -> None:
        """A datagram could not be delivered; other errors than a refusal may pass."""
        if isinstance(exc, ConnectionRefusedError):
            self.fail(exc)

    def fail(self, error: Exception) -> None:
        if not self._gone.done():
            self._gone.set_exception(error)
            self._gone.exception()  # whoever waited may have been told to end at this moment: it would be a traceback

    @abstractmethod
    def give_back(self) -> None:
        """Leave the server at once, with nothing of ours left there."""

    def _refresh_no_more(self) -> None:
        if self.refresh_task is not None:
            self.refresh_task.cancel()


class _TcpClient(_Client, turn.TurnClientTcpProtocol):
    """By a connection, in which messages follow each other (RFC 8656 section 3.1, RFC 8489 section 6.2.2)."""

    _rest = b""

    def give_back(self) -> None:
        self._refresh_no_more()
        self.transport.abort()  # an allocation ends with its connection (RFC 8656 section 5); TLS would wait

    def data_received(self, data: bytes) -> None:
        """Take what was read; aioice's own copies all of it for each message that is in it."""
        self._rest += data
        self._take_messages()

    def _take_messages(self) -> None:
        data, position, taken = self._rest, 0, 0
        while taken < MESSAGES_PER_TURN and not self.transport.is_closing():
            size = _size_of_message(data[position : position + 4])
            if len(data) - position < size:
                break
            self.datagram_received(data[position : position + size], self.server)
            position += size
            taken += 1
        self._rest = data[position:]
        if self.transport.is_closing():
            return
        if taken == MESSAGES_PER_TURN:
            self.transport.pause_reading()
            self._loop.call_soon(self._take_messages)
        else:
            self.transport.resume_reading()


def _size_of_message(head: bytes) -> int:
    """How long a message is in a stream, by its first four bytes; as long as those where not all are there."""
    if len(head) < 4:
        return 4
    length = int.from_bytes(head[2:])
    return length + stun.padding_length(length) + (4 if turn.is_channel_data(head) else stun.HEADER_LENGTH)


class _UdpClient(_Client, turn.TurnClientUdpProtocol):
    def give_back(self) -> None:
        """End an allocation that there is, or that has been asked for: it would count for ten minutes otherwise.

        Nobody waits for the answer. What is asked for comes to the server before this, as a rule.
        """
        self._refresh_no_more()
        if self.integrity_key is not None and not self.transport.is_closing():
            request = stun.Message(message_method=stun.Method.REFRESH, message_class=stun.Class.REQUEST)
            request.attributes["LIFETIME"] = 0
            with suppress(struct.error):  # with a nonce that fits into no request there is no allocation either
                getattr(self, "_TurnClientMixin__add_authentication")(request)  # noqa: B009 - private to its class
                self.send_stun(request, self.server)
        self.transport.close()


class _Relay(turn.TurnTransport):
    """A relayed socket that sends at once where it can; aioice's own makes a task of each datagram."""

    def __init__(self, client: _TcpClient | _UdpClient) -> None:
        super().__init__(client)
        self._client = client
        self._ended = False

    @property
    def forbids_all(self) -> bool:
        """Whether the server has forbidden an address, and bound no channel to any."""
        return self._client.forbids and not self._client.channel_to_peer

    def close(self) -> None:
        """Give the allocation back; what is sent from now on is lost."""
        self._ended = True
        super().close()

    def sendto(self, data: bytes, addr: Address) -> None:
        """Send one datagram; binds a channel where there is none."""
        if not self._ended and not self._client.send_bound(data, addr):
            super().sendto(data, addr)


def forbids_all(transport: asyncio.BaseTransport) -> bool:
    """Whether this is a relayed socket whose server forbids each address that something was to be sent to."""
    return isinstance(transport, _Relay) and transport.forbids_all


def outcome_of(error: BaseException) -> ServerOutcome:
    """What a failure means, for the report."""
    if isinstance(error, stun.TransactionFailed):
        return _OUTCOMES_OF_CODES.get(error.response.error_code or 0, ServerOutcome.FAILED)
    for kinds, outcome in _OUTCOMES_OF_KINDS:
        if isinstance(error, kinds):
            return outcome
    unreachable = isinstance(error, OSError) and error.errno in _UNREACHABLE
    return ServerOutcome.UNREACHABLE if unreachable else ServerOutcome.FAILED


def detail_of(error: BaseException) -> str:
    """What the report says of a failure beside its outcome."""
    match outcome_of(error):
        case ServerOutcome.CERTIFICATE:
            return certificate_fault(error)
        case ServerOutcome.FAILED:
            return without_addresses(error)
    return ""


def _tls_fault(error: ssl.SSLError) -> str:
    if error.reason == "WRONG_VERSION_NUMBER":
        return "no TLS is spoken there; perhaps it is turn: with transport=tcp"
    return f"TLS: {error.reason or type(error).__name__}".lower().replace("_", " ").replace("tls", "TLS", 1)


def without_addresses(error: BaseException) -> str:
    """What is known about a failure, without what may hold an address."""
    if isinstance(error, stun.TransactionFailed):
        return f"error {error.response.error_code or 'without a number'}"
    if isinstance(error, socket.gaierror):
        return "its name does not resolve"
    if isinstance(error, ConnectionAbortedError):
        return "it closes the connection; perhaps it wants TLS there (turns:), or is no TURN server"
    if isinstance(error, ssl.SSLError):
        return _tls_fault(error)
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    nonsense = isinstance(error, (ConnectionError, LookupError, struct.error))
    return "its answer makes no sense" if nonsense else type(error).__name__
