"""The only reader and the only writer of the content of call events.

Content from the room is hostile until :func:`parse_message` has returned: known keys are bounded in type, size and
count, unknown keys are ignored, and whatever JSON value comes in, the result is a message or an :class:`EventError`.
Nothing here judges an SDP description or a candidate; :mod:`mxrtc_bridge.core.webrtc.sdp` does.

Rules of reading (client-server API, "Voice over IP"):

* ``version`` is the integer 0, or it counts as ``"1"``, even where it is missing or the integer 1.
* Version 1 messages must have a ``party_id``; that of a version 0 message is ignored.
* An invite whose offer or lifetime cannot be read is an invite nevertheless, with its fault: the caller may have a
  right to know why there is no answer.
* An entry of ``candidates`` that cannot be read costs only itself; what is beyond the bound is left out.
* An optional key that is ``null`` counts as missing, because JavaScript clients send it that way.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from mxrtc_bridge.core.call.events import (
    DEFAULT_LIFETIME_MS,
    EVENT_TYPES,
    MAX_LIFETIME_MS,
    MAX_REASON_CHARS,
    MIN_LIFETIME_MS,
    Answer,
    CallMessage,
    CandidateLine,
    Candidates,
    Hangup,
    Invite,
    Negotiate,
    Reject,
    SelectAnswer,
    Version,
)
from mxrtc_bridge.core.errors import EventError, RefusalCode, StateError
from mxrtc_bridge.core.ids import MAX_ID_CHARS, CallId, PartyId, parse_call_id, parse_party_id, parse_user_id
from mxrtc_bridge.core.webrtc.candidate import MAX_CANDIDATE_CHARS, MAX_CANDIDATE_LINES
from mxrtc_bridge.core.webrtc.sdp import MAX_SDP_BYTES, DescriptionType

_MAX_M_LINE_INDEX = 0xFFFF
"""``sdpMLineIndex`` is an unsigned short (WebRTC 1.0, RTCIceCandidateInit)."""

LIMIT = "io.mxrtc.limit"
"""The key of :attr:`Reject.limit`; other clients do not know it, and need not."""

_CAPABILITIES = {"m.call.transferee": False, "m.call.dtmf": False}
"""We can be neither transferred nor dialled at; said because clients say it."""


class _Envelope(NamedTuple):
    """What every call event has, in the order in which a message begins with it."""

    call_id: CallId
    party_id: PartyId | None
    version: Version


def parse_message(event_type: str, content: object) -> CallMessage:
    """Read the content of a call event.

    Args:
        event_type: the type of the event, one of ``EVENT_TYPES``.
        content: the ``content`` of the event as JSON values; anything at all.

    Raises:
        EventError: with the code ``unknown_type``, ``bad_content``, ``bad_id``, ``bad_version`` or ``sdp_too_large``,
            and a sentence that names the field and the limit.
    """
    read = _READERS.get(event_type)
    if read is None:
        raise EventError(
            RefusalCode.UNKNOWN_TYPE, f"event type {event_type[:80]!a} is none of {', '.join(EVENT_TYPES)}"
        )
    fields = _object("content", content)
    return read(_read_envelope(event_type, fields), fields)


def content_of(message: CallMessage) -> tuple[str, dict[str, object]]:
    """Write a message as (event type, content), in the version that the message names.

    Raises:
        StateError: a version 1 message without ``party_id``, or a kind of message that version 0 does not have.
    """
    content: dict[str, object] = {"call_id": message.call_id}
    if message.version is Version.V0:
        if isinstance(message, _SINCE_V1):
            raise StateError(f"{_TYPE_NAMES[type(message)]} does not exist in version 0 of the call protocol")
        content["version"] = 0
    else:
        if message.party_id is None:
            raise StateError(f"a version 1 {_TYPE_NAMES[type(message)]} needs a party_id")
        content["version"] = "1"
        content["party_id"] = message.party_id
    content.update(_body_of(message))
    return _TYPE_NAMES[type(message)], content


_SINCE_V1 = (SelectAnswer, Reject, Negotiate)
_TYPE_NAMES: dict[type[CallMessage], str] = {kind: name for name, kind in EVENT_TYPES.items()}


# Writing


def _body_of(message: CallMessage) -> dict[str, object]:
    body: dict[str, object] = {}
    match message:
        case Invite():
            body = {"offer": _description(DescriptionType.OFFER, message.sdp), "lifetime": message.lifetime_ms}
            if message.invitee is not None:
                body["invitee"] = message.invitee
            body |= _extras(message.version, capabilities=True)
        case Answer():
            body = {"answer": _description(DescriptionType.ANSWER, message.sdp)}
            body |= _extras(message.version, capabilities=True)
        case Candidates():
            lines = [_candidate(line) for line in message.candidates]
            body = {"candidates": [*lines, {"candidate": ""}] if message.end else lines}
        case SelectAnswer(selected_party_id=selected):
            body = {} if selected is None else {"selected_party_id": selected}
        case Reject(reason=reason, limit=limit):
            body = {} if reason is None else {"reason": reason}
            if limit is not None:
                body[LIMIT] = limit
        case Hangup(version=version, reason=ending):
            # Version 0 has no word for an ordinary end: its reason is left out.
            body = {} if version is Version.V0 and ending == "user_hangup" else {"reason": ending}
        case Negotiate():
            body = {"description": _description(message.type, message.sdp), "lifetime": message.lifetime_ms}
            body |= _extras(message.version)
    return body


def _description(kind: DescriptionType, sdp: str) -> object:
    return {"type": kind.value, "sdp": sdp}


def _extras(version: Version, *, capabilities: bool = False) -> dict[str, object]:
    """Say that there are no media streams, under both names: js-sdk before 38 reads only the unstable one."""
    if version is Version.V0:
        return {}
    extras: dict[str, object] = {"sdp_stream_metadata": {}, "org.matrix.msc3077.sdp_stream_metadata": {}}
    return extras | {"capabilities": dict(_CAPABILITIES)} if capabilities else extras


def _candidate(line: CandidateLine) -> dict[str, object]:
    entry: dict[str, object] = {"candidate": line.candidate}
    if line.mid is not None:
        entry["sdpMid"] = line.mid
    if line.m_line_index is not None:
        entry["sdpMLineIndex"] = line.m_line_index
    return entry


# Reading


def _bad(sentence: str) -> EventError:
    return EventError(RefusalCode.BAD_CONTENT, sentence)


def _object(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise _bad(f"{name} must be an object, not {type(value).__name__}")
    return value


def _text(name: str, value: object, max_chars: int, code: RefusalCode = RefusalCode.BAD_CONTENT) -> str:
    if not isinstance(value, str):
        raise _bad(f"{name} must be a string, not {type(value).__name__}")
    if len(value) > max_chars:
        raise EventError(code, f"{name} has {len(value)} characters; the limit is {max_chars}")
    return value


def _utf8_size(name: str, value: str) -> int:
    """Size in bytes; JSON can carry half a surrogate pair, which no library behind us could encode."""
    try:
        return len(value.encode())
    except UnicodeEncodeError:
        raise _bad(f"{name} holds half a surrogate pair, which is not text") from None


def _read_envelope(event_type: str, fields: dict[str, object]) -> _Envelope:
    version = fields.get("version")
    call_id = parse_call_id(fields.get("call_id"))
    if type(version) is int and version == 0:
        if EVENT_TYPES[event_type] in _SINCE_V1:
            raise EventError(RefusalCode.BAD_VERSION, f"{event_type} does not exist in version 0 of the call protocol")
        return _Envelope(call_id, None, Version.V0)
    return _Envelope(call_id, parse_party_id(fields.get("party_id")), Version.V1)


def _read_sdp(name: str, value: object, *kinds: DescriptionType) -> tuple[DescriptionType, str]:
    fields = _object(name, value)
    kind = next((kind for kind in kinds if kind.value == fields.get("type")), None)
    if kind is None:
        raise _bad(f"{name}.type must be {' or '.join(repr(kind.value) for kind in kinds)}")
    # No text has more characters than bytes, so the first check spares the encoding of an oversized one.
    sdp = _text(f"{name}.sdp", fields.get("sdp"), MAX_SDP_BYTES, RefusalCode.SDP_TOO_LARGE)
    size_bytes = _utf8_size(f"{name}.sdp", sdp)
    if size_bytes > MAX_SDP_BYTES:
        raise EventError(RefusalCode.SDP_TOO_LARGE, f"{name}.sdp has {size_bytes} bytes; the limit is {MAX_SDP_BYTES}")
    if not sdp:
        raise _bad(f"{name}.sdp is empty")
    return kind, sdp


def _read_lifetime(version: Version, value: object) -> int:
    if value is None and version is Version.V0:
        return DEFAULT_LIFETIME_MS
    if type(value) is not int:
        raise _bad(f"lifetime must be an integer in milliseconds, not {type(value).__name__}")
    return max(MIN_LIFETIME_MS, min(value, MAX_LIFETIME_MS))


def _read_reason(value: object) -> str | None:
    """Return a reason fit to be shown, or None.

    Lenient on purpose: a hangup must end the call even if its reason is nonsense, or we would keep a dead call.
    """
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        return "unknown_error"
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in value[:MAX_REASON_CHARS])


def _read_candidate(entry: object) -> CandidateLine:
    fields = _object("a candidate", entry)
    text = _text("candidate", fields.get("candidate"), MAX_CANDIDATE_CHARS)
    _utf8_size("candidate", text)
    mid = fields.get("sdpMid")
    if mid is not None:
        mid = _text("sdpMid", mid, MAX_ID_CHARS)
        _utf8_size("sdpMid", mid)
    index = fields.get("sdpMLineIndex")
    if index is not None and (type(index) is not int or not 0 <= index <= _MAX_M_LINE_INDEX):
        raise _bad(f"sdpMLineIndex must be an integer from 0 to {_MAX_M_LINE_INDEX}")
    return CandidateLine(text, mid, index)


def _read_invite(head: _Envelope, fields: dict[str, object]) -> Invite:
    named = fields.get("invitee")
    invitee = None if named is None else parse_user_id(named)
    try:
        _, sdp = _read_sdp("offer", fields.get("offer"), DescriptionType.OFFER)
        lifetime_ms = _read_lifetime(head.version, fields.get("lifetime"))
    except EventError as error:
        return Invite(*head, "", DEFAULT_LIFETIME_MS, invitee, error.code, str(error))
    return Invite(*head, sdp, lifetime_ms, invitee)


def _read_answer(head: _Envelope, fields: dict[str, object]) -> Answer:
    _, sdp = _read_sdp("answer", fields.get("answer"), DescriptionType.ANSWER)
    return Answer(*head, sdp)


def _read_candidates(head: _Envelope, fields: dict[str, object]) -> Candidates:
    entries = fields.get("candidates")
    if not isinstance(entries, list):
        raise _bad(f"candidates must be a list, not {type(entries).__name__}")
    lines: list[CandidateLine] = []
    for entry in entries[:MAX_CANDIDATE_LINES]:
        with suppress(EventError):
            lines.append(_read_candidate(entry))
    # Some browsers put a mid beside the empty string of the end mark; it is the end mark all the same.
    candidates = tuple(line for line in lines if line.candidate)
    return Candidates(*head, candidates, end=len(candidates) < len(lines))


def _read_select_answer(head: _Envelope, fields: dict[str, object]) -> SelectAnswer:
    selected = fields.get("selected_party_id")
    party = None if selected is None else parse_party_id(selected)
    return SelectAnswer(*head, party)


def _read_reject(head: _Envelope, fields: dict[str, object]) -> Reject:
    reason, limit = _read_reason(fields.get("reason")), _read_reason(fields.get(LIMIT))
    return Reject(*head, reason, limit)


def _read_hangup(head: _Envelope, fields: dict[str, object]) -> Hangup:
    # The specification: an absent reason is an ordinary end.
    return Hangup(*head, _read_reason(fields.get("reason")) or "user_hangup")


def _read_negotiate(head: _Envelope, fields: dict[str, object]) -> Negotiate:
    kind, sdp = _read_sdp("description", fields.get("description"), DescriptionType.OFFER, DescriptionType.ANSWER)
    lifetime_ms = _read_lifetime(head.version, fields.get("lifetime"))
    return Negotiate(*head, kind, sdp, lifetime_ms)


_READERS: dict[str, Callable[[_Envelope, dict[str, object]], CallMessage]] = {
    "m.call.invite": _read_invite,
    "m.call.answer": _read_answer,
    "m.call.candidates": _read_candidates,
    "m.call.select_answer": _read_select_answer,
    "m.call.reject": _read_reject,
    "m.call.hangup": _read_hangup,
    "m.call.negotiate": _read_negotiate,
}
