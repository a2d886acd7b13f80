"""How connections to the homeserver are made: straight, or by a proxy.

Never says where a proxy is when something fails: that is an address, or holds a password.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from typing import Any

from aiohttp import ClientHttpProxyError, ClientProxyConnectionError, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from mxrtc_bridge.config.proxies import Proxy
from mxrtc_bridge.core.text.display import presentable
from mxrtc_bridge.engine.name_lookup import look_up
from mxrtc_bridge.matrix.api.silent_path import Sockets

_MAX_WORDS = 100


class _Resolver(AbstractResolver):
    """Finds the homeserver also where nobody answers for one of the two families of addresses."""

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,  # noqa: ARG002 - always this one
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                # A scope says on which link an IPv6 address is; of others it is 0.
                host=f"{address[0]}%{address[3]}" if len(address) == 4 and address[3] else address[0],
                port=address[1],
                family=found,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for found, _, protocol, _, address in await look_up(
                host, port, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
        ]

    async def close(self) -> None:
        """Nothing is kept."""


def connector_for(proxy: Proxy | None, sockets: Sockets) -> TCPConnector:
    """What makes connections; to be closed by whoever uses it.

    Args:
        proxy: by which; None to go straight.
        sockets: makes the sockets, but for those to a proxy of SOCKS, which its library makes: there a path that dies
            without a word is noticed when an answer does not come.
    """
    if proxy is None or not proxy.is_socks:
        return TCPConnector(socket_factory=sockets.make, resolver=_Resolver())
    from aiohttp_socks import ProxyConnector, ProxyType  # noqa: PLC0415 - few have such a proxy, and all would load it

    return ProxyConnector(
        proxy.host,
        proxy.port,
        proxy_type=ProxyType.SOCKS5 if proxy.scheme == "socks5" else ProxyType.SOCKS4,
        username=proxy.username or None,
        password=proxy.password or None,
        rdns=True,  # a name that is looked up here would tell the network what the proxy is to hide
    )


def request_options(proxy: Proxy | None) -> Mapping[str, Any]:
    """What each request has to say of a proxy."""
    if proxy is None or proxy.is_socks:
        return {}
    address = URL(proxy.address)
    if proxy.username:
        address = address.with_user(proxy.username).with_password(proxy.password)
    return {"proxy": address}


def proxy_failure(error: BaseException) -> str | None:
    """What a proxy has to do with a failure; None if it has nothing to do with it."""
    if isinstance(error, ClientHttpProxyError):
        wants = ", as it wants a login" if error.status == 407 else ""
        return f"the proxy does not connect us: it answers {error.status}{wants}"
    if isinstance(error, ClientProxyConnectionError):
        return f"the proxy cannot be reached{_reason(error)}"
    if type(error).__module__.partition(".")[0] not in ("aiohttp_socks", "python_socks"):
        return None
    if type(error).__name__ == "ProxyConnectionError":  # it says in words where that was, and why in its cause
        return f"the proxy cannot be reached{_reason(error.__cause__ or error)}"
    if type(error).__name__ == "ProxyTimeoutError":
        return "the proxy does not answer"
    return f"the proxy does not connect us: {presentable(str(error)[:_MAX_WORDS])}"


def _reason(error: BaseException) -> str:
    number = getattr(error, "errno", None)
    return f": {os.strerror(number).lower()}" if isinstance(number, int) and number > 0 else ""
