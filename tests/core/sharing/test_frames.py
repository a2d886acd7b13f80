"""Frames are read as they were written however they are cut, and whatever is none is refused."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.core.sharing.frames import HEADER, MAX_CHANNEL, Frame, FrameKind, FrameReader
from mxrtc_bridge.core.stream.windows import MAX_MESSAGE

SIZES = st.sampled_from([0, 1, 100, MAX_MESSAGE - 1, MAX_MESSAGE])
CHANNELS = st.sampled_from([0, 1, MAX_CHANNEL])


@st.composite
def frames(draw: st.DrawFn) -> Frame:
    kind = draw(st.sampled_from(FrameKind))
    size = draw(SIZES) if kind in (FrameKind.TEXT, FrameKind.BINARY) else 0
    return Frame(kind, draw(CHANNELS), b"x" * size)


@given(st.lists(frames(), max_size=6), st.lists(st.integers(1, 3 * MAX_MESSAGE), max_size=8))
def test_frames_are_read_as_they_were_written_however_they_are_cut(sent: list[Frame], cuts: list[int]) -> None:
    stream, reader, read = b"".join(each.encode() for each in sent), FrameReader(), list[Frame]()
    for size in [*cuts, len(stream) + 1]:
        part, stream = stream[:size], stream[size:]
        read += reader.feed(part)
    assert read == sent


@pytest.mark.parametrize(
    ("head", "why"),
    [
        ((4, 0, 0), "there is no kind of frame 4"),
        ((255, 0, 0), "there is no kind of frame 255"),
        ((0, 0, MAX_MESSAGE + 1), "a frame of kind TEXT may not have 65537 bytes"),
        ((1, 7, 2**32 - 1), "a frame of kind BINARY may not have 4294967295 bytes"),
        ((2, 7, 1), "a frame of kind OPENED may not have 1 bytes"),
        ((3, 7, 1), "a frame of kind CLOSE may not have 1 bytes"),
    ],
)
def test_what_is_no_frame_is_refused_by_its_head(head: tuple[int, int, int], why: str) -> None:
    with pytest.raises(WireError) as refused:
        list(FrameReader().feed(HEADER.pack(*head)))
    assert (refused.value.code, str(refused.value)) == ("bad_frame", why)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        list(FrameReader().feed(data))
