"""Makes peer connections: finds the certificate of a user, asks for ICE servers, hands both to a fresh peer."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.webrtc.ice import IcePolicy
from mxrtc_bridge.core.webrtc.ice_servers import IceServer
from mxrtc_bridge.engine.ports import PeerConnection
from mxrtc_bridge.rtc.certificates import (
    DtlsCertificate,
    PemStore,
    certificate_from_pem,
    certificate_to_pem,
    make_certificate,
)
from mxrtc_bridge.rtc.ice_servers import ServerPlan, plan_servers
from mxrtc_bridge.rtc.interfaces import MAX_HOST_SOCKETS, allowed_addresses, local_addresses
from mxrtc_bridge.rtc.openssl_dtls import OpensslDtls
from mxrtc_bridge.rtc.peer import DataPeerConnection, MakeDtls
from mxrtc_bridge.rtc.settings import RtcSettings

log = logging.getLogger(__name__)

MAX_CACHED_CERTIFICATES = 256
"""More virtual users than this read their certificate from the store again."""

SERVERS_TIMEOUT_S = 2.0
"""How long a call waits for the list of servers; where the way to the homeserver is bad, they are asked once it comes,
and what they give follows the description."""

IceServers = Callable[[UserId], Awaitable[tuple[IceServer, ...]]]


class PeerFactory:
    """Makes peer connections (:class:`mxrtc_bridge.engine.ports.PeerConnectionFactory`).

    Args:
        settings: of all of them.
        certificates: where certificates are kept.
        ice_servers: gives the STUN and TURN servers for a user; its failure costs the servers, not the call.
        dtls: makes the DTLS part of each.
    """

    def __init__(
        self,
        settings: RtcSettings,
        certificates: PemStore,
        ice_servers: IceServers,
        *,
        dtls: MakeDtls = OpensslDtls,
        servers_timeout_s: float = SERVERS_TIMEOUT_S,
        max_cached_certificates: int = MAX_CACHED_CERTIFICATES,
    ) -> None:
        self._max_cached_certificates = max_cached_certificates
        self._servers_timeout_s = servers_timeout_s
        self._dtls = dtls
        self._settings = settings
        self._store = certificates
        self._ice_servers = ice_servers
        self._cache: OrderedDict[UserId, DtlsCertificate] = OrderedDict()
        self._making = asyncio.Lock()
        self._told_left_out = False
        self._told_unusable: tuple[str, ...] = ()

    async def create(self, local: UserId) -> PeerConnection:
        """Make a peer connection for ``local``.

        Raises:
            ConfigError: the stored certificate cannot be read.
        """
        certificate = await self._certificate(local)
        self._tell_left_out()
        return DataPeerConnection(self._settings, certificate, await self._plan(local), self._dtls)

    def _tell_left_out(self) -> None:
        """Say once that this machine has more addresses than are offered."""
        if self._told_left_out or self._settings.policy is IcePolicy.RELAY:
            return
        self._told_left_out = True
        allowed = len(allowed_addresses(local_addresses(), self._settings.interfaces))
        if allowed > MAX_HOST_SOCKETS:
            log.info(
                "of %d addresses of this machine %d are offered, those of default routes first; "
                "ice.interfaces or --interface says which",
                allowed,
                MAX_HOST_SOCKETS,
            )

    async def _plan(self, local: UserId) -> ServerPlan:
        question = asyncio.create_task(self._plan_of_homeserver(local), name="ask-for-ice-servers")
        try:
            await asyncio.wait([question], timeout=self._servers_timeout_s)
        except BaseException:
            question.cancel()
            raise
        if question.done():
            return question.result()
        log.warning("no list of STUN and TURN servers within %g s; it is used once it comes", self._servers_timeout_s)
        return ServerPlan(later=question)

    async def _plan_of_homeserver(self, local: UserId) -> ServerPlan:
        try:
            plan = plan_servers(await self._ice_servers(local))
        except HomeserverError as error:
            log.warning("no list of STUN and TURN servers: %s; going on without", error)
            return ServerPlan()
        if plan.ignored != self._told_unusable:
            self._told_unusable = plan.ignored  # not with each call
            for uri in plan.ignored:
                log.info("ICE server %r cannot be used", uri)
        return plan

    async def _certificate(self, local: UserId) -> DtlsCertificate:
        # One at a time: two calls to a new user must not make two certificates.
        async with self._making:
            certificate = self._cache.get(local)
            if certificate is None:
                certificate = await self._load_or_make(local)
                self._cache[local] = certificate
                if len(self._cache) > self._max_cached_certificates:
                    self._cache.popitem(last=False)
            self._cache.move_to_end(local)
            return certificate

    async def _load_or_make(self, local: UserId) -> DtlsCertificate:
        pem = await self._store.load(local)
        if pem is not None:
            return certificate_from_pem(pem.encode())
        certificate = make_certificate()
        await self._store.save(local, certificate_to_pem(certificate).decode())
        return certificate
