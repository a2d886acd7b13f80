"""What commands of one account say to each other is read as it was written, and anything else is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.call.values import CallEnded, CallOutcome
from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.core.files.messages import PROTOCOL_FILE
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.sharing import messages
from mxrtc_bridge.core.sharing.messages import GUEST, HOLDER
from mxrtc_bridge.core.stream.json_message import MessageFormat
from mxrtc_bridge.core.stream.messages import PROTOCOL_TCP, ServiceKind, ServiceState
from mxrtc_bridge.core.webrtc.ice import IcePolicy, Path, PathKind

PEER, SSH = UserId("@rtc_build:example.org"), ServiceName("ssh")
PATH = Path(PathKind.DIRECT, "host", "srflx", "ipv4")
Format = MessageFormat[Any]

SAID: list[tuple[Format, Any]] = [
    (GUEST, messages.CallRequest(PEER, IcePolicy.RELAY, ("eth0", "10.0.0.0/8"), "device", 15.0)),
    (GUEST, messages.OpenChannel(1, SSH, PROTOCOL_TCP)),
    (GUEST, messages.OpenChannel(2**32 - 1, SSH, PROTOCOL_FILE)),
    (GUEST, messages.ListRequest(3, states=True)),
    (GUEST, messages.PingRequest(4)),
    (HOLDER, messages.HolderHello(1, 4711)),
    (HOLDER, messages.Said("waiting", "waiting for the homeserver", {"waiting_for": "the homeserver", "cause": None})),
    (HOLDER, messages.SessionUp(PATH, 1200, messages.Device("BUILD", "key", "verified"), "")),
    (HOLDER, messages.SessionUp(PATH, None, None, "crypto.db is damaged")),
    (HOLDER, messages.Failed(4, "build: no answer", False, 0, "", 0.0)),
    (HOLDER, messages.Failed(0, "too often", False, 429, "M_LIMIT_EXCEEDED", 2.5)),
    (HOLDER, messages.ListEntry(3, PEER, SSH, ServiceKind.STREAM, ServiceState.UP, 1_700_000_000_000)),
    (HOLDER, messages.ListEntry(3, PEER, SSH, None, None, None)),
    (HOLDER, messages.ListDone(3)),
    (HOLDER, messages.PingReply(4, 0.0123, 1200)),
    (HOLDER, messages.Unanswered(4, "the session has ended")),
    (HOLDER, messages.SessionEnded(messages.HOLDER_ENDED, "", None, None)),
    (
        HOLDER,
        messages.SessionEnded(
            CallEnded(CallOutcome.REJECTED, "user_busy", "calls_per_user 3"),
            "no path",
            messages.Goodbye("denied", "your right to it has ended"),
            messages.Clocks(5, 6),
        ),
    ),
]


@pytest.mark.parametrize(("side", "message"), SAID, ids=lambda value: type(value).__name__)
def test_message_is_read_as_it_was_written(side: Format, message: object) -> None:
    assert side.decode(side.encode(message)) == message


def without(message: object, key: str, value: object = ...) -> str:
    side: Format = GUEST if isinstance(message, messages.CallRequest | messages.OpenChannel) else HOLDER
    fields = json.loads(side.encode(message))
    fields.pop(key)
    return json.dumps(fields if value is ... else {**fields, key: value})


@pytest.mark.parametrize(
    ("side", "text"),
    [
        (GUEST, without(SAID[0][1], "peer")),
        (GUEST, without(SAID[0][1], "peer", "nobody")),
        (GUEST, without(SAID[0][1], "policy", "any")),
        (GUEST, without(SAID[0][1], "interfaces", ["x" * 65])),
        (GUEST, without(SAID[0][1], "interfaces", ["x"] * 33)),
        (GUEST, without(SAID[0][1], "timeout_s", -1)),
        (GUEST, without(SAID[0][1], "timeout_s", True)),
        (GUEST, without(SAID[1][1], "channel", 0)),
        (GUEST, without(SAID[1][1], "channel", 2**32)),
        (GUEST, without(SAID[1][1], "service", "no such name!")),
        (GUEST, without(SAID[1][1], "protocol", "ctl.v1.mxrtc")),
        (GUEST, '{"t":"hello","version":1,"pid":1}'),
        (HOLDER, without(SAID[6][1], "facts", {"x": ["not plain"]})),
        (HOLDER, without(SAID[6][1], "facts", {str(n): 1 for n in range(33)})),
        (HOLDER, without(SAID[7][1], "path", {"kind": "direct"})),
        (HOLDER, without(SAID[7][1], "device", "BUILD")),
        (HOLDER, without(SAID[9][1], "defect", 0)),
        (HOLDER, without(SAID[9][1], "code", 256)),
        (HOLDER, without(SAID[16][1], "call", {"outcome": "none of these", "reason": ""})),
    ],
)
def test_what_does_not_fit_is_refused(side: Format, text: str) -> None:
    with pytest.raises(WireError):
        side.decode(text)


@given(
    st.text(max_size=200)
    | st.dictionaries(st.sampled_from(["t", "number", "peer"]), st.integers() | st.text(max_size=9)).map(json.dumps)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    for side in (GUEST, HOLDER):
        with contextlib.suppress(WireError):
            side.decode(text)
