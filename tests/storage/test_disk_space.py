"""How much a disk has left, by a small one that is filled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.disk_space import is_full, space_left


def test_the_nearest_directory_that_is_there_says_it(tmp_path: Path) -> None:
    left = space_left(tmp_path)
    assert left is not None
    assert left > 0
    assert space_left(tmp_path / "not" / "made" / "yet") == pytest.approx(left, rel=0.2)
    assert not is_full(tmp_path / "not" / "made" / "yet")


def test_what_has_no_number_is_not_full() -> None:
    assert space_left(Path("/proc/self/status")) is None
    assert not is_full(Path("/proc/self/status"))


def test_a_place_that_cannot_be_asked_is_not_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fails(_place: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "statvfs", fails)
    assert space_left(tmp_path) is None


class Filled:
    """What the system says of a disk on which somebody else has left next to nothing."""

    f_blocks, f_frsize, f_bavail = 1000, 4096, 1


async def test_a_database_that_cannot_be_opened_names_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite speaks of an I/O error then, as it cannot make its index."""
    (database := tmp_path / "bridge.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StorageError, match=r"cannot be used: DatabaseError: file is not a database$"):
        await Database.open(f"sqlite:{database}")
    monkeypatch.setattr(os, "statvfs", lambda _place: Filled)
    assert is_full(database)
    with pytest.raises(StorageError, match=r"not a database; its disk is full, so make room there$"):
        await Database.open(f"sqlite:{database}")
