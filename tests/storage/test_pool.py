"""Opening a database: what is refused and in which words, and how its file is made."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path

import pytest

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.storage import pool
from mxrtc_bridge.storage.database import Database

pytestmark = pytest.mark.usefixtures("no_thread_is_left")


async def test_sqlite_files_are_readable_by_their_owner_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The main file and both journal files hold keys; the umask of the process does not matter."""
    old = os.umask(0)
    try:
        async with await Database.open(f"sqlite:///{tmp_path}/bridge.db") as database:
            await database.write("INSERT INTO notice (user_id, last_ms) VALUES ('@a:example.org', 1)")
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    finally:
        os.umask(old)
    assert modes == {"bridge.db": 0o600, "bridge.db-wal": 0o600, "bridge.db-shm": 0o600}
    assert caplog.text == "", "it never had another mode that was corrected afterwards"


async def test_sqlite_file_that_others_could_read_is_closed_to_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "bridge.db"
    path.touch(mode=0o644)
    async with await Database.open(f"sqlite:///{path}"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "readable by others" in caplog.text


async def test_sqlite_commits_survive_a_power_failure_by_its_settings(tmp_path: Path) -> None:
    async with await Database.open(f"sqlite:///{tmp_path}/bridge.db") as database:
        assert (await database.row("PRAGMA journal_mode"))[0] == "wal"
        assert (await database.row("PRAGMA synchronous"))[0] == 2
        assert (await database.row("PRAGMA foreign_keys"))[0] == 1


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("mysql://example.org/db", "must begin with sqlite: or postgres://"),
        ("bridge.db", "must begin with sqlite: or postgres://"),
        ("sqlite://bridge.db", "three slashes"),
        ("sqlite:", "three slashes"),
        ("sqlite::memory:", "three slashes"),
        ("sqlite:///tmp/x.db?mode=ro", "without \\? and #"),
        ("postgres://user:secret@[bad/db", "form of a URL"),
        ("sqlite:///nowhere/at/all/bridge.db", "No such file"),
    ],
)
async def test_database_url_that_cannot_be_used_is_explained(text: str, complaint: str) -> None:
    with pytest.raises(StorageError, match=complaint) as caught:
        await Database.open(text)
    assert "secret" not in str(caught.value)


async def test_file_that_is_no_database_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, " * 1000)
    with pytest.raises(StorageError, match="not a database"):
        await Database.open(f"sqlite:///{path}")
    assert path.read_text().startswith("dear diary")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        pytest.param("UPDATE mxrtc_version SET version = 99", "v99", id="of a newer version"),
        pytest.param("UPDATE database_owner SET owner = 'somebody'", "owned by somebody", id="of another program"),
    ],
)
async def test_database_that_is_not_for_this_version_of_this_program_is_refused(
    url: str, change: str, complaint: str
) -> None:
    async with await Database.open(url) as database:
        await database.transaction(lambda connection: connection.execute(change))
    with pytest.raises(StorageError, match=complaint):
        await Database.open(url)


async def test_postgres_that_is_away_is_explained(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StorageError, match="cannot be opened"):
        await Database.open("postgres://user:secret@127.0.0.1:1/db")
    assert "secret" not in caplog.text


async def test_postgres_without_its_package_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "postgres_errors", lambda *names: ())
    with pytest.raises(StorageError, match=r"mxrtc-bridge\[postgres\]"):
        await Database.open("postgres://user:secret@127.0.0.1:1/db")
