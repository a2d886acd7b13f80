"""What is written can be read, and whatever else arrives is read or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.sctp import chunks, dcep
from mxrtc_bridge.sctp.chunks import MalformedError
from mxrtc_bridge.sctp.dcep import OpenMessage
from mxrtc_bridge.sctp.packets import PacketWriter, checksum_matches

words = st.integers(0, 2**32 - 1)
shorts = st.integers(0, 2**16 - 1)


@given(words, words, st.lists(st.tuples(shorts, shorts), max_size=40), st.lists(words, max_size=8))
def test_sack_is_read_as_it_was_written(tsn: int, window: int, blocks: list[tuple[int, int]], again: list[int]) -> None:
    flat = tuple(offset for block in blocks for offset in block)
    written = chunks.sack(tsn, window, flat, again)
    assert chunks.read_sack(bytes(12) + written, 12, len(written), 512) == (tsn, window, flat, tuple(again))


@given(words, words, st.integers(0, 40), st.integers(0, 3))
def test_sack_gives_no_more_blocks_than_asked_for(tsn: int, window: int, count: int, limit: int) -> None:
    written = chunks.sack(tsn, window, (1, 2) * count, ())
    assert len(chunks.read_sack(written, 0, len(written), limit)[2]) == 2 * min(count, limit)


@given(st.binary(max_size=60))
def test_any_sack_is_read_or_refused(body: bytes) -> None:
    chunk = chunks.chunk(chunks.SACK, body)
    try:
        chunks.read_sack(chunk, 0, 4 + len(body), 512)
    except MalformedError as error:
        assert "SACK" in str(error)  # noqa: PT017 - either is right


@given(words, st.lists(st.tuples(shorts, shorts), max_size=20))
def test_forward_tsn_is_read_as_it_was_written(tsn: int, skipped: list[tuple[int, int]]) -> None:
    assert chunks.read_forward_tsn(chunks.forward_tsn(tsn, skipped)[4:]) == (tsn, skipped)


@given(words, st.lists(st.tuples(shorts, st.integers(0, 1), words), max_size=20))
def test_i_forward_tsn_is_read_as_it_was_written(tsn: int, skipped: list[tuple[int, int, int]]) -> None:
    assert chunks.read_i_forward_tsn(chunks.i_forward_tsn(tsn, skipped)[4:]) == (tsn, skipped)


@pytest.mark.parametrize("size", [0, 3, 5, 6, 7, 9, 10, 11])
def test_forward_tsn_of_a_wrong_size_is_refused(size: int) -> None:
    if size % 4:
        with pytest.raises(MalformedError):
            chunks.read_forward_tsn(bytes(size))
    with pytest.raises(MalformedError):
        chunks.read_i_forward_tsn(bytes(size))


@given(st.lists(st.tuples(shorts, st.binary(max_size=9)), max_size=64))
def test_parameters_are_read_as_they_were_written(written: list[tuple[int, bytes]]) -> None:
    assert list(chunks.parameters(b"".join(chunks.parameter(*pair) for pair in written))) == written


@pytest.mark.parametrize("length", [0, 1, 2, 3, 9, 65_535])
def test_parameter_with_a_length_that_does_not_fit_is_refused(length: int) -> None:
    with pytest.raises(MalformedError):
        list(chunks.parameters(b"\0\1" + length.to_bytes(2, "big") + bytes(4)))


@given(st.binary(max_size=80))
def test_causes_become_one_line_of_ascii(body: bytes) -> None:
    said = chunks.read_causes(body)
    assert said.isascii()
    assert "\n" not in said


@given(st.lists(st.binary(min_size=4, max_size=40), min_size=1, max_size=4), st.integers(0, 200), st.integers(1, 255))
def test_checksum_finds_every_changed_byte(parts: list[bytes], position: int, change: int) -> None:
    packet = PacketWriter(5000, 5000, 99).write(parts)
    assert checksum_matches(packet)
    position %= len(packet)
    changed = packet[:position] + bytes([packet[position] ^ change]) + packet[position + 1 :]
    assert not checksum_matches(changed)


opens = st.builds(
    OpenMessage,
    st.text(max_size=40),
    st.text(max_size=20),
    ordered=st.booleans(),
    lifetime=st.one_of(st.none(), st.integers(0, 65_535).map(lambda ms: ms / 1000)),
    priority=shorts,
) | st.builds(OpenMessage, st.just("l"), st.just(""), max_retransmissions=shorts)


@given(opens)
def test_open_is_read_as_it_was_written(opened: OpenMessage) -> None:
    assert dcep.read(dcep.format_open(opened)) == opened


@given(st.binary(max_size=40) | st.binary(max_size=40).map(lambda rest: b"\x03\x00" + rest))
def test_any_channel_message_is_read_or_refused(message: bytes) -> None:
    try:
        opened = dcep.read(message)
    except MalformedError:
        return
    assert opened is None or message == dcep.format_open(opened) or opened.lifetime is not None or not opened.ordered


@pytest.mark.parametrize(("size", "taken"), [(1023, True), (1024, True), (1025, False)])
def test_channel_names_have_a_limit(size: int, taken: bool) -> None:
    message = dcep.format_open(OpenMessage("n" * size, ""))
    if taken:
        assert dcep.read(message) == OpenMessage("n" * size, "")
    else:
        with pytest.raises(MalformedError, match="1025"):
            dcep.read(message)


def test_label_length_counts_bytes() -> None:
    message = dcep.format_open(OpenMessage("\u00e4\u2603", "\u00f6"))
    assert message[8:12] == b"\0\x05\0\x02"
