"""The small languages inside the values: durations, targets, listen addresses, networks, times.

Each ``parse_*`` takes the text as it stands in the file and returns a value, or raises :class:`ValueError` with a
phrase that says what is allowed. Each ``format_*`` is the inverse, for the example and the reference.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from math import inf
from posixpath import normpath
from urllib.parse import urlsplit

from mxrtc_bridge.config.problems import quoted
from mxrtc_bridge.config.proxies import DIRECT, parse_proxy
from mxrtc_bridge.core.access.targets import AppendTarget, ReadTarget, Target, TcpTarget, UnixTarget
from mxrtc_bridge.core.errors import ConfigError, EventError
from mxrtc_bridge.core.files.names import FileNameError
from mxrtc_bridge.core.files.patterns import parse_name_pattern
from mxrtc_bridge.core.ids import MAX_ID_CHARS, is_room_alias, is_server_name, typed_user_id
from mxrtc_bridge.core.text import durations
from mxrtc_bridge.core.webrtc import ice_servers
from mxrtc_bridge.core.webrtc.address_policy import IpNetwork

_SIZE = re.compile(r"([0-9]{1,9})(B|KiB|MiB|GiB|TiB)")
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "TiB": 1024**4}
_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]{2,45}\]|[^\[\]:/@\s]{1,253}):([0-9]{1,5})")
# The last label begins with a letter: 127.1 and 0x7f000001 are addresses to the system's resolver, and no names.
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)([A-Za-z0-9_]([\w-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z]([\w-]{0,61}[A-Za-z0-9])?\.?", re.A
)
_ROOM_ID = re.compile(r"![!-~]+")

_NOT_FOR_CALLERS = frozenset(
    {"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/sys", "/usr"}
    | {"/var", "/var/lib", "/var/log"}
)

LATEST_VERSION = 2
"""Of the format of the configuration; earlier ones are read as well (:mod:`mxrtc_bridge.config.versions`)."""
MAX_SIZE = 2**53 - 1
"""Largest size that the file protocol can name."""
MAX_UNIX_PATH = 107
"""Linux: ``sun_path`` has 108 bytes with the closing zero (unix(7))."""
MAX_FILE_PATH = 4095
"""Linux: ``PATH_MAX`` is 4096 with the closing zero."""


@dataclass(frozen=True, slots=True)
class TcpListen:
    """A TCP address to listen on."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixListen:
    """A unix socket to listen on."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


Listen = TcpListen | UnixListen


def parse_version(version: int) -> int:
    """Judge the version that a file says it has.

    Raises:
        ValueError: there is none of that number, or a later program has made it.
    """
    if version > LATEST_VERSION:
        raise ValueError(
            f"{version} is of a newer mxrtc-bridge, and this one knows up to {LATEST_VERSION}; "
            "upgrade the program, or put back the copy that `mxrtc-bridge config upgrade` has kept"
        )
    if version < 1:
        raise ValueError(f"{version} is no version; write {LATEST_VERSION}")
    return version


def parse_duration(text: object) -> float:
    """Read ``500ms``, ``10s``, ``5m``, ``1h30m`` or ``30d``, and return seconds."""
    seconds = durations.parse_duration(text, least_s=0, most_s=inf) if isinstance(text, str) else None
    if seconds is None:
        raise ValueError(
            f"{quoted(text)} is not a duration; write a whole number and a unit, like 500ms, 10s, 5m, 12h, 30d"
        )
    return seconds


def format_duration(seconds: float) -> str:
    """Write ``seconds`` with the largest unit that needs no fraction."""
    milliseconds = round(seconds * 1000)
    for size, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s")):
        if milliseconds >= size and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def parse_size(text: object) -> int:
    """Read ``0B``, ``500MiB``, ``16GiB`` or ``2TiB``, and return bytes."""
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{quoted(text)} is not a size; write a whole number and a unit, like 500MiB, 16GiB, 2TiB")
    size = int(match[1]) * _BYTES[match[2]]
    if size > MAX_SIZE:
        raise ValueError(f"{quoted(text)} is more than the file protocol can name; at most 8191TiB")
    return size


def parse_directory(text: str) -> str:
    """Read the absolute path of a directory that callers may be let into; it cannot be one that the system lives in."""
    if not text.startswith("/") or "\0" in text or not text.isprintable():
        raise ValueError(f"{quoted(text)} is not an absolute path like /srv/inbox")
    path = normpath("/" + text.lstrip("/"))
    if path in _NOT_FOR_CALLERS or path.startswith(("/proc/", "/sys/", "/dev/")):
        raise ValueError(f"{quoted(path)} belongs to the system; give a directory of its own, like /srv/inbox")
    return path


def parse_allowed_name(text: str) -> str:
    """Read a pattern for names of files, like ``*.pdf``."""
    try:
        return parse_name_pattern(text).text
    except FileNameError as error:
        raise ValueError(str(error)) from None


def parse_file_mode(value: object) -> int:
    """Read the mode of files, like ``"0640"``: who else than the owner may read, and whether the group may write."""
    if not isinstance(value, str) or re.fullmatch(r"0?[0-7]{3}", value) is None:
        raise ValueError(f'{quoted(str(value))} is not a mode in quotes, like "0640"')
    mode = int(value, 8)
    if mode & ~0o664 or mode & 0o600 != 0o600:
        raise ValueError(
            f"files cannot have the mode {quoted(value)}: the owner reads and writes, the group and others may read, "
            'the group may write, and nobody executes; write "0600", "0640", "0660", "0644" or "0664"'
        )
    return mode


def parse_group(value: object) -> str:
    """Read a group of this machine, by name or number; whether there is one is found out where it is used."""
    text = str(value) if type(value) is int else value
    if not isinstance(text, str) or re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}|[0-9]{1,9}", text) is None:
        raise ValueError(f"{quoted(str(value))} is not the name or number of a group")
    return text


def parse_user(text: str) -> str:
    """Read the id of a user, like ``@alice:example.org``."""
    try:
        return typed_user_id(text)
    except EventError:
        raise ValueError(f"{quoted(text)} is not a user id like @alice:example.org") from None


def parse_room_id(text: str) -> str:
    """Read the id of a room; an alias names no certain room."""
    if len(text) <= MAX_ID_CHARS and _ROOM_ID.fullmatch(text):
        return text
    raise ValueError(f"{quoted(text)} is not a room id like !abc:example.org; an alias can be moved to another room")


def parse_room(text: str) -> str:
    """Read the id of a room, or an alias of it."""
    if len(text) <= MAX_ID_CHARS and (_ROOM_ID.fullmatch(text) or is_room_alias(text)):
        return text
    raise ValueError(f"{quoted(text)} is neither a room id like !abc:example.org nor an alias like #rtc:example.org")


def parse_target(text: str) -> Target:
    """Read ``tcp:HOST:PORT`` (an IPv6 address in brackets), or ``unix:``, ``append:`` or ``read:/absolute/path``."""
    scheme, _, rest = text.partition(":")
    match scheme:
        case "tcp":
            host, port = _host_and_port(rest)
            return TcpTarget(host, port)
        case "unix":
            return UnixTarget(_unix_path(rest))
        case "append":
            return AppendTarget(_file_path(rest, scheme))
        case "read":
            return ReadTarget(_file_path(rest, scheme))
    raise ValueError(f"{quoted(text)} is not a target; write tcp:HOST:PORT, unix:/path, append:/path or read:/path")


def parse_listen(text: str) -> Listen:
    """Read ``ADDRESS:PORT`` or ``unix:/absolute/path``; names are not resolved, so the address must be one."""
    if text.startswith("unix:"):
        return UnixListen(_unix_path(text.removeprefix("unix:")))
    host, port = _host_and_port(text)
    if parse_address(host) is None:
        raise ValueError(f"{quoted(host)} is not an IP address; listen on one, like 127.0.0.1:29350, or on unix:/path")
    return TcpListen(host, port)


def _unix_path(path: str) -> str:
    if not path.startswith("/") or not path.isprintable():
        raise ValueError(f"{quoted(path)} is not an absolute path; write unix:/path/of/the.sock")
    return _bounded(path, "socket", MAX_UNIX_PATH)


def _file_path(path: str, scheme: str) -> str:
    if not path.startswith("/") or path.endswith("/") or not path.isprintable():
        raise ValueError(f"{quoted(path)} is not the absolute path of a file; write {scheme}:/path/of/the/file")
    return _bounded(path, "file", MAX_FILE_PATH)


def _bounded(path: str, what: str, limit: int) -> str:
    if (size := len(path.encode())) > limit:
        raise ValueError(f"the path of the {what} has {size} bytes; the limit is {limit}")
    return path


def _host_and_port(text: str) -> tuple[str, int]:
    match = _HOST_PORT.fullmatch(text)
    if match is None:
        raise ValueError(f"{quoted(text)} is not HOST:PORT; an IPv6 address stands in brackets, like [::1]:22")
    host, port = match[1], int(match[2])
    bracketed = host.startswith("[")
    host = host.strip("[]")
    address = parse_address(host)
    if address is None and (bracketed or _HOST_NAME.fullmatch(host) is None):
        raise ValueError(f"{quoted(host)} is neither an IP address nor a host name")
    if not 1 <= port <= 65535:
        raise ValueError(f"the port {port} is not between 1 and 65535")
    return str(address) if address is not None else host, port


def parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an IP address; None for what is none."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def parse_network(text: str) -> IpNetwork:
    """Read an address or a network like ``10.0.0.0/8``; bits behind the prefix are a mistake."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        pass
    try:
        meant = ipaddress.ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{quoted(text)} is not a network; write one like 192.0.2.0/24 or 2001:db8::/32") from None
    raise ValueError(f"{quoted(text)} has bits set behind its prefix; did you mean {meant}?")


def parse_interface(text: str) -> str:
    """Read the name of a network interface (``eth0``), an address or a network."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_.\-]{0,14}", text):
        return text
    try:
        return str(parse_network(text))
    except ValueError:
        raise ValueError(f"{quoted(text)} is neither an interface like eth0 nor a network like 192.0.2.0/24") from None


def parse_server_name(text: str) -> str:
    """Read a Matrix server name (specification, appendices): a host name or an address, and perhaps a port."""
    if not is_server_name(text):
        scheme = "; write the server name without https://" if "://" in text else ""
        raise ValueError(f"{quoted(text)} is not a server name (the part after the colon of your user ids){scheme}")
    return text


def parse_http_url(text: str) -> str:
    """Read the base of an HTTP API; a slash at the end is dropped."""
    try:
        parts = urlsplit(text)
        port_is_fine = parts.port != 0  # raises for anything that is no port
    except ValueError:
        parts, port_is_fine = urlsplit(""), False
    usable = parts.scheme in ("http", "https") and bool(parts.hostname) and port_is_fine and text.isprintable()
    if not usable or " " in text:
        raise ValueError(f"{quoted(text)} is not a URL like http://127.0.0.1:8008 or https://matrix.example.org")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("the URL holds a user name, a query or a fragment; write only scheme, host, port and path")
    return text.rstrip("/")


def parse_proxy_text(text: str) -> str:
    """Read the address of a proxy, or ``none``."""
    if text != DIRECT:
        try:
            parse_proxy(text)
        except ConfigError as error:
            raise ValueError(str(error)) from None
    return text


def parse_ice_uri(text: str) -> str:
    """Read a STUN URI (RFC 7064) or a TURN URI (RFC 7065)."""
    if ice_servers.parse_ice_uri(text) is None:
        example = "stun:stun.example.org:3478 or turn:turn.example.org:3478?transport=udp"
        raise ValueError(f"{quoted(text)} is not a STUN or TURN URI like {example}")
    return text


def parse_time(text: str) -> int:
    """Read a date (its beginning, UTC) or a time with its offset; return milliseconds since 1970."""
    try:
        if re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            day = date.fromisoformat(text)
            moment = datetime(day.year, day.month, day.day, tzinfo=UTC)
        else:
            moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{quoted(text)} is not a time; write 2030-01-31 or 2030-01-31T18:00:00+01:00") from None
    if moment.tzinfo is None:
        raise ValueError(f"{quoted(text)} does not say its offset from UTC; add Z or one like +01:00")
    try:
        return round(moment.timestamp() * 1000)
    except OverflowError:
        raise ValueError(f"{quoted(text)} is out of range") from None
