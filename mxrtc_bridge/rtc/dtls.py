"""DTLS over an ICE connection: what is ours of it, whoever holds the state of the connection.

Below it are an edge upon OpenSSL alone (:mod:`mxrtc_bridge.rtc.openssl_dtls`), which is what a user's side has, and
one upon aiortc's transport (:mod:`mxrtc_bridge.rtc.aiortc_dtls`), which is what the bridge has.

- media is absent: no SRTP keys are derived, and a peer that does not offer SRTP is welcome;
- the certificate of the other side is compared by the digest of its DER bytes, without parsing it;
- all records of a datagram are read, and our flights are cut at record boundaries;
- once it is open there is no task and no queue: runs of datagrams go in and lists of packets come out, and the other
  way round, in one call each;
- nothing that arrives can raise: the end of the connection is a state, with a reason in words.

Datagrams only come from checked addresses (:mod:`mxrtc_bridge.rtc.ice`), so a forged ClientHello never gets here.

One file: one class, whose handshake, sending and receiving share the records that OpenSSL reads and writes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from math import inf

from OpenSSL import SSL, crypto

from mxrtc_bridge.core.errors import TransportError
from mxrtc_bridge.core.webrtc.sdp import Fingerprint
from mxrtc_bridge.engine.ports import DTLS_CLOSED
from mxrtc_bridge.rtc.certificates import DIGESTS, fingerprint_of
from mxrtc_bridge.rtc.ice import SAFE_DATAGRAM, SMALLEST_DATAGRAM, IceConnection
from mxrtc_bridge.rtc.udp import MAX_RUN, MAX_SEGMENTS

RECORD_HEADER = 13
"""Type, version, epoch, sequence number, length (RFC 6347 section 4.1)."""
SMALL_AFTER = 2
"""A flight that was repeated so often is cut for the narrowest path: it may be its size that stands in its way (RFC
6347 section 4.1.1.1)."""
MAX_DATAGRAM = 2048
"""More than fits into one unfragmented datagram. What is larger is dropped: of one record it would take several reads,
and of many it would leave some, so that what is read later would be what came before, and ever more would wait."""
CIPHER_EXPANSION = 24
"""Explicit nonce and tag of AES-GCM (RFC 5288), the cipher of all implementations."""
RECORD_OVERHEAD = RECORD_HEADER + CIPHER_EXPANSION
MAX_EXPANSION = 80
"""A record is longer than what is in it by no more than this, whatever the cipher."""
MAX_JOINED = 16 * 1024
"""Records that OpenSSL gets at once: it reads into a buffer of this size, and what does not fit would be cut off."""
MAX_EARLY = 256
"""Records of the other side's that OpenSSL keeps until the handshake has ended; it takes a hundred."""
APPLICATION_DATA = 23
BROKEN = "the other side has sent what DTLS does not allow"


_NONE_TAKEN = "the other side finds no cipher suite in common, or no certificate that it takes"
REASONS = {
    "no shared cipher": "both sides have no cipher suite in common",
    "unsupported protocol": "the other side does not speak DTLS 1.2",
    "tlsv1 alert protocol version": "the other side does not speak DTLS 1.2",
    "tls alert protocol version": "the other side does not speak DTLS 1.2",
    "sslv3 alert handshake failure": _NONE_TAKEN,
    "tls alert handshake failure": _NONE_TAKEN,
    "tlsv1 alert insufficient security": _NONE_TAKEN,
    "tls alert insufficient security": _NONE_TAKEN,
    "peer did not return a certificate": "the other side has shown no certificate",
}
"""In the words of people, what OpenSSL has words of its own for; everything else is said in those."""

LONGEST_WAIT_S = 1.0
"""Between two repetitions of a flight, which double from the round trip of ICE's checks."""
MAX_HEARD = 256
"""Records of the handshake that are remembered: a few dozen are usual."""


def record_numbers(datagram: bytes) -> set[bytes]:
    """Return epoch and sequence number of each record."""
    numbers, start = set[bytes](), 0
    while start + RECORD_HEADER <= len(datagram):
        numbers.add(datagram[start + 3 : start + 11])
        start += RECORD_HEADER + int.from_bytes(datagram[start + 11 : start + 13])
    return numbers


def split_records(flight: bytes, largest: int = SAFE_DATAGRAM) -> Iterator[bytes]:
    """Cut what OpenSSL wrote into datagrams of whole records."""
    start = end = 0
    while end + RECORD_HEADER <= len(flight):
        following = end + RECORD_HEADER + int.from_bytes(flight[end + 11 : end + 13])
        if start < end and following - start > largest:
            yield flight[start:end]
            start = end
        end = following
    if start < len(flight):
        yield flight[start:]


def reason_of(error: SSL.Error) -> str:
    """Why a handshake has failed, in words that hold nothing of what was received."""
    # Each is the library, the function and the reason, of which the last is a text of OpenSSL's own.
    reasons = [each[-1] for each in error.args[0]] if error.args and isinstance(error.args[0], list) else []
    return next((REASONS.get(reason, reason) for reason in reasons if reason), "")


class DtlsTransport(ABC):
    """DTLS for one peer connection.

    An edge sets ``_is_open`` when it has checked who is there and not before; from then on a task of its own waits for
    datagrams until the connection ends, and nothing is open after that.

    Args:
        connection: the ICE connection below; it stays the caller's.
        ended: called once when an open transport has ended by itself or by :meth:`stop`.
    """

    _ssl: SSL.Connection | None
    encrypted: bool
    """Whether OpenSSL has done its part of the handshake."""
    _task: asyncio.Future[None] | None
    """What waits for the end of an open transport."""

    def __init__(self, connection: IceConnection, *, ended: Callable[[], None]) -> None:
        self._connection = connection
        self._ended = ended
        self._is_open = False
        self._handshake_settled = False
        self._repeats = 0
        self._flight = b""
        self._flight_wait_s = 0.0
        self._flight_sent_at = 0.0
        self._heard: set[bytes] = set()
        self._closed_by_peer = False
        self._broken = False
        self._identity_refused = False
        self._failure = ""
        self._receiver: Callable[[list[bytes]], None] | None = None
        self._packets: list[bytes] = []
        self._over = False
        self._handshake_timer: asyncio.TimerHandle | None = None

    @property
    def end_reason(self) -> str:
        """Why an open transport has ended, in words without addresses."""
        if self._closed_by_peer:
            return DTLS_CLOSED
        if self._broken:
            return BROKEN
        end = self._connection.path_end
        return "the path to the other side is gone" if end is None else end.value

    async def handshake(self, *, server: bool, fingerprints: tuple[Fingerprint, ...], timeout_s: float) -> None:
        """Run the handshake and check who is on the other side.

        Raises:
            TransportError: ``dtls_failed``.
        """
        try:
            async with asyncio.timeout(timeout_s):
                await self._run_handshake(server=server, fingerprints=fingerprints)
        except TimeoutError:
            self._fail()
            raise TransportError("dtls_failed", f"the DTLS handshake did not end within {timeout_s:g} s") from None
        if self._identity_refused:
            raise TransportError(
                "dtls_failed", "the certificate of the other side is not the one its description names"
            )
        if not self._is_open:
            raise TransportError("dtls_failed", f"the DTLS handshake failed{self._failure and ': '}{self._failure}")

    def attach(self, receiver: Callable[[list[bytes]], None]) -> None:
        """Hand the decrypted packets of each batch to ``receiver``, in order; those since the handshake come first."""
        self._receiver = receiver
        self._watch_last_flight()
        self._connection.attach(self)

    @property
    def first_wait_s(self) -> float:
        """How long to wait for the first answer of the other side before it is asked for again."""
        return self._connection.first_wait_s

    @property
    def timeout_s(self) -> float:
        """How long an answer may take on this path, as far as that is known."""
        return self._connection.timeout_s

    def packet_sizes(self) -> tuple[int, int, int]:
        """How large packets may be: those that pass everywhere, almost everywhere, and the largest worth a probe."""
        sizes = SMALLEST_DATAGRAM, SAFE_DATAGRAM, self._connection.largest_datagram()
        smallest, usual, largest = (size - RECORD_OVERHEAD for size in sizes)
        return smallest, usual, largest

    # What an edge does

    @abstractmethod
    async def _run_handshake(self, *, server: bool, fingerprints: tuple[Fingerprint, ...]) -> None:
        """Run the handshake, by :meth:`_shake_hands` and :meth:`_is_the_one_described`; open if both succeed."""

    @abstractmethod
    def _fail(self) -> None:
        """Remember that there will be no connection."""

    @abstractmethod
    async def _say_goodbye(self) -> None:
        """End the task, and tell the other side if there is a connection."""

    # What an edge calls

    async def _shake_hands(self) -> bool:
        """Return whether OpenSSL has come to an end with the other side."""
        assert self._ssl is not None
        try:
            while not self.encrypted:
                try:
                    self._ssl.do_handshake()
                    self.encrypted = True
                    # What has overtaken the last flight; nothing else would ever ask for it.
                    self._read_records(MAX_EARLY)
                except SSL.WantReadError:
                    self._flush()
                    await self._next_datagram()
        except SSL.Error as error:
            self._failure = self._failure or reason_of(error)
            return False
        except ConnectionError:
            return False
        return not self._over

    def _is_the_one_described(self, fingerprints: Iterable[Fingerprint]) -> bool:
        assert self._ssl is not None
        certificate = self._ssl.get_peer_certificate()
        der = b"" if certificate is None else crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        known = [f for f in fingerprints if f.algorithm in DIGESTS]
        # Several fingerprints must agree: one that does not is either a mistake or an attack.
        matches = [hmac.compare_digest(f.value.upper(), fingerprint_of(der, f.algorithm)) for f in known]
        self._identity_refused = not der or not matches or not all(matches)
        return not self._identity_refused

    async def _next_datagram(self) -> None:
        """Read one datagram of the handshake, or let a timer of it expire; afterwards wait for the end.

        Raises:
            ConnectionError: the connection has ended.
        """
        timeout_s = None if self._is_open else self._retransmission_timeout()
        if timeout_s is None:
            datagram = await self._connection.recv()
        else:
            wait_s = min(timeout_s, self._repeat_due_in())
            try:
                async with asyncio.timeout(wait_s):
                    datagram = await self._connection.recv()
            except TimeoutError:
                if wait_s < timeout_s:
                    self._repeat_flight()
                else:
                    self._retransmit_flight()
                return
        self._take_datagram(datagram)
        if self._over:
            raise ConnectionError(self.end_reason)

    # OpenSSL repeats after 1, 2, 4 s, and its timer cannot be set from here. ICE knows the round trip (RFC 9147 section
    # 5.8.2), so the records of the last flight are sent again as they are: what has arrived before is a replay, dropped
    # by whoever gets it, and what was lost is not. Who gets nothing but such replays lacks an answer of ours, which is
    # sent again likewise.

    def _repeat_due_in(self) -> float:
        if not self._flight:
            return inf
        return max(0.0, self._flight_sent_at + self._flight_wait_s - asyncio.get_running_loop().time())

    def _repeat_flight(self) -> None:
        self._flight_wait_s = min(2 * self._flight_wait_s, LONGEST_WAIT_S)
        self._repeats += 1
        self._send_flight()

    def _note_records(self, datagram: bytes) -> None:
        """Remember the records of a datagram of the handshake, and answer again if there is no new one among them."""
        numbers = record_numbers(datagram)
        waited_s = asyncio.get_running_loop().time() - self._flight_sent_at
        if numbers <= self._heard and self._flight and waited_s >= self._connection.first_wait_s / 2:
            self._send_flight()
        elif len(self._heard) < MAX_HEARD:
            self._heard |= numbers

    def _retransmission_timeout(self) -> float | None:
        if self._handshake_settled:
            return None
        assert self._ssl is not None
        timeout: float | None = self._ssl.DTLSv1_get_timeout()
        if timeout is None and self.encrypted:
            self._handshake_settled = True
        return timeout

    def _retransmit_flight(self) -> None:
        assert self._ssl is not None
        try:
            self._ssl.DTLSv1_handle_timeout()
        except SSL.Error as error:
            raise ConnectionError("the DTLS handshake got no answer") from error
        self._repeats += 1
        wait_s = self._flight_wait_s
        self._flush()
        self._flight_wait_s = wait_s

    def _watch_last_flight(self) -> None:
        """The last flight of a handshake may have to be sent again after its end (DTLS 1.3)."""
        self._handshake_timer = None
        timeout_s = self._retransmission_timeout()
        if timeout_s is not None and self._is_open:
            self._handshake_timer = asyncio.get_running_loop().call_later(timeout_s, self._last_flight_due)

    def _last_flight_due(self) -> None:
        try:
            self._retransmit_flight()
        except ConnectionError:
            self._end()
        else:
            self._watch_last_flight()

    # Receiving

    def run_received(self, data: bytes, size: int) -> None:
        """Decrypt a run of datagrams (:class:`mxrtc_bridge.rtc.incoming_payload.RunSink`)."""
        if self._over or size > MAX_DATAGRAM:
            return
        whole = len(data) // size * size
        if whole > size and _is_uniform(data, size, whole):
            assert self._ssl is not None
            step = max(1, MAX_JOINED // size) * size
            for start in range(0, whole, step):
                part = data[start : min(start + step, whole)]
                self._ssl.bio_write(part)
                self._read_records(len(part) // size)
            data = data[whole:]
        try:
            for start in range(0, len(data), size):
                self._take_datagram(data[start : start + size])
        except ConnectionError:
            self._over = True  # what had to be answered cannot be sent any more

    def runs_ended(self) -> None:
        """Hand the packets of a batch over."""
        packets = self._packets
        if packets:
            self._packets = []
            self._connection.note_alive()
            if self._receiver is not None:
                self._receiver(packets)
        if self._over:
            with contextlib.suppress(ConnectionError):
                self._flush()
            self._connection.wake()

    def _end(self) -> None:
        self._over = True
        self._connection.wake()

    def _take_datagram(self, datagram: bytes) -> None:
        # RFC 7983; the rest would be media.
        if self._over or not 20 <= datagram[0] <= 63 or len(datagram) > MAX_JOINED:
            return
        assert self._ssl is not None
        if datagram[0] != APPLICATION_DATA:
            self._note_records(datagram)
        self._ssl.bio_write(datagram)
        count = self._records_in(datagram)
        self._read_records(count)
        # An answer that stays behind would go out with the next packets, whose datagrams are cut by the first record.
        if count > 1 or datagram[0] != APPLICATION_DATA or not self._handshake_settled:
            self._flush()

    def _read_records(self, count: int) -> None:
        """Read so many times: SSL_read returns one record at a time."""
        assert self._ssl is not None
        receive, packets = self._ssl.recv, self._packets
        for _ in range(count):
            try:
                packets.append(receive(MAX_DATAGRAM))
            except SSL.WantReadError:
                return
            except SSL.ZeroReturnError:
                self._closed_by_peer = self._over = True
                return
            except SSL.Error as error:
                # In the handshake the next step fails, but has no reason any more. Later it is a fatal alert, ours
                # or theirs, after which OpenSSL takes nothing and what arrives would pile up; or it concerns nobody.
                self._failure = self._failure or reason_of(error)
                if self.encrypted:
                    self._closed_by_peer = bool(self._ssl.get_shutdown() & SSL.RECEIVED_SHUTDOWN)
                    self._broken = not self._closed_by_peer and self._ssl.get_state_string() == b"error"
                    self._over = self._closed_by_peer or self._broken
                if self._over:
                    return

    def _records_in(self, datagram: bytes) -> int:
        """How many times to read: SSL_read returns one application record at a time."""
        count = position = 0
        while position + RECORD_HEADER <= len(datagram):
            position += RECORD_HEADER + int.from_bytes(datagram[position + 11 : position + 13])
            count += 1
        return max(1, count)

    # Sending

    def _flush(self) -> None:
        assert self._ssl is not None
        try:
            flight: bytes = self._ssl.bio_read(65536)
        except SSL.Error:
            return
        if flight:
            self._flight_wait_s = self._connection.first_wait_s
            self._flight = flight
            self._send_flight()

    def _send_flight(self) -> None:
        self._flight_sent_at = asyncio.get_running_loop().time()
        largest = SAFE_DATAGRAM if self._repeats < SMALL_AFTER else SMALLEST_DATAGRAM
        for datagram in split_records(self._flight, largest):
            self._connection.send_now(datagram)

    def send_packets(self, packets: list[bytes]) -> None:
        """Encrypt and send packets, runs of one size together.

        Raises:
            ConnectionError: the transport is not open.
        """
        ssl = self._ssl
        if not self._is_open or ssl is None or self._over:
            raise ConnectionError("DTLS is not open")
        encrypt, send_run = ssl.send, self._connection.send_run
        start, count = 0, len(packets)
        try:
            while start < count:
                size = len(packets[start])
                end, limit = start + 1, min(count, start + min(MAX_SEGMENTS, MAX_RUN // (size + MAX_EXPANSION)))
                while end < limit and len(packets[end]) == size:
                    end += 1
                if end < limit and len(packets[end]) < size:
                    end += 1
                for packet in packets[start:end]:
                    encrypt(packet)
                records: bytes = ssl.bio_read((size + MAX_EXPANSION) * (end - start))
                send_run(records, RECORD_HEADER + (records[11] << 8 | records[12]))
                start = end
        except SSL.Error as error:
            raise ConnectionError("DTLS is shut down") from error

    def send_probe(self, packet: bytes) -> None:
        """Encrypt and send a packet that is lost where it would have to be fragmented.

        Raises:
            ConnectionError: the transport is not open.
        """
        ssl = self._ssl
        if not self._is_open or ssl is None or self._over:
            raise ConnectionError("DTLS is not open")
        try:
            ssl.send(packet)
            self._connection.send_whole(ssl.bio_read(len(packet) + MAX_EXPANSION))
        except SSL.Error as error:
            raise ConnectionError("DTLS is shut down") from error

    async def stop(self) -> None:
        """Say goodbye and end the reading task; the ICE connection stays open."""
        self._connection.detach()
        self._receiver = None
        if self._handshake_timer is not None:
            self._handshake_timer.cancel()
        task = self._task
        await self._say_goodbye()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)


def _is_uniform(data: bytes, size: int, whole: int) -> bool:
    """Whether every datagram of a run is one record of application data that fills it.

    Only then may OpenSSL get several of them at once: a length that lies would take its neighbours with it.
    """
    if size <= RECORD_HEADER or data[0] != APPLICATION_DATA or data[11] << 8 | data[12] != size - RECORD_HEADER:
        return False
    count = whole // size
    return all(data[at:whole:size].count(data[at]) == count for at in (0, 1, 2, 3, 4, 11, 12))
