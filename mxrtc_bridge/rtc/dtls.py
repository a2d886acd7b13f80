"""DTLS over an ICE connection: aiortc's transport with our certificate handling and a lean path for packets.

Differences to the class below it:

- media is absent: no SRTP keys are derived, and a peer that does not offer SRTP is welcome;
- the certificate of the other side is compared by the digest of its DER bytes, without parsing it;
- all records of a datagram are read, and our flights are cut at record boundaries;
- nothing that arrives can raise: the end of the connection is a state, with a reason in words.

Datagrams only come from checked addresses (:mod:`mxrtc_bridge.rtc.ice`), so a forged ClientHello never gets here.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable, Iterator
from typing import Protocol, cast

from aiortc import RTCCertificate, RTCDtlsFingerprint, RTCDtlsParameters, RTCIceTransport
from aiortc.rtcdtlstransport import DataReceiver, RTCDtlsTransport, State
from OpenSSL import SSL, crypto

from mxrtc_bridge.core.errors import TransportError
from mxrtc_bridge.core.sdp import Fingerprint
from mxrtc_bridge.rtc.certificates import DIGESTS, fingerprint_of
from mxrtc_bridge.rtc.ice import IceConnection

RECORD_HEADER = 13
"""Type, version, epoch, sequence number, length (RFC 6347 section 4.1)."""
MAX_DATAGRAM = 1200
"""Our handshake flights are cut so that they fit every path; application data is sized by SCTP."""
MAX_PLAINTEXT = 2048
"""More than fits into one unfragmented datagram."""
APPLICATION_DATA = 23


class PacketReceiver(Protocol):
    """What gets the decrypted packets."""

    async def _handle_data(self, data: bytes) -> None: ...

    def input_drained(self) -> None:
        """No further packet waits at the moment."""
        ...


def split_records(flight: bytes) -> Iterator[bytes]:
    """Cut what OpenSSL wrote into datagrams of whole records."""
    start = end = 0
    while end + RECORD_HEADER <= len(flight):
        following = end + RECORD_HEADER + int.from_bytes(flight[end + 11 : end + 13])
        if start < end and following - start > MAX_DATAGRAM:
            yield flight[start:end]
            start = end
        end = following
    if start < len(flight):
        yield flight[start:]


class DtlsTransport(RTCDtlsTransport):
    """DTLS for one peer connection.

    Args:
        connection: the ICE connection below; it stays the caller's.
        certificate: ours.
        ended: called once when an open transport has ended by itself or by :meth:`stop`.
    """

    def __init__(self, connection: IceConnection, certificate: RTCCertificate, *, ended: Callable[[], None]) -> None:
        # Of its ICE transport the base class uses sending, receiving and the role; the first two are overridden here.
        super().__init__(cast(RTCIceTransport, connection), [certificate])
        self._connection = connection
        self._ended = ended
        self._handshake_settled = False
        self._closed_by_peer = False
        self._identity_refused = False
        self._receiver: PacketReceiver | None = None

    @property
    def end_reason(self) -> str:
        """Why an open transport has ended, in words without addresses."""
        if self._closed_by_peer:
            return "the other side closed the connection"
        if self._connection.consent_expired:
            return "the other side is gone: consent to send expired"
        return "the path to the other side is gone"

    async def handshake(self, *, server: bool, fingerprints: tuple[Fingerprint, ...], timeout_s: float) -> None:
        """Run the handshake and check who is on the other side.

        Raises:
            TransportError: ``dtls_failed``.
        """
        self._set_role("server" if server else "client")
        parameters = RTCDtlsParameters(
            fingerprints=[RTCDtlsFingerprint(algorithm=f.algorithm, value=f.value) for f in fingerprints]
        )
        try:
            async with asyncio.timeout(timeout_s):
                await self.start(parameters)
        except TimeoutError:
            self._set_state(State.FAILED)
            raise TransportError("dtls_failed", f"the DTLS handshake did not end within {timeout_s:g} s") from None
        if self._identity_refused:
            raise TransportError(
                "dtls_failed", "the certificate of the other side is not the one its description names"
            )
        if self._state is not State.CONNECTED:
            raise TransportError("dtls_failed", "the DTLS handshake failed")
        self._connection.open_queue()

    @property
    def input_pending(self) -> bool:
        """Whether another datagram waits to be read."""
        return self._connection.input_pending

    # Called by the base class, and by the SCTP transport above

    def _register_data_receiver(self, receiver: DataReceiver) -> None:
        super()._register_data_receiver(receiver)
        self._receiver = cast(PacketReceiver, receiver)

    def _unregister_data_receiver(self, receiver: DataReceiver) -> None:
        super()._unregister_data_receiver(receiver)
        if self._data_receiver is None:
            self._receiver = None

    def _setup_srtp(self) -> None:
        """Data only: no keys for media."""

    def _validate_peer_identity(self, remoteParameters: RTCDtlsParameters) -> None:  # noqa: N803 - name of the base class
        assert self._ssl is not None
        certificate = self._ssl.get_peer_certificate()
        der = b"" if certificate is None else crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)
        known = [f for f in remoteParameters.fingerprints if f.algorithm in DIGESTS]
        # Several fingerprints must agree: one that does not is either a mistake or an attack.
        matches = [hmac.compare_digest(f.value.upper(), fingerprint_of(der, f.algorithm)) for f in known]
        if not der or not matches or not all(matches):
            self._identity_refused = True
            self._set_state(State.FAILED)

    def _set_state(self, state: State) -> None:
        was_open = self._state is State.CONNECTED
        super()._set_state(state)
        if was_open and state is State.CLOSED:
            self._ended()

    async def _recv_next(self) -> None:
        """Read one datagram, or let a handshake timer expire.

        Raises:
            ConnectionError: the connection has ended.
        """
        assert self._ssl is not None
        timeout_s = self._retransmission_timeout()
        if timeout_s is None:
            datagram = await self._connection.recv()
        else:
            try:
                async with asyncio.timeout(timeout_s):
                    datagram = await self._connection.recv()
            except TimeoutError:
                self._retransmit_flight()
                return
        if 20 <= datagram[0] <= 63:  # RFC 7983; the rest would be media
            self._ssl.bio_write(datagram)
            count = self._records_in(datagram)
            for _ in range(count):
                packet = self._read_record()
                if packet and self._receiver is not None:
                    await self._receiver._handle_data(packet)
            if datagram[0] != APPLICATION_DATA or not self._handshake_settled:
                await self._write_ssl()
        if self._receiver is not None and not self._connection.input_pending:
            self._receiver.input_drained()

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
        self._flush()

    def _records_in(self, datagram: bytes) -> int:
        """How many times to read: SSL_read returns one application record at a time."""
        count = position = 0
        while position + RECORD_HEADER <= len(datagram) and count < 64:
            position += RECORD_HEADER + int.from_bytes(datagram[position + 11 : position + 13])
            count += 1
        return max(1, count)

    def _read_record(self) -> bytes:
        assert self._ssl is not None
        try:
            packet: bytes = self._ssl.recv(MAX_PLAINTEXT)
        except SSL.WantReadError:
            return b""
        except SSL.ZeroReturnError:
            self._closed_by_peer = True
            raise ConnectionError("closed by the other side") from None
        except SSL.Error:
            # In the handshake the next step reports it. Later it is a fatal alert, or nothing that concerns us.
            if self._handshake_settled and self._ssl.get_shutdown() & SSL.RECEIVED_SHUTDOWN:
                self._closed_by_peer = True
                raise ConnectionError("ended by an alert") from None
            return b""
        self._connection.note_alive()
        return packet

    async def _write_ssl(self) -> None:
        self._flush()

    def _flush(self) -> None:
        assert self._ssl is not None
        try:
            flight: bytes = self._ssl.bio_read(65536)
        except SSL.Error:
            return
        for datagram in split_records(flight):
            self._connection.send_now(datagram)

    def send_packet(self, packet: bytes) -> None:
        """Encrypt and send one packet.

        Raises:
            ConnectionError: the transport is not open.
        """
        if self._state is not State.CONNECTED or self._ssl is None:
            raise ConnectionError("DTLS is not open")
        try:
            self._ssl.send(packet)
            record: bytes = self._ssl.bio_read(MAX_PLAINTEXT)
        except SSL.Error as error:
            raise ConnectionError("DTLS is shut down") from error
        self._connection.send_now(record)

    async def _send_data(self, data: bytes) -> None:
        self.send_packet(data)

    async def stop(self) -> None:
        """Say goodbye and end the reading task; the ICE connection stays open."""
        task = self._task
        await super().stop()
        if task is not None:
            await asyncio.gather(task, return_exceptions=True)
