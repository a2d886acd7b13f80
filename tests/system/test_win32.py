"""What Windows has in place of POSIX; what it does is tried there by test_files.py, in the job of that system."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from mxrtc_bridge.system import win32

if sys.platform == "win32":

    def test_an_open_directory_knows_its_path_and_cannot_be_moved(tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        descriptor = win32.open_file(str(tmp_path / "folder"), os.O_RDONLY | win32.O_DIRECTORY | win32.O_NOFOLLOW)
        assert Path(win32.path_of(descriptor)).samefile(tmp_path / "folder")
        with pytest.raises(PermissionError):
            (tmp_path / "folder").rename(tmp_path / "other")
        os.close(descriptor)
        (tmp_path / "folder").rename(tmp_path / "other")

else:

    def test_elsewhere_it_has_nothing() -> None:
        assert [name for name in vars(win32) if not name.startswith("__")] == ["annotations", "sys"]
