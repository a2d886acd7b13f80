"""Content of every event and command by which a right begins or ends, with anything in, before and behind it.

Two things must hold for each: anything at all is read or refused, and never fails otherwise; and what ends something
ends it whatever stands beside the few fields that say so, while what gives something gives no more than they say.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.access.ban_lists import RULE_TYPES, parse_rule
from mxrtc_bridge.core.bot.arguments import Names
from mxrtc_bridge.core.bot.commands import Effect
from mxrtc_bridge.core.bot.message_text import HTML, read_message
from mxrtc_bridge.core.bot.parser import meant_by
from mxrtc_bridge.core.call.codec import parse_message
from mxrtc_bridge.core.call.events import EVENT_TYPES, Hangup, Reject
from mxrtc_bridge.core.call.to_device import parse_call_to_device
from mxrtc_bridge.core.crypto.sas_events import EVENT_TYPES as SAS_TYPES
from mxrtc_bridge.core.crypto.sas_events import Cancel, parse_sas_event
from mxrtc_bridge.core.errors import EventError, WireError
from mxrtc_bridge.core.stream.messages import CTL
from tests.chat_commands import COMMANDS
from tests.hostile_json import JSON, beside, fields
from tests.long import examples

CALL = {"call_id": "c", "party_id": "p", "version": "1"}
OFFER = {"offer": {"type": "offer", "sdp": "v=0"}, "lifetime": 60_000}
CALL_FIELDS = (*CALL, *OFFER, "answer", "candidates", "reason", "invitee", "selected_party_id", "description")
SAS_FIELDS = ("from_device", "methods", "timestamp", "code", "reason", "key", "mac", "keys", "commitment", "method")
MESSAGE_FIELDS = ("body", "format", "formatted_body", "m.mentions", "m.relates_to", "m.new_content", "msgtype")

READERS: dict[str, Callable[[dict[str, Any]], object]] = {
    **{kind: lambda content, kind=kind: parse_message(kind, CALL | content) for kind in sorted(EVENT_TYPES)},  # type: ignore[misc]
    "signal": parse_call_to_device,
    **{
        f"signal {kind}": lambda content, kind=kind: parse_call_to_device(  # type: ignore[misc]
            {"type": kind, "seq": 0, "sent_ms": 0, "content": CALL | OFFER | content}
        )
        for kind in ("m.call.invite", "m.call.hangup", "m.call.reject")
    },
    **{kind: lambda content, kind=kind: parse_sas_event(kind, content) for kind in sorted(SAS_TYPES)},  # type: ignore[misc]
    **{kind: lambda content, kind=kind: parse_rule(kind, content) for kind in sorted(RULE_TYPES)},  # type: ignore[misc]
    "message": lambda content: read_message({"msgtype": "m.text", "body": "!rtc revoke 1", **content}, direct=True),
    "formatted message": lambda content: read_message(
        {"msgtype": "m.text", "body": "!rtc grant @a:b x/y", "format": HTML, **content}, direct=False
    ),
    "bye": lambda content: CTL.decode(json.dumps({"t": "bye", **content})),
}


@settings(max_examples=examples(20), deadline=None)
@given(
    content=fields(
        *CALL_FIELDS, *SAS_FIELDS, *MESSAGE_FIELDS, "entity", "recommendation", "type", "seq", "sent_ms", "c"
    )
)
@pytest.mark.parametrize("reader", READERS)
def test_any_content_is_read_or_refused(reader: str, content: dict[str, Any]) -> None:
    with contextlib.suppress(EventError, WireError):
        READERS[reader](content)


ENDS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], object], type[object]]] = {
    "hangup": (tuple(CALL), lambda content: parse_message("m.call.hangup", content | CALL), Hangup),
    "hangup of version 0": (
        tuple(CALL),
        lambda content: parse_message("m.call.hangup", content | {"call_id": "c", "version": 0}),
        Hangup,
    ),
    "reject": (tuple(CALL), lambda content: parse_message("m.call.reject", content | CALL), Reject),
    "hangup between devices": (
        (*CALL, "type", "seq", "sent_ms", "content"),
        lambda content: (
            parse_call_to_device(
                {**content, "type": "m.call.hangup", "seq": 1, "sent_ms": 0, "content": content | CALL}
            ).message
        ),
        Hangup,
    ),
    "cancelled verification": (
        ("code",),
        lambda content: parse_sas_event("m.key.verification.cancel", content | {"code": "m.user"}),
        Cancel,
    ),
}


@settings(max_examples=examples(20), deadline=None)
@given(data=st.data(), odd=JSON)
@pytest.mark.parametrize("end", ENDS)
def test_end_is_read_whatever_stands_beside_it(end: str, data: st.DataObject, odd: object) -> None:
    names, read, kind = ENDS[end]
    assert type(read(data.draw(beside(*names)) | {"reason": odd})) is kind


TAKES = ("revoke 1", "revoke @eve:evil.test", "kick 3", "kick @eve:evil.test", "pause", "reload")
OTHERS = ("deny 1", "withdraw 1", "request build/ssh for 1h because work", "close 1")
GIVES = ("grant @eve:evil.test build/ssh for 1h", "allow 1", "resume", "yes 1")
OWN = frozenset({"m.new_content", "url", "file", "filename", "info", "geo_uri", "m.relates_to"})
"""Keys by which a message says that it is none of the sender's own words; they make it no command."""


@settings(max_examples=examples(20), deadline=None)
@given(extra=beside(*MESSAGE_FIELDS, *OWN), mentions=JSON, format_=JSON)
@pytest.mark.parametrize("text", [*TAKES, *OTHERS, *GIVES])
def test_command_is_what_its_body_says_whatever_else_the_message_holds(
    text: str, extra: dict[str, Any], mentions: object, format_: object
) -> None:
    """Something that gives may be refused because of it, with a sentence; what takes away, and the rest, never."""
    plain = meant_by(
        read_message({"msgtype": "m.text", "body": text}, direct=True),  # type: ignore[arg-type]
        COMMANDS,
        Names("example.org"),
    )
    typed = read_message(
        {**extra, "msgtype": "m.text", "body": text, "m.mentions": mentions, "x.format": format_}, direct=True
    )
    assert typed is not None
    command = meant_by(typed, COMMANDS, Names("example.org"))
    assert command == plain or (text in GIVES and typed.doubt_to_give is not None)
    if text in TAKES:
        assert command.form.effect is Effect.TAKES  # type: ignore[union-attr]
