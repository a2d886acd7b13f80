"""Control messages of the data channels: text to frozen values and back.

The only reader and the only writer of control text; docs/reference/protocol.md sections 2, 3 and 5 are its
specification. Text from a channel is hostile: :meth:`MessageFormat.decode` answers any string with a value, with None
(a message that must be ignored) or with :class:`WireError`, and nothing else. It never repairs what it reads.

Binary messages are payload and never come here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from mxrtc_bridge.core.errors import EventError, WireError
from mxrtc_bridge.core.ids import ServiceName, UserId, parse_service_name, parse_user_id
from mxrtc_bridge.core.stream.json_message import (
    CODE,
    Field,
    Fields,
    MessageFormat,
    code,
    count,
    matching,
    read_count,
    read_items,
    read_matching,
    refuse,
    text,
)

PROTOCOL_TCP = "tcp.v1.mxrtc"
PROTOCOL_RAW = "raw.mxrtc"
ONLY_FILES = "this service is for files: use mxrtc send, get or ls with it"
"""Said to somebody with the right to a service who opens a stream to it, where it has none."""
UNREACHABLE = "the service cannot be reached"
"""Said beside the code where that says it all."""
RESET_BY_OTHER_SIDE = "the other side reset the stream"
GIVES_ONLY = "it gives data and takes none"
"""Why a service is gone that something was sent to."""
READ_ONLY = "read_only"
"""The code for that."""

PROTOCOL_CTL = "ctl.v1.mxrtc"
RAW_PROTOCOLS = frozenset({PROTOCOL_RAW, ""})
"""A page that gives no protocol at all means the raw one."""

CTL_VERSION = 1

KIB = 1024
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

MAX_CAPS = 32
MAX_SERVICES_PER_MESSAGE = 64

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


class ServiceKind(Enum):
    """What a service is for; the value goes over the wire, and is shown to people."""

    STREAM = "stream"
    """Connections: bytes in both directions."""
    INBOX = "inbox"
    """Files can be put into it."""
    SHARE = "share"
    """Files can be listed and fetched."""
    FILES = "files"
    """Both."""


class ServiceState(Enum):
    """Whether a service answers at this moment; the value goes over the wire, and is shown to people."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"
    """Nobody has looked."""


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
    states: bool = False
    """And which of them are up?"""


@dataclass(frozen=True, slots=True)
class PeerServices:
    """``peer``: a part of the answer to ``list``."""

    number: int
    peer: UserId
    services: tuple[ServiceName, ...]
    until: tuple[tuple[ServiceName, int], ...] = ()
    """When the right to some of them ends by itself, in wall-clock milliseconds since 1970."""
    kinds: tuple[ServiceKind | None, ...] = ()
    """What each of them is for, in their order, None for a kind that we do not know; empty if it is not said."""
    states: tuple[ServiceState, ...] = ()
    """Whether each of them answers, in their order; empty if it is not said."""


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


def _read_caps(fields: Fields) -> tuple[str, ...]:
    caps: list[str] = []
    for cap in read_items(fields, "caps", MAX_CAPS):
        if not isinstance(cap, str) or _CAP.fullmatch(cap) is None:
            refuse("caps", cap, f"text of the form {_CAP.pattern}")
        caps.append(cap)
    return tuple(caps)


def _read_peer(fields: Fields) -> UserId:
    try:
        return parse_user_id(fields.get("peer"))
    except EventError as error:
        raise WireError("bad_field", str(error)) from error


def _read_services(fields: Fields) -> tuple[ServiceName, ...]:
    try:
        return tuple(parse_service_name(name) for name in read_items(fields, "services", MAX_SERVICES_PER_MESSAGE))
    except EventError as error:
        raise WireError("bad_field", str(error)) from error


def _read_until(fields: Fields) -> tuple[tuple[ServiceName, int], ...]:
    ends = fields.get("until", {})
    if not isinstance(ends, dict) or len(ends) > MAX_SERVICES_PER_MESSAGE:
        refuse("until", ends, f"an object with at most {MAX_SERVICES_PER_MESSAGE} services")
    # A service that is not in the list has no right that could end.
    return tuple((name, read_count(ends, name)) for name in _read_services(fields) if name in ends)


_KINDS = {kind.value: kind for kind in ServiceKind}


def _read_kinds(fields: Fields) -> tuple[ServiceKind | None, ...]:
    return tuple(map(_KINDS.get, _read_codes(fields, "kinds")))


_STATES = {state.value: state for state in ServiceState}


def _read_states(fields: Fields) -> tuple[ServiceState, ...]:
    return tuple(_STATES.get(code, ServiceState.UNKNOWN) for code in _read_codes(fields, "states"))


def _read_codes(fields: Fields, key: str) -> list[str]:
    """Return one code for each service, or none at all."""
    if key not in fields:
        return []
    services = len(read_items(fields, "services", MAX_SERVICES_PER_MESSAGE))
    codes = read_items(fields, key, services)
    if len(codes) != services:
        refuse(key, codes, f"a list of {services}, one for each service")
    return [read_matching({key: each}, key, CODE) for each in codes]


def _write_codes(key: str) -> Callable[[tuple[Enum, ...]], Fields]:
    return lambda codes: {key: [each.value for each in codes]} if codes else {}


def _read_wanted(fields: Fields) -> bool:
    wanted = fields.get("states", False)
    if not isinstance(wanted, bool):
        refuse("states", wanted, "true or false")
    return wanted


_NUMBER = count("n")
_OFFSET = count("o")
_WINDOW = count("w", high=MAX_WINDOW)
_CODE = matching("c", CODE)

TCP: MessageFormat[TcpMessage] = MessageFormat(
    PROTOCOL_TCP,
    {
        "open": (Open, matching("s", _STREAM_ID)),
        "ok": (Ok, _WINDOW),
        "err": (Err, code("c", ErrCode, ErrCode.UNAVAILABLE), text("m")),
        "ack": (Ack, _OFFSET, _WINDOW),
        "fin": (Fin, _OFFSET),
        "rst": (Rst, _CODE),
    },
)
CTL: MessageFormat[CtlMessage] = MessageFormat(
    PROTOCOL_CTL,
    {
        "hello": (Hello, count("v", low=1), Field(_read_caps, lambda caps: {"caps": list(caps)})),
        "ping": (Ping, _NUMBER),
        "pong": (Pong, _NUMBER),
        "list": (List, _NUMBER, Field(_read_wanted, lambda wanted: {"states": True} if wanted else {})),
        "peer": (
            PeerServices,
            _NUMBER,
            Field(_read_peer, lambda peer: {"peer": peer}),
            Field(_read_services, lambda services: {"services": list(services)}),
            Field(_read_until, lambda until: {"until": dict(until)} if until else {}),
            Field(_read_kinds, _write_codes("kinds")),
            Field(_read_states, _write_codes("states")),
        ),
        "end": (ListEnd, _NUMBER),
        "bye": (Bye, _CODE, text("m")),
    },
)
