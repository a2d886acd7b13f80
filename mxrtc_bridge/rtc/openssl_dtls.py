"""DTLS upon OpenSSL alone: for a user's side, which installs no library of media for it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from OpenSSL import SSL

from mxrtc_bridge.core.webrtc.sdp import Fingerprint
from mxrtc_bridge.rtc.certificates import DtlsCertificate
from mxrtc_bridge.rtc.dtls import DtlsTransport
from mxrtc_bridge.rtc.ice import IceConnection


class OpensslDtls(DtlsTransport):
    """DTLS for one peer connection; see :class:`~mxrtc_bridge.rtc.dtls.DtlsTransport`."""

    def __init__(self, connection: IceConnection, certificate: DtlsCertificate, *, ended: Callable[[], None]) -> None:
        super().__init__(connection, ended=ended)
        self._certificate = certificate
        self._ssl = None
        self._task = None
        self.encrypted = False
        self._is_live = False

    async def _run_handshake(self, *, server: bool, fingerprints: tuple[Fingerprint, ...]) -> None:
        self._ssl = SSL.Connection(self._certificate.context())
        if server:
            self._ssl.set_accept_state()
        else:
            self._ssl.set_connect_state()
        self._is_live = True
        if not await self._shake_hands() or not self._is_the_one_described(fingerprints):
            self._fail()
            return
        self._is_open = True
        self._task = asyncio.create_task(self._until_the_end(), name="dtls")

    async def _until_the_end(self) -> None:
        try:
            while True:
                await self._next_datagram()
        except ConnectionError:
            pass  # what it was is in end_reason
        finally:
            self._is_open = self._is_live = False
            self._ended()

    def _fail(self) -> None:
        self._is_live = False

    async def _say_goodbye(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None
        if self._is_live and self._ssl is not None:
            with contextlib.suppress(SSL.Error):
                self._ssl.shutdown()
            with contextlib.suppress(ConnectionError):
                self._flush()
