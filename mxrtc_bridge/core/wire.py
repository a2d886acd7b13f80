"""Control messages of the data channels: text to frozen values and back.

The only reader and the only writer of control text; docs/reference/protocol.md sections 2, 3 and 5 are its
specification. Text from a channel is hostile: :func:`decode` answers any string with a value, with None (a message that
must be ignored) or with :class:`WireError`, and nothing else. It never repairs what it reads.

Binary messages are payload and never come here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from mxrtc_bridge.core.errors import EventError, WireError
from mxrtc_bridge.core.ids import ServiceName, UserId, parse_service_name, parse_user_id

PROTOCOL_TCP = "tcp.v1.mxrtc"
PROTOCOL_RAW = "raw.mxrtc"
PROTOCOL_CTL = "ctl.v1.mxrtc"
RAW_PROTOCOLS = frozenset({PROTOCOL_RAW, ""})
"""A page that gives no protocol at all means the raw one."""

CTL_VERSION = 1

KIB = 1024
MAX_CONTROL_BYTES = 4 * KIB
MAX_PAYLOAD_BYTES = 16 * KIB
"""Payload of one message of ours: small enough that a bulk stream cannot block the line for long."""
INITIAL_CREDIT = 64 * KIB
"""What either side may send before it has been told a window."""
DEFAULT_WINDOW = 256 * KIB
MIN_WINDOW = 16 * KIB
MAX_WINDOW = 16 * KIB * KIB
ACK_EVERY_BYTES = 64 * KIB
MAX_COUNT = 2**53 - 1
"""The greatest integer that every JSON reader keeps exact (RFC 8259 section 6)."""

MAX_TEXT_CHARS = 500
MAX_CAPS = 32
MAX_SERVICES_PER_MESSAGE = 64
MAX_DEPTH = 8

_CODE = re.compile(r"[a-z][a-z0-9_-]{0,31}")
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

Fields = dict[str, object]


def is_code(value: str) -> bool:
    """Whether ``value`` may stand where the protocol has a code."""
    return _CODE.fullmatch(value) is not None


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
    fields = _read_object(text)
    kind = _text(fields, "t", MAX_CONTROL_BYTES)
    reader = readers.get(kind)
    if reader is not None:
        return reader(fields)
    if kind.startswith("x-"):
        return None
    raise WireError("unknown_message", f"{kind[:40]!a} is no message of {protocol}")


def encode(message: Message) -> str:
    """Write a control message; text for people is cut to 500 characters, which keeps every message below 4 KiB."""
    return json.dumps(_fields_of(message), ensure_ascii=False, separators=(",", ":"))


def _fields_of(message: Message) -> Fields:  # noqa: PLR0911, PLR0912, C901 - one row for each message, nothing else
    match message:
        case Open(stream_id=stream_id):
            return {"t": "open", "s": stream_id}
        case Ok(window=window):
            return {"t": "ok", "w": window}
        case Err(code=code, message=text):
            return {"t": "err", "c": code.value, "m": _sendable(text)}
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
        case PeerServices(number=number, peer=peer, services=services):
            return {"t": "peer", "n": number, "peer": peer, "services": list(services)}
        case ListEnd(number=number):
            return {"t": "end", "n": number}
        case Bye(code=bye_code, message=text):
            return {"t": "bye", "c": bye_code, "m": _sendable(text)}


def _sendable(text: str) -> str:
    # Half a surrogate pair (from a file name, say) has no UTF-8; it must not break the channel on its way out.
    return text[:MAX_TEXT_CHARS].encode("utf-8", "replace").decode()


def _refuse(field: str, value: object, allowed: str) -> NoReturn:
    shown = f"{value!a}"
    raise WireError("bad_field", f"{field} is {shown[:60]}; it must be {allowed}")


def _read_object(text: str) -> Fields:
    # Characters first: a text of many megabytes must not be encoded only to learn that it is too long.
    if len(text) > MAX_CONTROL_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_CONTROL_BYTES:
        raise WireError("too_long", f"a control message may have {MAX_CONTROL_BYTES} bytes")
    if _depth(text) > MAX_DEPTH:
        raise WireError("not_json", f"a control message may nest {MAX_DEPTH} levels deep")
    try:
        value: object = json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse_constant)
    except ValueError as error:
        raise WireError("not_json", "a control message must be one JSON object") from error
    if not isinstance(value, dict):
        raise WireError("not_json", f"a control message must be a JSON object, not {type(value).__name__}")
    return value


def _depth(text: str) -> int:
    """The deepest nesting, before the parser recurses into it; strings may hold any bracket."""
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return 0
    deepest = depth = 0
    for structural in _STRUCTURE.finditer(text):
        character = structural[0]
        if character in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif character in "}]":
            depth -= 1
    return deepest


# A string that never ends is taken as a whole: trying again at each of its quotes would take quadratic time.
_STRUCTURE = re.compile(r'"(?:[^"\\]|\\.)*+"?|[{}\[\]]', re.DOTALL)


def _unique(pairs: list[tuple[str, object]]) -> Fields:
    # Two readers may take different ones of two equal keys; what they disagree about must not be accepted.
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise WireError("not_json", "a control message may not name a key twice")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise WireError("not_json", f"{name} is no JSON")


def _count(fields: Fields, key: str, low: int = 0, high: int = MAX_COUNT) -> int:
    value = fields.get(key)
    if type(value) is not int or not low <= value <= high:
        _refuse(key, value, f"a whole number from {low} to {high}")
    return value


def _text(fields: Fields, key: str, limit: int = MAX_TEXT_CHARS) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or len(value) > limit:
        _refuse(key, value, f"text of at most {limit} characters")
    return value


def _matching(fields: Fields, key: str, pattern: re.Pattern[str]) -> str:
    value = fields.get(key)
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        _refuse(key, value, f"text of the form {pattern.pattern}")
    return value


def _items(fields: Fields, key: str, limit: int) -> list[object]:
    value = fields.get(key)
    if not isinstance(value, list) or len(value) > limit:
        _refuse(key, value, f"a list of at most {limit}")
    return value


def _read_err(fields: Fields) -> Err:
    code = _matching(fields, "c", _CODE)
    known = ErrCode(code) if code in _ERR_CODES else ErrCode.UNAVAILABLE
    return Err(known, _text(fields, "m"))


def _read_hello(fields: Fields) -> Hello:
    version = _count(fields, "v", low=1)
    caps: list[str] = []
    for cap in _items(fields, "caps", MAX_CAPS):
        if not isinstance(cap, str) or _CAP.fullmatch(cap) is None:
            _refuse("caps", cap, f"text of the form {_CAP.pattern}")
        caps.append(cap)
    return Hello(version, tuple(caps))


def _read_peer(fields: Fields) -> PeerServices:
    try:
        peer = parse_user_id(fields.get("peer"))
        services = tuple(parse_service_name(name) for name in _items(fields, "services", MAX_SERVICES_PER_MESSAGE))
    except EventError as error:
        raise WireError("bad_field", str(error)) from error
    return PeerServices(_count(fields, "n"), peer, services)


_ERR_CODES = frozenset(code.value for code in ErrCode)

_TCP_READERS: Mapping[str, Callable[[Fields], Message]] = {
    "open": lambda fields: Open(_matching(fields, "s", _STREAM_ID)),
    "ok": lambda fields: Ok(_count(fields, "w", high=MAX_WINDOW)),
    "err": _read_err,
    "ack": lambda fields: Ack(_count(fields, "o"), _count(fields, "w", high=MAX_WINDOW)),
    "fin": lambda fields: Fin(_count(fields, "o")),
    "rst": lambda fields: Rst(_matching(fields, "c", _CODE)),
}

_CTL_READERS: Mapping[str, Callable[[Fields], Message]] = {
    "hello": _read_hello,
    "ping": lambda fields: Ping(_count(fields, "n")),
    "pong": lambda fields: Pong(_count(fields, "n")),
    "list": lambda fields: List(_count(fields, "n")),
    "peer": _read_peer,
    "end": lambda fields: ListEnd(_count(fields, "n")),
    "bye": lambda fields: Bye(_matching(fields, "c", _CODE), _text(fields, "m")),
}

_READERS: Mapping[str, Mapping[str, Callable[[Fields], Message]]] = {
    PROTOCOL_TCP: _TCP_READERS,
    PROTOCOL_CTL: _CTL_READERS,
}
