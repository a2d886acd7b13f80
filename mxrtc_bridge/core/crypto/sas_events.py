"""The messages of a verification by short authentication strings: content of an event to a checked value and back.

Client-server API, "Key verification framework" and "Short Authentication String (SAS) verification". Whoever sends
them proves nothing yet: the messages come in plain text, and what they say is believed only after two people have
compared what both sides show. The field that names the verification, ``transaction_id`` or ``m.relates_to``, is not
part of the values; :func:`transaction_of` reads it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mxrtc_bridge.core.crypto.canonical_json import canonical_json
from mxrtc_bridge.core.errors import EventError, RefusalCode
from mxrtc_bridge.core.ids import DeviceId

PREFIX = "m.key.verification."
METHOD = "m.sas.v1"
KEY_AGREEMENT = "curve25519-hkdf-sha256"
HASH = "sha256"
MAC_METHOD = "hkdf-hmac-sha256.v2"
"""The one without a version has a fault in its base64 and is on its way out; every client of today has this one."""
CODES = ("decimal", "emoji")

MAX_ITEMS = 32
"""Methods, algorithms or keys of one message."""
MAX_CONTENT_BYTES = 8 * 1024
MAX_REASON = 500
_NAME = re.compile(r"[!-~]{1,255}")
_KEY = re.compile(r"[A-Za-z0-9+/]{43}")


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody wants to verify, or be verified."""

    device: DeviceId
    methods: tuple[str, ...]
    timestamp_ms: int | None
    """When, by the sender's clock, in milliseconds since 1970; None in a room, where the event has a time."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The request is accepted by this device."""

    device: DeviceId
    methods: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Start:
    """One side begins, and says what it knows."""

    device: DeviceId
    method: str
    key_agreements: tuple[str, ...]
    hashes: tuple[str, ...]
    macs: tuple[str, ...]
    codes: tuple[str, ...]
    canonical: bytes = field(repr=False)
    """The whole content, which the other side commits itself to."""


@dataclass(frozen=True, slots=True)
class Accept:
    """The other side has chosen, and has committed itself to a key that it does not show yet."""

    key_agreement: str
    hash: str
    mac: str
    codes: tuple[str, ...]
    commitment: str


@dataclass(frozen=True, slots=True)
class Key:
    """The sender's ephemeral public key."""

    key: str


@dataclass(frozen=True, slots=True)
class Mac:
    """The sender's person has said that both sides show the same; these are the keys that this vouches for."""

    macs: Mapping[str, str]
    """By the id of a key (``ed25519:DEVICE``) the code over the key."""
    keys: str
    """The code over the list of these ids."""


@dataclass(frozen=True, slots=True)
class Done:
    """The sender has checked everything."""


@dataclass(frozen=True, slots=True)
class Cancel:
    """The sender has ended it."""

    code: str
    reason: str
    """The sender's words."""


SasEvent = Request | Ready | Start | Accept | Key | Mac | Done | Cancel

TYPES: Mapping[type[SasEvent], str] = {
    each: PREFIX + each.__name__.lower() for each in (Request, Ready, Start, Accept, Key, Mac, Done, Cancel)
}
EVENT_TYPES = frozenset(TYPES.values())


def transaction_of(content: Mapping[str, object]) -> str:
    """Read which verification between two devices a message belongs to.

    Raises:
        EventError: it does not say.
    """
    return _name(content, "transaction_id")


def parse_sas_event(event_type: str, content: Mapping[str, Any]) -> SasEvent:  # noqa: C901, PLR0911 - one row each
    """Read a message.

    Raises:
        EventError: it is none, or has a field that is not what it must be.
    """
    match event_type.removeprefix(PREFIX):
        case "request":
            timestamp = content.get("timestamp")
            if timestamp is not None and (type(timestamp) is not int or timestamp < 0):
                raise EventError(RefusalCode.BAD_CONTENT, "timestamp must be a whole number")
            return Request(DeviceId(_name(content, "from_device")), _names(content, "methods"), timestamp)
        case "ready":
            return Ready(DeviceId(_name(content, "from_device")), _names(content, "methods"))
        case "start":
            return _parse_start(content)
        case "accept":
            return Accept(
                _name(content, "key_agreement_protocol"),
                _name(content, "hash"),
                _name(content, "message_authentication_code"),
                _names(content, "short_authentication_string"),
                _name(content, "commitment"),
            )
        case "key":
            key = _name(content, "key")
            if _KEY.fullmatch(key) is None:
                raise EventError(RefusalCode.BAD_CONTENT, "key must be 32 bytes in unpadded base64")
            return Key(key)
        case "mac":
            return Mac(_macs(content), _name(content, "keys"))
        case "done":
            return Done()
        case "cancel":
            reason = content.get("reason")
            return Cancel(_name(content, "code"), reason[:MAX_REASON] if isinstance(reason, str) else "")
    raise EventError(RefusalCode.BAD_TYPE, f"there is no {event_type[:80]}")


def _parse_start(content: Mapping[str, Any]) -> Start:
    device, method = DeviceId(_name(content, "from_device")), _name(content, "method")
    if method != METHOD:
        # Of another method we know no fields.
        return Start(device, method, (), (), (), (), b"")
    canonical = canonical_json(content)
    if len(canonical) > MAX_CONTENT_BYTES:
        raise EventError(RefusalCode.BAD_CONTENT, f"a start may have {MAX_CONTENT_BYTES} bytes")
    return Start(
        device,
        method,
        _names(content, "key_agreement_protocols"),
        _names(content, "hashes"),
        _names(content, "message_authentication_codes"),
        _names(content, "short_authentication_string"),
        canonical,
    )


def request_content(device: DeviceId, timestamp_ms: int) -> dict[str, object]:
    """Write a request between devices."""
    return {"from_device": device, "methods": [METHOD], "timestamp": timestamp_ms}


def ready_content(device: DeviceId) -> dict[str, object]:
    """Write the acceptance of a request."""
    return {"from_device": device, "methods": [METHOD]}


def start_content(device: DeviceId) -> dict[str, object]:
    """Write the start, with everything that we know."""
    return {
        "from_device": device,
        "method": METHOD,
        "key_agreement_protocols": [KEY_AGREEMENT],
        "hashes": [HASH],
        "message_authentication_codes": [MAC_METHOD],
        "short_authentication_string": list(CODES),
    }


def accept_content(codes: tuple[str, ...], commitment: str) -> dict[str, object]:
    """Write the answer to a start."""
    return {
        "method": METHOD,
        "key_agreement_protocol": KEY_AGREEMENT,
        "hash": HASH,
        "message_authentication_code": MAC_METHOD,
        "short_authentication_string": list(codes),
        "commitment": commitment,
    }


def mac_content(mac: Mac) -> dict[str, object]:
    """Write which keys are vouched for."""
    return {"mac": dict(mac.macs), "keys": mac.keys}


def cancel_content(code: str, reason: str) -> dict[str, object]:
    """Write the end."""
    return {"code": code, "reason": reason}


def _name(content: Mapping[str, object], field_name: str) -> str:
    value = content.get(field_name)
    if not isinstance(value, str) or _NAME.fullmatch(value) is None:
        raise EventError(RefusalCode.BAD_CONTENT, f"{field_name} must be 1 to 255 printable ASCII characters")
    return value


def _names(content: Mapping[str, object], field_name: str) -> tuple[str, ...]:
    value = content.get(field_name)
    if not isinstance(value, list) or len(value) > MAX_ITEMS:
        raise EventError(RefusalCode.BAD_CONTENT, f"{field_name} must be a list of at most {MAX_ITEMS}")
    if not all(isinstance(each, str) and _NAME.fullmatch(each) is not None for each in value):
        raise EventError(RefusalCode.BAD_CONTENT, f"{field_name} must hold names of printable ASCII characters")
    return tuple(value)


def _macs(content: Mapping[str, object]) -> dict[str, str]:
    value = content.get("mac")
    if not isinstance(value, dict) or len(value) > MAX_ITEMS:
        raise EventError(RefusalCode.BAD_CONTENT, f"mac must be an object of at most {MAX_ITEMS}")
    for name, code in value.items():
        if not (isinstance(name, str) and isinstance(code, str) and _NAME.fullmatch(name) and _NAME.fullmatch(code)):
            raise EventError(RefusalCode.BAD_CONTENT, "mac must hold names and codes of printable ASCII characters")
    return dict(value)
