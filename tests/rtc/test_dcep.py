"""The messages that open channels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.rtc.dcep import ACK, Open, format_open, parse_message

names = st.text(st.characters(codec="ascii"), max_size=128)


@given(names, names)
def test_open_survives_the_wire(label: str, protocol: str) -> None:
    message = Open(label, protocol)
    assert parse_message(format_open(message), 256) == message


def test_lengths_count_bytes() -> None:
    assert parse_message(format_open(Open("ä" * 64, "ö" * 64)), 256) == Open("ä" * 64, "ö" * 64)


def test_ack_is_none() -> None:
    assert parse_message(ACK, 256) is None


@pytest.mark.parametrize("kind", [0x01, 0x02, 0x80, 0x81, 0x82, 0x7F])
def test_every_other_channel_type_is_marked(kind: int) -> None:
    data = bytearray(format_open(Open("l", "p")))
    data[1] = kind
    message = parse_message(bytes(data), 256)
    assert message is not None
    assert not message.reliable_ordered


def test_limit_for_names_is_inclusive() -> None:
    parse_message(format_open(Open("l" * 200, "p" * 56)), 256)
    with pytest.raises(WireError, match="257 bytes; the limit is 256"):
        parse_message(format_open(Open("l" * 200, "p" * 57)), 256)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x01",
        b"\x03",
        format_open(Open("l", "p"))[:11],
        format_open(Open("l", "p"))[:-1],
        format_open(Open("l", "p")) + b"x",
        format_open(Open("l", "p")).replace(b"l", b"\xff"),
    ],
)
def test_malformed_message_is_refused(data: bytes) -> None:
    with pytest.raises(WireError) as caught:
        parse_message(data, 256)
    assert caught.value.code == "bad_dcep"
