"""Control messages of the data channels: text to frozen values and back.

The only reader and the only writer of control text; docs/reference/protocol.md sections 2, 3 and 5 are its
specification. Text from a channel is hostile: :func:`decode` answers any string with a value, with None (a message that
must be ignored) or with :class:`WireError`, and nothing else. It never repairs what it reads.

Binary messages are payload and never come here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.core.errors import EventError, WireError
from mxrtc_bridge.core.ids import ServiceName, UserId, parse_service_name, parse_user_id
from mxrtc_bridge.core.stream import json_message
from mxrtc_bridge.core.stream.json_message import (
    CODE,
    Fields,
    read_count,
    read_items,
    read_matching,
    read_object,
    read_text,
    refuse,
    sendable,
    write_object,
)

PROTOCOL_TCP = "tcp.v1.mxrtc"
PROTOCOL_RAW = "raw.mxrtc"
PROTOCOL_CTL = "ctl.v1.mxrtc"
RAW_PROTOCOLS = frozenset({PROTOCOL_RAW, ""})
"""A page that gives no protocol at all means the raw one."""

CTL_VERSION = 1

KIB = 1024
MAX_CONTROL_BYTES = json_message.MAX_CONTROL_BYTES
MAX_PAYLOAD_BYTES = 16 * KIB
"""Payload of one message of ours: small enough that a bulk stream cannot block the line for long."""
INITIAL_CREDIT = 64 * KIB
"""What either side may send before it has been told a window."""
DEFAULT_WINDOW = 256 * KIB
LARGEST_WINDOW = 4 * KIB * KIB
"""What we offer the only stream of a session: 80 MB/s over a round trip of 50 ms."""
MIN_WINDOW = 16 * KIB
MAX_WINDOW = 16 * KIB * KIB
ACK_EVERY_BYTES = 64 * KIB
MAX_COUNT = json_message.MAX_COUNT

MAX_TEXT_CHARS = json_message.MAX_TEXT_CHARS
MAX_CAPS = 32
MAX_SERVICES_PER_MESSAGE = 64
MAX_DEPTH = json_message.MAX_DEPTH

_STREAM_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_CAP = re.compile(r"[!-~]{1,64}")


class ErrCode(Enum):
    """Why an acceptor has no stream to give; the value goes over the wire."""

    DENIED = "denied"
    UNKNOWN = "unknown"
    REFUSED = "refused"
    TIMEOUT = "timeout"
    LIMIT = "limit"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Open:
    """``open``: the id of a stream, from its opener."""

    stream_id: str


@dataclass(frozen=True, slots=True)
class Ok:
    """``ok``: the service is connected."""

    window: int


@dataclass(frozen=True, slots=True)
class Err:
    """``err``: there will be no stream."""

    code: ErrCode
    message: str


@dataclass(frozen=True, slots=True)
class Ack:
    """``ack``: so much is written, and so much more may be sent."""

    offset: int
    window: int


@dataclass(frozen=True, slots=True)
class Fin:
    """``fin``: nothing will be sent beyond ``offset``."""

    offset: int


@dataclass(frozen=True, slots=True)
class Rst:
    """``rst``: the stream is broken."""

    code: str


@dataclass(frozen=True, slots=True)
class Hello:
    """``hello``: the first message of either side of a session."""

    version: int
    caps: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ping:
    """``ping``: to be answered at once."""

    number: int


@dataclass(frozen=True, slots=True)
class Pong:
    """``pong``: the answer to the ping of the same number."""

    number: int


@dataclass(frozen=True, slots=True)
class List:
    """``list``: which services may I use?"""

    number: int


@dataclass(frozen=True, slots=True)
class PeerServices:
    """``peer``: a part of the answer to ``list``."""

    number: int
    peer: UserId
    services: tuple[ServiceName, ...]
    until: tuple[tuple[ServiceName, int], ...] = ()
    """When the right to some of them ends by itself, in wall-clock milliseconds since 1970."""


@dataclass(frozen=True, slots=True)
class ListEnd:
    """``end``: the answer to ``list`` is complete."""

    number: int


@dataclass(frozen=True, slots=True)
class Bye:
    """``bye``: the sender is about to end the session."""

    code: str
    message: str


TcpMessage = Open | Ok | Err | Ack | Fin | Rst
CtlMessage = Hello | Ping | Pong | List | PeerServices | ListEnd | Bye
Message = TcpMessage | CtlMessage


def is_code(value: str) -> bool:
    """Whether ``value`` may stand where the protocol has a code."""
    return CODE.fullmatch(value) is not None


def decode(protocol: str, text: str) -> Message | None:
    """Read a control message.

    Args:
        protocol: the protocol of its channel; must be one that has control messages.
        text: the message as it came.

    Returns:
        the message, or None if it is a trial (``x-``) that must be ignored.

    Raises:
        WireError: with the code ``too_long``, ``not_json``, ``bad_field`` or ``unknown_message``.
    """
    readers = _READERS[protocol]
    fields = read_object(text)
    kind = read_text(fields, "t", MAX_CONTROL_BYTES)
    reader = readers.get(kind)
    if reader is not None:
        return reader(fields)
    if kind.startswith("x-"):
        return None
    raise WireError("unknown_message", f"{kind[:40]!a} is no message of {protocol}")


def encode(message: Message) -> str:
    """Write a control message; text for people is cut to 500 characters, which keeps every message below 4 KiB."""
    return write_object(_fields_of(message))


def _fields_of(message: Message) -> Fields:  # noqa: PLR0911, PLR0912, C901 - one row for each message, nothing else
    match message:
        case Open(stream_id=stream_id):
            return {"t": "open", "s": stream_id}
        case Ok(window=window):
            return {"t": "ok", "w": window}
        case Err(code=code, message=text):
            return {"t": "err", "c": code.value, "m": sendable(text)}
        case Ack(offset=offset, window=window):
            return {"t": "ack", "o": offset, "w": window}
        case Fin(offset=offset):
            return {"t": "fin", "o": offset}
        case Rst(code=rst_code):
            return {"t": "rst", "c": rst_code}
        case Hello(version=version, caps=caps):
            return {"t": "hello", "v": version, "caps": list(caps)}
        case Ping(number=number):
            return {"t": "ping", "n": number}
        case Pong(number=number):
            return {"t": "pong", "n": number}
        case List(number=number):
            return {"t": "list", "n": number}
        case PeerServices(number=number, peer=peer, services=services, until=until):
            ends: Fields = {"until": dict(until)} if until else {}
            return {"t": "peer", "n": number, "peer": peer, "services": list(services), **ends}
        case ListEnd(number=number):
            return {"t": "end", "n": number}
        case Bye(code=bye_code, message=text):
            return {"t": "bye", "c": bye_code, "m": sendable(text)}


def _read_err(fields: Fields) -> Err:
    code = read_matching(fields, "c", CODE)
    known = ErrCode(code) if code in _ERR_CODES else ErrCode.UNAVAILABLE
    return Err(known, read_text(fields, "m"))


def _read_hello(fields: Fields) -> Hello:
    version = read_count(fields, "v", low=1)
    caps: list[str] = []
    for cap in read_items(fields, "caps", MAX_CAPS):
        if not isinstance(cap, str) or _CAP.fullmatch(cap) is None:
            refuse("caps", cap, f"text of the form {_CAP.pattern}")
        caps.append(cap)
    return Hello(version, tuple(caps))


def _read_peer(fields: Fields) -> PeerServices:
    try:
        peer = parse_user_id(fields.get("peer"))
        services = tuple(parse_service_name(name) for name in read_items(fields, "services", MAX_SERVICES_PER_MESSAGE))
    except EventError as error:
        raise WireError("bad_field", str(error)) from error
    return PeerServices(read_count(fields, "n"), peer, services, _read_until(fields, services))


def _read_until(fields: Fields, services: tuple[ServiceName, ...]) -> tuple[tuple[ServiceName, int], ...]:
    ends = fields.get("until", {})
    if not isinstance(ends, dict) or len(ends) > MAX_SERVICES_PER_MESSAGE:
        refuse("until", ends, f"an object with at most {MAX_SERVICES_PER_MESSAGE} services")
    # A service that is not in the list has no right that could end.
    return tuple((name, read_count(ends, name)) for name in services if name in ends)


_ERR_CODES = frozenset(code.value for code in ErrCode)

_TCP_READERS: Mapping[str, Callable[[Fields], Message]] = {
    "open": lambda fields: Open(read_matching(fields, "s", _STREAM_ID)),
    "ok": lambda fields: Ok(read_count(fields, "w", high=MAX_WINDOW)),
    "err": _read_err,
    "ack": lambda fields: Ack(read_count(fields, "o"), read_count(fields, "w", high=MAX_WINDOW)),
    "fin": lambda fields: Fin(read_count(fields, "o")),
    "rst": lambda fields: Rst(read_matching(fields, "c", CODE)),
}

_CTL_READERS: Mapping[str, Callable[[Fields], Message]] = {
    "hello": _read_hello,
    "ping": lambda fields: Ping(read_count(fields, "n")),
    "pong": lambda fields: Pong(read_count(fields, "n")),
    "list": lambda fields: List(read_count(fields, "n")),
    "peer": _read_peer,
    "end": lambda fields: ListEnd(read_count(fields, "n")),
    "bye": lambda fields: Bye(read_matching(fields, "c", CODE), read_text(fields, "m")),
}

_READERS: Mapping[str, Mapping[str, Callable[[Fields], Message]]] = {
    PROTOCOL_TCP: _TCP_READERS,
    PROTOCOL_CTL: _CTL_READERS,
}
