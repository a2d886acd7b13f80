"""Two bridges never use one database file."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.storage import file_lock
from mxrtc_bridge.storage.file_lock import is_in_use, sole_use
from mxrtc_bridge.storage.tables import open_stores

HOLD = """
import sys
from mxrtc_bridge.storage.file_lock import is_in_use, sole_use
with sole_use(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""

EXCLUSIVE = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=0, isolation_level=None)
for words in ("PRAGMA locking_mode = EXCLUSIVE", "BEGIN EXCLUSIVE", "CREATE TABLE seen (number INTEGER)", "COMMIT"):
    database.execute(words)
"""


async def test_database_of_another_bridge_is_refused_until_it_has_ended_however_it_ended(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'bridge.db'}"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StorageError, match=r"another bridge uses the database .*bridge\.db'; stop it"):
            async with open_stores(url, sole=True):
                pass
        async with open_stores(url) as stores:
            assert await stores.calls.open_calls() == [], "a look at it is allowed"
        holder.kill()
        holder.wait()
    async with open_stores(url, sole=True):
        assert (tmp_path / "bridge.db.lock").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("link", ["file", "folder", "link to a link"])
def test_a_link_to_a_database_is_the_same_database(tmp_path: Path, link: str) -> None:
    """Two bridges on one database hang up each other's calls, whatever each of them calls it."""
    (real := tmp_path / "real").mkdir()
    database, other = real / "bridge.db", tmp_path / "other"
    database.touch()
    other.symlink_to(real if link == "folder" else database)
    named = other / "bridge.db" if link == "folder" else other
    if link == "link to a link":
        (named := tmp_path / "another").symlink_to(other)
    with sole_use(f"sqlite:{database}"):
        assert is_in_use(f"sqlite:{named}")
        with pytest.raises(StorageError, match="another bridge uses"), sole_use(f"sqlite:{named}"):
            pass
    with sole_use(f"sqlite:{named}"):
        assert is_in_use(f"sqlite:{database}")


def test_another_name_of_the_file_is_the_same_database(tmp_path: Path) -> None:
    """Each hard link has a journal of its own, so the database would be damaged."""
    database, other = tmp_path / "bridge.db", tmp_path / "other.db"
    with sole_use(f"sqlite:{database}"):
        # Also one that was made by us, and got its other name later.
        other.hardlink_to(database)
        with pytest.raises(StorageError, match=r"other\.db' by another name of the file"), sole_use(f"sqlite:{other}"):
            pass
    with (
        sole_use(f"sqlite:{other}"),
        pytest.raises(StorageError, match="by another name"),
        sole_use(f"sqlite:{database}"),
    ):
        pass


async def test_a_backup_of_hard_links_keeps_nobody_from_the_database(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'bridge.db'}"
    async with open_stores(url, sole=True):
        (tmp_path / "backup.db").hardlink_to(tmp_path / "bridge.db")
    async with open_stores(url, sole=True) as stores:
        assert await stores.calls.open_calls() == []


@pytest.mark.parametrize(("number", "taken"), [(errno.EAGAIN, True), (errno.EACCES, True), (errno.ENOLCK, False)])
def test_a_file_system_without_such_locks_is_no_other_bridge(
    number: int, taken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(file_lock.fcntl, "fcntl", fails)
    with pytest.raises(StorageError) if taken else nullcontext(), sole_use(f"sqlite:{tmp_path / 'bridge.db'}"):
        pass


def test_the_locks_of_sqlite_and_ours_do_not_meet(tmp_path: Path) -> None:
    database = tmp_path / "bridge.db"
    with sole_use(f"sqlite:{database}"):
        # All locks that it knows: with a journal of the old kind they are on the file itself.
        subprocess.run([sys.executable, "-c", EXCLUSIVE, database], check=True, timeout=60)
    assert database.stat().st_size > 0


def test_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="missing"), sole_use(f"sqlite:{tmp_path / 'missing' / 'bridge.db'}"):
        pass


@pytest.mark.parametrize("url", ["postgres://user@host/name", "sqlite:", "://", "nonsense"])
def test_what_is_no_file_is_left_to_the_database(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with sole_use(url):
        assert list(tmp_path.iterdir()) == []


def test_a_database_is_in_use_while_somebody_holds_it(tmp_path: Path) -> None:
    url = f"sqlite:{tmp_path / 'bridge.db'}"
    assert not is_in_use(url)
    assert list(tmp_path.iterdir()) == []
    with sole_use(url):
        assert is_in_use(url)
    assert not is_in_use(url)
    assert not is_in_use("postgres://user@host/name")


def test_a_lock_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "bridge.db.lock").mkdir()
    url = f"sqlite:{tmp_path / 'bridge.db'}"
    with pytest.raises(StorageError, match="cannot be used"), sole_use(url):
        pass
