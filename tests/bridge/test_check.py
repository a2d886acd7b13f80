"""What ``mxrtc-bridge check`` says about services that are files, without opening any of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mxrtc_bridge.bridge.check import _check_file
from mxrtc_bridge.config import Level
from mxrtc_bridge.core.access.targets import AppendTarget, ReadTarget


def test_a_file_that_append_will_make_is_not_made_by_a_check(tmp_path: Path) -> None:
    finding = _check_file("build/log", AppendTarget(str(tmp_path / "log")))
    assert finding.level is Level.OK
    assert list(tmp_path.iterdir()) == []


def test_a_fifo_is_not_opened_by_a_check(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for the other end
    for target in (AppendTarget(str(tmp_path / "fifo")), ReadTarget(str(tmp_path / "fifo"))):
        assert _check_file("build/fifo", target).level is Level.OK


@pytest.mark.parametrize("make", [AppendTarget, ReadTarget])
def test_a_directory_is_found(make: type[AppendTarget | ReadTarget], tmp_path: Path) -> None:
    finding = _check_file("build/log", make(str(tmp_path)))
    assert (finding.level, "no file or FIFO" in finding.what) == (Level.WARN, True)


def test_what_is_missing_is_found(tmp_path: Path) -> None:
    assert _check_file("build/motd", ReadTarget(str(tmp_path / "nothing"))).level is Level.WARN
    assert _check_file("build/log", AppendTarget(str(tmp_path / "no folder" / "log"))).level is Level.WARN
