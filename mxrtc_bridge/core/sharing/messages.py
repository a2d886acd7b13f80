"""What two commands of one account say to each other about calls and their device: text to frozen values, and back.

The one that holds the account is asked by another one, its guest, for a call or for something that its device does.
Each message is a JSON object of at most 4 KiB in a frame of channel 0. Both sides must have the same :data:`VERSION`;
where they have not, the guest calls by itself.

One file: a table of messages for each side, and the fields that they are made of.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

from mxrtc_bridge.core.call.values import CallEnded, CallOutcome
from mxrtc_bridge.core.crypto.sas_codes import DECIMALS, EMOJI, MAX_DECIMAL, MIN_DECIMAL, SYMBOLS, ShortCode
from mxrtc_bridge.core.errors import EventError, WireError
from mxrtc_bridge.core.files.messages import PROTOCOL_FILE
from mxrtc_bridge.core.ids import ServiceName, UserId, parse_service_name, parse_user_id
from mxrtc_bridge.core.sharing.frames import MAX_CHANNEL
from mxrtc_bridge.core.stream import json_message
from mxrtc_bridge.core.stream.json_message import Field, Fields, count, refuse, sendable
from mxrtc_bridge.core.stream.messages import PROTOCOL_TCP, ServiceKind, ServiceState
from mxrtc_bridge.core.webrtc.ice import IcePolicy, Path, PathKind

VERSION = 2
MAX_INTERFACES = 32
MAX_INTERFACE_CHARS = 64
MAX_WORD_CHARS = 64
MAX_FACTS = 32
MAX_CODE = 255

Fact = str | int | float | bool | None
"""A value of a fact that is told with ``--json``."""


# From the guest


@dataclass(frozen=True, slots=True)
class CallRequest:
    """``call``: reach a peer."""

    peer: UserId
    policy: IcePolicy
    interfaces: tuple[str, ...]
    signal: str
    """The way of the signalling, as the command line has it."""
    timeout_s: float


@dataclass(frozen=True, slots=True)
class OpenChannel:
    """``open``: open a data channel; frames with its number may follow at once."""

    channel: int
    service: ServiceName
    protocol: str


@dataclass(frozen=True, slots=True)
class ListRequest:
    """``list``: ask the peer for services."""

    number: int
    states: bool


@dataclass(frozen=True, slots=True)
class PingRequest:
    """``ping``: measure a round trip."""

    number: int


class DeviceTask(Enum):
    """What the device of the account is asked for, beside calls."""

    LIST = "list"
    """The devices of a user, and how far each is trusted."""
    ACCEPT = "accept"
    """Accept the identity that a user shows now."""
    VERIFY = "verify"
    """Compare with a user, or with another session of our own."""


@dataclass(frozen=True, slots=True)
class DeviceRequest:
    """``device``: do something with the device of the account."""

    task: DeviceTask
    user: UserId
    key: str | None
    """The only identity that may be accepted, if there is one."""
    timeout_s: float


@dataclass(frozen=True, slots=True)
class CompareReply:
    """``compared``: our person has looked at both sides."""

    same: bool


GuestMessage = CallRequest | OpenChannel | ListRequest | PingRequest | DeviceRequest | CompareReply


# From the one that holds the account


@dataclass(frozen=True, slots=True)
class HolderHello:
    """``hello``: said at once to whoever connects."""

    version: int
    pid: int
    user: str
    """Whose sessions they are."""
    device: str
    has_room: bool
    """Whether it takes one more guest; otherwise it closes the socket."""


@dataclass(frozen=True, slots=True)
class Beat:
    """``beat``: a sign of life, where there is nothing else to say."""


@dataclass(frozen=True, slots=True)
class Going:
    """``going``: its own work is done; it gives the account back, and lives on for its guests alone."""


@dataclass(frozen=True, slots=True)
class Said:
    """``said``: a fact for the person in front of the guest."""

    kind: str
    sentence: str
    facts: dict[str, Fact]


@dataclass(frozen=True, slots=True)
class Device:
    """The device of a peer that was called."""

    device: str
    key: str
    trust: str


@dataclass(frozen=True, slots=True)
class SessionUp:
    """``connected``: the session is up."""

    path: Path
    packet_bytes: int | None
    device: Device | None
    by_room_because: str


@dataclass(frozen=True, slots=True)
class Failed:
    """``failed``: there is no session; the same as the exception that it came as."""

    code: int
    """Exit code; 0 where the homeserver is why."""
    message: str
    defect: bool
    status: int
    """HTTP status of the homeserver."""
    errcode: str
    wait_s: float


@dataclass(frozen=True, slots=True)
class ListEntry:
    """``service``: one of those that were asked for."""

    number: int
    peer: UserId
    service: ServiceName
    kind: ServiceKind | None
    state: ServiceState | None
    until_ms: int | None


@dataclass(frozen=True, slots=True)
class ListDone:
    """``listed``: there are no more."""

    number: int


@dataclass(frozen=True, slots=True)
class PingReply:
    """``pong``: a round trip was measured."""

    number: int
    seconds: float
    packet_bytes: int | None


@dataclass(frozen=True, slots=True)
class Unanswered:
    """``unanswered``: what was asked for was not answered."""

    number: int
    message: str


@dataclass(frozen=True, slots=True)
class Goodbye:
    """The farewell of the other side."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Clocks:
    """Our clock and the peer's, in milliseconds since 1970, when it last said something."""

    here_ms: int
    there_ms: int


@dataclass(frozen=True, slots=True)
class SessionEnded:
    """``ended``: the session is over, as the call has ended."""

    call: CallEnded
    failure: str
    """Why the connection failed, where our side knows."""
    bye: Goodbye | None
    clocks: Clocks | None


@dataclass(frozen=True, slots=True)
class DeviceLine:
    """``given``: a line of what was asked of the device."""

    kind: str
    line: str
    facts: dict[str, Fact]


@dataclass(frozen=True, slots=True)
class CompareRequest:
    """``compare``: show this to our person, who answers with ``compared``."""

    user: UserId
    device: str
    code: ShortCode


@dataclass(frozen=True, slots=True)
class DeviceDone:
    """``done``: the device has done what it was asked for."""


HOLDER_ENDED = CallEnded(CallOutcome.FAILED, "holder_ended")
"""How a session ends for a guest when the command that has it ends."""
HOLDER_SILENT = CallEnded(CallOutcome.FAILED, "holder_silent")
"""How it ends when that command gives no sign of life any more."""

HolderMessage = (
    HolderHello
    | Beat
    | Going
    | Said
    | SessionUp
    | Failed
    | ListEntry
    | ListDone
    | PingReply
    | Unanswered
    | SessionEnded
    | DeviceLine
    | CompareRequest
    | DeviceDone
)


# Fields


def _flag(key: str) -> Field:
    def read(values: Fields) -> bool:
        value = values.get(key)
        if not isinstance(value, bool):
            refuse(key, value, "true or false")
        return value

    return Field(read, lambda value: {key: value})


def _number(key: str, most: float) -> Field:
    def read(values: Fields) -> float:
        value = values.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
            refuse(key, value, f"a number from 0 to {most:g}")
        return float(value)

    return Field(read, lambda value: {key: value})


def _maybe(field: Field, key: str) -> Field:
    """A field that may be missing: None."""
    return Field(
        lambda values: None if values.get(key) is None else field.read(values),
        lambda value: {key: None} if value is None else field.write(value),
    )


def _or(field: Field, key: str, default: Any) -> Field:
    """A field that may be missing: a default."""
    return Field(lambda values: field.read(values) if key in values else default, field.write)


def _word(key: str, limit: int = MAX_WORD_CHARS) -> Field:
    return Field(lambda values: json_message.read_text(values, key, limit), lambda value: {key: value})


def _one_of(key: str, known: frozenset[str]) -> Field:
    def read(values: Fields) -> str:
        value = values.get(key)
        if not isinstance(value, str) or value not in known:
            refuse(key, value, f"one of {', '.join(sorted(known))}")
        return value

    return Field(read, lambda value: {key: value})


def _member(key: str, kind: Any) -> Field:
    return Field(
        lambda values: kind(_one_of(key, frozenset(each.value for each in kind)).read(values)),
        lambda member: {key: member.value},
    )


def _parsed(key: str, parse: Any) -> Field:
    def read(values: Fields) -> Any:
        try:
            return parse(values.get(key))
        except EventError as error:
            raise WireError("bad_field", f"{key}: {error}") from error

    return Field(read, lambda value: {key: value})


def _nested(key: str, kind: Any, *row: Field) -> Field:
    """An object with a field for each attribute of ``kind``."""

    def read(values: Fields) -> Any:
        value = values.get(key)
        if not isinstance(value, dict):
            refuse(key, value, "an object")
        return kind(*[field.read(value) for field in row])

    def write(value: Any) -> Fields:
        inside: Fields = {}
        for attribute, field in zip(fields(kind), row, strict=True):
            inside |= field.write(getattr(value, attribute.name))
        return {key: inside}

    return Field(read, write)


def _words(key: str) -> Field:
    def read(values: Fields) -> tuple[str, ...]:
        items = json_message.read_items(values, key, MAX_INTERFACES)
        if not all(isinstance(each, str) and len(each) <= MAX_INTERFACE_CHARS for each in items):
            refuse(key, items, f"a list of words of at most {MAX_INTERFACE_CHARS} characters")
        return tuple(str(each) for each in items)

    return Field(read, lambda value: {key: list(value)})


def _facts(key: str) -> Field:
    def read(values: Fields) -> dict[str, Fact]:
        value = values.get(key)
        if (
            not isinstance(value, dict)
            or len(value) > MAX_FACTS
            or not all(isinstance(each, (str, int, float, bool, type(None))) for each in value.values())
        ):
            refuse(key, value, f"an object of at most {MAX_FACTS} plain values")
        return value

    def write(value: dict[str, Fact]) -> Fields:
        return {key: {name: sendable(each) if isinstance(each, str) else each for name, each in value.items()}}

    return Field(read, write)


def _numbers(key: str, length: int, low: int, high: int) -> Field:
    def read(values: Fields) -> tuple[int, ...]:
        items = json_message.read_items(values, key, length)
        if len(items) != length or not all(type(each) is int and low <= each <= high for each in items):
            refuse(key, items, f"a list of {length} whole numbers from {low} to {high}")
        return tuple(each for each in items if isinstance(each, int))

    return Field(read, lambda value: {key: list(value)})


_CHANNEL = count("channel", low=1, high=MAX_CHANNEL)
_NUMBER = count("number")
_PACKET = _maybe(count("packet_bytes"), "packet_bytes")
_PATH = _nested("path", Path, _member("kind", PathKind), _word("local"), _word("remote"), _word("family"))
_DEVICE = _maybe(_nested("device", Device, _word("device", 255), _word("key", 255), _word("trust")), "device")
_MESSAGE, _EXIT = json_message.text("message"), count("code", high=MAX_CODE)
_ENDED = _nested(
    "call", CallEnded, _member("outcome", CallOutcome), _word("reason"), _maybe(_word("limit", 255), "limit")
)
_BYE = _maybe(_nested("bye", Goodbye, _word("code"), json_message.text("message")), "bye")
_CLOCKS = _maybe(_nested("clocks", Clocks, count("here"), count("there")), "clocks")
_CODE = _nested(
    "code",
    ShortCode,
    _numbers("emoji", SYMBOLS, 0, len(EMOJI) - 1),
    _numbers("decimals", DECIMALS, MIN_DECIMAL, MAX_DECIMAL),
)
_PROTOCOLS = frozenset({PROTOCOL_TCP, PROTOCOL_FILE})

GUEST = json_message.MessageFormat[GuestMessage](
    "a guest",
    {
        "call": (
            *(CallRequest, _parsed("peer", parse_user_id), _member("policy", IcePolicy), _words("interfaces")),
            *(_word("signal"), _number("timeout_s", 3600)),
        ),
        "open": (OpenChannel, _CHANNEL, _parsed("service", parse_service_name), _one_of("protocol", _PROTOCOLS)),
        "list": (ListRequest, _NUMBER, _flag("states")),
        "ping": (PingRequest, _NUMBER),
        "device": (
            *(DeviceRequest, _member("task", DeviceTask), _parsed("user", parse_user_id)),
            *(_maybe(_word("key", 255), "key"), _number("timeout_s", 3600)),
        ),
        "compared": (CompareReply, _flag("same")),
    },
)

HOLDER = json_message.MessageFormat[HolderMessage](
    "the one that holds the account",
    {
        "hello": (
            *(HolderHello, count("version"), count("pid")),
            # Not there in that of an earlier version, which is to be recognised as such.
            *(_or(_word("user", 255), "user", ""), _or(_word("device", 255), "device", "")),
            _or(_flag("has_room"), "has_room", True),
        ),
        "beat": (Beat,),
        "going": (Going,),
        "said": (Said, _word("kind"), json_message.text("sentence"), _facts("facts")),
        "connected": (SessionUp, _PATH, _PACKET, _DEVICE, json_message.text("by_room_because")),
        "failed": (
            *(Failed, _EXIT, _MESSAGE, _flag("defect"), count("status", high=999)),
            *(_word("errcode", 255), _number("wait_s", 1e9)),
        ),
        "service": (
            *(ListEntry, _NUMBER, _parsed("peer", parse_user_id), _parsed("service", parse_service_name)),
            *(_maybe(_member("kind", ServiceKind), "kind"), _maybe(_member("state", ServiceState), "state")),
            _maybe(count("until_ms"), "until_ms"),
        ),
        "listed": (ListDone, _NUMBER),
        "pong": (PingReply, _NUMBER, _number("seconds", 1e6), _PACKET),
        "unanswered": (Unanswered, _NUMBER, _MESSAGE),
        "ended": (SessionEnded, _ENDED, json_message.text("failure"), _BYE, _CLOCKS),
        "given": (DeviceLine, _word("kind"), json_message.text("line"), _facts("facts")),
        "compare": (CompareRequest, _parsed("user", parse_user_id), _word("device", 255), _CODE),
        "done": (DeviceDone,),
    },
)
