"""What commands of one account say to each other is read as it was written, and anything else is refused."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.call.values import CallEnded, CallOutcome
from mxrtc_bridge.core.crypto.sas_codes import ShortCode
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
    (HOLDER, messages.HolderHello(messages.VERSION, 4711, "@alice:example.org", "LAPTOP", True)),
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
    (GUEST, messages.DeviceRequest(messages.DeviceTask.VERIFY, PEER, None, 15.0)),
    (GUEST, messages.DeviceRequest(messages.DeviceTask.ACCEPT, PEER, "key", 15.0)),
    (GUEST, messages.CompareReply(True)),
    (HOLDER, messages.Beat()),
    (HOLDER, messages.Going()),
    (HOLDER, messages.DeviceLine("device", "LAPTOP\tkey", {"own": True, "identity": None})),
    (HOLDER, messages.CompareRequest(PEER, "BUILD", ShortCode((0, 1, 2, 3, 4, 5, 63), (1000, 5000, 9191)))),
    (HOLDER, messages.DeviceDone()),
]
ASKED, SHOWN = messages.DeviceRequest(messages.DeviceTask.LIST, PEER, None, 1.0), SAID[-2][1]


@pytest.mark.parametrize(("side", "message"), SAID, ids=lambda value: type(value).__name__)
def test_message_is_read_as_it_was_written(side: Format, message: object) -> None:
    assert side.decode(side.encode(message)) == message


def without(message: object, key: str, value: object = ...) -> str:
    side: Format = GUEST if isinstance(message, messages.GuestMessage) else HOLDER
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
        (GUEST, without(ASKED, "task", "forget")),
        (GUEST, without(ASKED, "user", "nobody")),
        (GUEST, without(ASKED, "key", "x" * 256)),
        (HOLDER, without(SHOWN, "code", {"emoji": [1] * 7, "decimals": [1000, 1000]})),
        (HOLDER, without(SHOWN, "code", {"emoji": [64] * 7, "decimals": [1000] * 3})),
        (HOLDER, without(SHOWN, "code", {"emoji": [True] * 7, "decimals": [1000] * 3})),
        (HOLDER, without(SHOWN, "code", {"emoji": [1] * 7, "decimals": [9192] * 3})),
    ],
)
def test_what_does_not_fit_is_refused(side: Format, text: str) -> None:
    with pytest.raises(WireError):
        side.decode(text)


def test_the_hello_of_the_first_version_is_read_so_that_it_is_known_as_one() -> None:
    assert HOLDER.decode('{"t":"hello","version":1,"pid":5}') == messages.HolderHello(1, 5, "", "", True)


@given(
    st.text(max_size=200)
    | st.dictionaries(st.sampled_from(["t", "number", "peer"]), st.integers() | st.text(max_size=9)).map(json.dumps)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    for side in (GUEST, HOLDER):
        with contextlib.suppress(WireError):
            side.decode(text)
