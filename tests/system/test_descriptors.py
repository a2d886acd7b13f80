"""What a descriptor is open for, and whether it blocks; test_without_posix.py runs this file also as Windows has it."""

from __future__ import annotations

import os

import pytest

from mxrtc_bridge.system import WINDOWS, descriptors


def test_a_descriptor_is_used_for_what_it_is_open_for() -> None:
    reading, writing = os.pipe()
    assert descriptors.is_open_for(reading, os.O_RDONLY)
    assert descriptors.is_open_for(writing, os.O_WRONLY)
    # Where nobody can be asked, reading will tell.
    assert descriptors.is_open_for(reading, os.O_WRONLY) is WINDOWS
    os.close(reading)
    os.close(writing)
    with pytest.raises(OSError, match="descriptor"):
        descriptors.is_open_for(reading, os.O_RDONLY)


def test_a_descriptor_blocks_again_when_it_is_put_back() -> None:
    reading, writing = os.pipe()
    restore = descriptors.make_non_blocking(reading)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    restore()
    assert os.get_blocking(reading)
    os.close(reading)
    os.close(writing)
