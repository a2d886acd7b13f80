"""DTLS upon aiortc's transport, whose states and order it has: for the sessions of the bridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from aiortc import RTCCertificate, RTCDtlsFingerprint, RTCDtlsParameters, RTCIceTransport
from aiortc.rtcdtlstransport import RTCDtlsTransport, SRTPProtectionProfile, State
from OpenSSL import SSL

from mxrtc_bridge.core.webrtc.sdp import Fingerprint
from mxrtc_bridge.rtc.certificates import DtlsCertificate
from mxrtc_bridge.rtc.dtls import DtlsTransport
from mxrtc_bridge.rtc.ice import IceConnection


class _Certificate(RTCCertificate):
    """Ours, as aiortc asks for it."""

    def __init__(self, ours: DtlsCertificate) -> None:
        super().__init__(key=ours.key, cert=ours.certificate)
        self._ours = ours

    def _create_ssl_context(self, srtp_profiles: list[SRTPProtectionProfile]) -> SSL.Context:  # noqa: ARG002 - no media
        return self._ours.context()


class AiortcDtls(DtlsTransport, RTCDtlsTransport):
    """DTLS for one peer connection; see :class:`~mxrtc_bridge.rtc.dtls.DtlsTransport`."""

    def __init__(self, connection: IceConnection, certificate: DtlsCertificate, *, ended: Callable[[], None]) -> None:
        # Of its ICE transport aiortc uses sending, receiving and the role; the first two are overridden here.
        RTCDtlsTransport.__init__(self, cast(RTCIceTransport, connection), [_Certificate(certificate)])
        DtlsTransport.__init__(self, connection, ended=ended)

    async def _run_handshake(self, *, server: bool, fingerprints: tuple[Fingerprint, ...]) -> None:
        self._set_role("server" if server else "client")
        described = [RTCDtlsFingerprint(algorithm=each.algorithm, value=each.value) for each in fingerprints]
        await self.start(RTCDtlsParameters(fingerprints=described))

    def _fail(self) -> None:
        self._set_state(State.FAILED)

    async def _say_goodbye(self) -> None:
        await RTCDtlsTransport.stop(self)

    # Called by aiortc

    async def _do_handshake(self) -> None:
        if not await self._shake_hands():
            self._fail()

    def _validate_peer_identity(self, remoteParameters: RTCDtlsParameters) -> None:  # noqa: N803 - aiortc's name
        if not self._is_the_one_described(Fingerprint(f.algorithm, f.value) for f in remoteParameters.fingerprints):
            self._fail()

    def _setup_srtp(self) -> None:
        """Data only: no keys for media."""

    def _set_state(self, state: State) -> None:
        was_open, self._is_open = self._is_open, state is State.CONNECTED
        super()._set_state(state)
        if was_open and state is State.CLOSED:
            self._ended()

    async def _recv_next(self) -> None:
        await self._next_datagram()

    async def _write_ssl(self) -> None:
        self._flush()
