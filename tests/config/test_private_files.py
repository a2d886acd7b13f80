"""Files with secrets are private from the start, and whole or not there."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from mxrtc_bridge.config.private_files import write_private
from mxrtc_bridge.core.errors import ConfigError


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_new_file_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_private(tmp_path / "x", "text", replace=False)
    finally:
        os.umask(before)
    assert (tmp_path / "x").read_text() == "text"
    assert mode_of(tmp_path / "x") == 0o600


def test_existing_file_stays_without_replace(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(ConfigError, match="exists already; use --force"):
        write_private(tmp_path / "x", "new", replace=False)
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_replaced_file_becomes_private(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    (tmp_path / "x").chmod(0o644)
    write_private(tmp_path / "x", "new", replace=True)
    assert (tmp_path / "x").read_text() == "new"
    assert mode_of(tmp_path / "x") == 0o600
    assert os.listdir(tmp_path) == ["x"]


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("untouched")
    (tmp_path / "x").symlink_to(tmp_path / "victim")
    write_private(tmp_path / "x", "new", replace=True)
    assert (tmp_path / "victim").read_text() == "untouched"
    assert not (tmp_path / "x").is_symlink()


def test_a_missing_folder_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be written: No such file or directory"):
        write_private(tmp_path / "no" / "x", "text", replace=False)
