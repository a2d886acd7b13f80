"""A UDP socket that is read and written in batches, in place of the event loop's datagram endpoint.

The kernel joins datagrams of one sender that have the same size (UDP_GRO) and divides what is sent (UDP_SEGMENT), so
one system call carries up to 64 of them. Where it cannot, each datagram is a call of its own, and nothing else changes.

How it works: one reader on the event loop; when it fires, a bounded number of datagrams is read. STUN goes to the
protocol one by one, as aioice expects it; everything else is told from STUN by its first byte (RFC 7983) and goes to
the connection in runs, then :meth:`RunReceiver.runs_ended` says that the batch is over.

What it must never do: block, raise into the event loop, or keep more than ``MAX_PENDING`` bytes that the kernel does
not take. Beyond that the newest is dropped and counted, as a full socket buffer would.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
import sys
from collections import deque
from typing import Any, Protocol

from mxrtc_bridge.rtc.datagrams import Address, GuardedStun
from mxrtc_bridge.rtc.interfaces import allow_fragments
from mxrtc_bridge.system import PORTABLE

UDP_SEGMENT = 103
UDP_GRO = 104
"""Socket options of Linux (``linux/udp.h``), without names in Python's socket module."""

MAX_READ = 65536
MAX_DATAGRAMS_PER_TURN = 64
"""Read at most so many before others get their turn: about half a millisecond of work."""
MAX_SEGMENTS = 64
"""The kernel's limit for one call (UDP_MAX_SEGMENTS)."""
MAX_RUN = 65_000
"""Bytes of one call: all headers together have to fit into 65,535."""
MAX_PENDING = 1024 * 1024

_ANCILLARY = 24
"""Room for an int: as much as CMSG_SPACE(4) is where the kernel joins."""
_REPORT_SPACE = 512
_ERROR_QUEUE = 0x2000
"""``MSG_ERRQUEUE`` of Linux."""
_HEADROOM = 4
"""First bytes up to 3 are STUN (RFC 7983 section 7)."""
_RECVERR = {
    socket.AF_INET: (socket.IPPROTO_IP, 11, (2, 3, 3)),
    socket.AF_INET6: (socket.IPPROTO_IPV6, 25, (3, 1, 4)),
}
"""``IP_RECVERR`` and ``IPV6_RECVERR`` of Linux, without names in Python's socket module, and origin, type and code of
"port unreachable" in ``struct sock_extended_err`` (RFC 792, RFC 4443 section 3.1)."""
_MAX_REPORTS_PER_TURN = 64

_CANNOT_SEGMENT = (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT)
"""A device without checksum offload, or a path narrower than a segment: divided here it may still go out."""


class RunReceiver(Protocol):
    """What gets payload."""

    def run_received(self, data: bytes, size: int, address: Address) -> None:
        """Take a run: datagrams of ``size`` bytes each, one behind the other, of which the last may be shorter."""
        ...

    def runs_ended(self) -> None:
        """No further payload comes with this batch."""
        ...

    def port_refused(self, address: Address) -> None:
        """Somebody has said that nobody has the port at ``address`` (ICMP, which proves nothing)."""
        ...


class UdpTransport(asyncio.DatagramTransport):
    """The socket of one host candidate.

    Args:
        sock: bound and non-blocking; it belongs to the transport from now on.
        protocol: gets STUN.
        receiver: gets everything else.
        offload: whether to let the kernel join and divide; for tests, and for machines where it misbehaves.
    """

    def __init__(
        self, sock: socket.socket, protocol: GuardedStun, receiver: RunReceiver, *, offload: bool = True
    ) -> None:
        super().__init__({"socket": sock, "sockname": sock.getsockname()})
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol = protocol
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._pending: deque[tuple[bytes, int, Address]] = deque()
        self._pending_bytes = 0
        self._closing = False
        self.overflow = 0
        """Datagrams dropped because the kernel did not take them in time."""
        self.refused = 0
        """Datagrams that the kernel refused, as it does without a route."""
        self._reports: tuple[int, int, tuple[int, int, int]] | None = None
        offload = offload and not PORTABLE
        self.joins = offload and _accepts(sock, UDP_GRO, 1)
        self.divides = offload and _accepts(sock, UDP_SEGMENT, 0)
        self._loop.add_reader(self._fd, self._readable)
        protocol.connection_made(self)

    # asyncio.DatagramTransport

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Return ``socket`` or ``sockname``."""
        return super().get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Close the socket; what the kernel has not taken is lost. ``connection_lost`` of the protocol follows."""
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._fd)
        if self._pending:
            self._loop.remove_writer(self._fd)
            self._pending.clear()
            self._pending_bytes = 0
        # The loop may hold the descriptor until its next turn.
        self._loop.call_soon(self._closed)

    def abort(self) -> None:
        self.close()

    def _closed(self) -> None:
        self._sock.close()
        self._protocol.connection_lost(None)

    def sendto(self, data: Any, addr: Any = None) -> None:
        """Send one datagram."""
        if data:
            self.send_run(bytes(data), len(data), addr)

    # Sending

    def send_run(self, data: bytes, size: int, address: Address) -> None:
        """Send datagrams of ``size`` bytes each, of which the last may be shorter.

        Never raises: what cannot be sent is lost, as it may be anywhere on its way.
        """
        if self._closing:
            return
        if self._pending:
            self._hold(data, size, address)
            return
        sent = self._send(data, size, address)
        if sent < len(data):
            self._hold(data[sent:] if sent else data, size, address)

    def send_whole(self, data: bytes, address: Address) -> None:
        """Send one datagram that is lost where it would have to be fragmented; never raises."""
        if self._closing or self._pending or not allow_fragments(self._sock, allowed=False):
            return
        self._send(data, len(data), address)
        allow_fragments(self._sock, allowed=True)

    def _send(self, data: bytes, size: int, address: Address) -> int:
        """Return how many bytes are done with; the rest waits for the kernel."""
        position, end, retried = 0, len(data), False
        step = max(1, min(MAX_SEGMENTS, MAX_RUN // size)) * size
        while position < end:
            if not self.divides:
                step = size
            part = data if end <= step else data[position : position + step]
            try:
                if sys.platform != "win32" and len(part) > size:
                    segment = (socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))
                    self._sock.sendmsg((part,), (segment,), 0, address)
                else:
                    self._sock.sendto(part, address)
            except (BlockingIOError, InterruptedError):
                return position
            except OSError as error:
                if isinstance(error, ConnectionRefusedError) and not retried:
                    self._take_reports()
                    retried = True  # it was an earlier one that found nobody
                    continue
                if len(part) > size and error.errno in _CANNOT_SEGMENT:
                    self.divides = False
                    continue
                self._refused(error, len(part), size)
            except (ValueError, TypeError, OverflowError):  # not an address of this family, or port
                self.refused += 1
            position += len(part)
        return end

    def report_refusals(self, *, wanted: bool) -> None:
        """Tell the receiver, or no more, where nobody has the port that was sent to, as far as the system can.

        Only for a while in which little comes: each time that something can be read costs more then.
        """
        known = _RECVERR.get(self._sock.family) if not PORTABLE and not self._closing else None
        if known is None or wanted == (self._reports is not None):
            return
        level, option, _ = known
        if not _accepts(self._sock, option, int(wanted), level):
            return
        self._take_reports()
        self._reports = known if wanted else None

    def _refused(self, error: OSError, length: int, size: int) -> None:
        self.refused += -(-length // size)
        self._protocol.error_received(error)

    def _hold(self, data: bytes, size: int, address: Address) -> None:
        if self._pending_bytes + len(data) > MAX_PENDING:
            self.overflow += -(-len(data) // size)
            return
        if not self._pending:
            self._loop.add_writer(self._fd, self._writable)
        self._pending.append((data, size, address))
        self._pending_bytes += len(data)

    def _writable(self) -> None:
        pending = self._pending
        while pending:
            data, size, address = pending[0]
            sent = self._send(data, size, address)
            self._pending_bytes -= sent
            if sent < len(data):
                pending[0] = (data[sent:], size, address)
                return
            pending.popleft()
        self._loop.remove_writer(self._fd)

    # Receiving

    def _readable(self) -> None:
        budget = MAX_DATAGRAMS_PER_TURN
        payload = False
        self._take_reports()
        while budget > 0 and not self._closing:
            try:
                data, size, address = self._read()
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                # An earlier datagram found nobody (ICMP); the socket is as good as before.
                self._protocol.error_received(error)
                budget -= 1
                continue
            budget -= len(data) // size + 1
            payload |= self._take(data, size, address)
        if payload:
            self._receiver.runs_ended()

    def _take_reports(self) -> None:
        """Take what the system has to say of datagrams that did not arrive.

        As long as it is not taken the reader fires; and libuv stops a poll that shows an error, so it is begun again.
        """
        if sys.platform == "win32" or self._reports is None:
            return
        level, option, sign = self._reports
        self._loop.remove_reader(self._fd)
        self._loop.add_reader(self._fd, self._readable)
        for _ in range(_MAX_REPORTS_PER_TURN):
            try:
                _, ancillary, _, target = self._sock.recvmsg(0, _REPORT_SPACE, _ERROR_QUEUE)
            except OSError:
                return
            for each_level, kind, value in ancillary:
                if (each_level, kind) == (level, option) and tuple(value[4:7]) == sign:
                    self._receiver.port_refused((target[0], target[1]))

    def _read(self) -> tuple[bytes, int, Address]:
        if sys.platform == "win32" or not self.joins:
            data, source = self._sock.recvfrom(MAX_READ)
            return data, len(data) or 1, (source[0], source[1])
        data, ancillary, _, source = self._sock.recvmsg(MAX_READ, _ANCILLARY)
        size = len(data)
        for level, kind, value in ancillary:
            if level == socket.IPPROTO_UDP and kind == UDP_GRO:
                size = int.from_bytes(value[:4], sys.byteorder)
        return data, size or 1, (source[0], source[1])

    def _take(self, data: bytes, size: int, address: Address) -> bool:
        """Hand a run on; True if there was payload in it."""
        firsts = data[::size]
        if firsts and min(firsts) >= _HEADROOM:
            self._receiver.run_received(data, size, address)
            return True
        payload = False
        for start in range(0, len(data), size) or (0,):
            datagram = data[start : start + size]
            if datagram and datagram[0] >= _HEADROOM:
                self._receiver.run_received(datagram, len(datagram), address)
                payload = True
            else:
                self._protocol.datagram_received(datagram, address)
        return payload


def _accepts(sock: socket.socket, option: int, value: int, level: int = socket.IPPROTO_UDP) -> bool:
    try:
        sock.setsockopt(level, option, value)
    except OSError:
        return False
    return True
