"""Whether the homeserver is reached by a proxy, and by which.

By the variables that curl, git and others read: ``HTTPS_PROXY`` and ``HTTP_PROXY`` by the scheme of the address,
``ALL_PROXY``, and ``NO_PROXY`` for what is reached without one; ``MXRTC_PROXY`` comes before them, and what the
configuration names before all: both mean the homeserver and have no exceptions. By the others this machine itself is
never reached.

Only requests go by a proxy. Peers are reached by UDP or TURN, which these proxies do not carry.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.login.server import is_loopback

DIRECT = "none"
"""In place of an address: by no proxy, whatever else says so."""
OWN_VARIABLE = "MXRTC_PROXY"
MAX_CHARS = 2048
_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}


@dataclass(frozen=True, slots=True)
class Proxy:
    """A proxy; ``str()`` of it shows no password."""

    scheme: str
    """``http``, ``https``, ``socks4`` or ``socks5``; the two latter resolve names themselves."""
    host: str
    port: int
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @property
    def is_socks(self) -> bool:
        """Whether it speaks SOCKS and not HTTP."""
        return self.scheme.startswith("socks")

    @property
    def address(self) -> str:
        """Where it is, without who we are there."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def __str__(self) -> str:
        return self.address


@dataclass(frozen=True, slots=True)
class ProxyChoice:
    """What is used, and who has said so."""

    proxy: Proxy | None
    because: str = ""
    """The name of a variable, or of a key of the configuration; empty where nobody has named a proxy."""


def parse_proxy(text: str) -> Proxy:
    """Read the address of a proxy; without a scheme it is one of HTTP, as elsewhere.

    Raises:
        ConfigError: it is none; says what one looks like, and shows no password.
    """
    example = "write it like http://proxy.example.org:3128 or socks5://127.0.0.1:1080"
    usable = len(text) <= MAX_CHARS and text.isascii() and text.isprintable() and " " not in text
    try:
        parts = urlsplit((text if "://" in text else f"http://{text}") if usable else "")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ConfigError(f"this is no address of a proxy; {example}") from None
    if parts.scheme not in _PORTS or not host or port == 0 or parts.path not in ("", "/") or parts.query:
        raise ConfigError(f"this is no address of a proxy; {example}")
    scheme = {"socks5h": "socks5", "socks4a": "socks4"}.get(parts.scheme, parts.scheme)
    username, password = unquote(parts.username or ""), unquote(parts.password or "")
    return Proxy(scheme, host, port or _PORTS[parts.scheme], username, password)


def choose_proxy(address: str, environment: Mapping[str, str], configured: str = "") -> ProxyChoice:
    """How an address is reached.

    Args:
        address: of a web server.
        environment: the variables of the process.
        configured: what the configuration names; empty for nothing.

    Raises:
        ConfigError: what is named is no proxy; says who has named it.
    """
    parts = urlsplit(address)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    named = [("homeserver.proxy", configured), (OWN_VARIABLE, environment.get(OWN_VARIABLE, ""))]
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        named += [(each, environment.get(each, "")) for each in (name, name.upper())]
    for index, (name, value) in enumerate(named):
        # Of a program that a web server has started, this one is a header of whoever asks it.
        if not value or (name == "HTTP_PROXY" and "REQUEST_METHOD" in environment):
            continue
        if value == DIRECT:
            return ProxyChoice(None, name)
        # Who names a proxy for us alone means this homeserver, wherever it is.
        if index > 1 and is_loopback(host):
            return ProxyChoice(None)
        if index > 1 and (excepted := _excepted(host, port, environment)):
            return ProxyChoice(None, excepted)
        try:
            return ProxyChoice(parse_proxy(value), name)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None
    return ProxyChoice(None)


def _excepted(host: str, port: int, environment: Mapping[str, str]) -> str:
    """The variable that takes this host out; empty if none does."""
    for name in ("no_proxy", "NO_PROXY"):
        if any(_matches(each, host, port) for each in environment.get(name, "").replace(",", " ").split()):
            return name
    return ""


def _matches(pattern: str, host: str, port: int) -> bool:
    """Whether an entry means a host: a name and all below it, an address, a network, or ``*``; perhaps with a port."""
    if pattern == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(pattern.strip("[]"), strict=False)
    except ValueError:
        pass
    name, colon, wanted = pattern.rpartition(":")
    if colon and wanted.isdigit() and not name.endswith(":"):
        if int(wanted) != port:
            return False
        pattern = name
    pattern = pattern.strip("[]").removeprefix("*").removeprefix(".").lower()
    return bool(pattern) and (host == pattern or host.endswith(f".{pattern}"))
