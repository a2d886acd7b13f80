"""Files by the descriptor of their directory; test_without_posix.py runs this file also as Windows has it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxrtc_bridge.system import WINDOWS, files
from mxrtc_bridge.system.files import O_CLOEXEC, O_DIRECTORY, O_NOFOLLOW

NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | O_CLOEXEC | O_NOFOLLOW


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    descriptor = files.open_at(tmp_path, os.O_RDONLY | O_DIRECTORY | O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


def put(folder: int, name: str, data: bytes = b"") -> None:
    descriptor = files.open_at(name, NEW, 0o600, dir_fd=folder)
    os.write(descriptor, data)
    os.close(descriptor)


def test_a_file_is_made_only_where_there_is_none(tmp_path: Path, folder: int) -> None:
    put(folder, "name", b"data")
    assert (tmp_path / "name").read_bytes() == b"data"
    with pytest.raises(FileExistsError):
        put(folder, "name")
    assert (tmp_path / "name").read_bytes() == b"data"


@pytest.mark.parametrize("target", ["outside", "folder"])
def test_a_link_is_never_opened_nor_gone_through(tmp_path: Path, folder: int, target: str) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(OSError, match="link") as refused:
        files.open_at("link", os.O_RDONLY | O_NOFOLLOW, dir_fd=folder)
    assert refused.value.errno == errno.ELOOP
    with pytest.raises(NotADirectoryError):
        files.open_at("link", os.O_RDONLY | O_DIRECTORY | O_NOFOLLOW, dir_fd=folder)
    assert files.stat_at("link", dir_fd=folder).st_size != len(b"secret")


def test_what_is_no_directory_is_not_opened_as_one(folder: int) -> None:
    put(folder, "file")
    with pytest.raises(NotADirectoryError):
        files.open_at("file", os.O_RDONLY | O_DIRECTORY, dir_fd=folder)


def test_directories_are_made_found_opened_anew_and_removed(tmp_path: Path, folder: int) -> None:
    files.mkdir_at("below", 0o700, dir_fd=folder)
    with pytest.raises(FileExistsError):
        files.mkdir_at("below", 0o700, dir_fd=folder)
    below = files.open_at("below", os.O_RDONLY | O_DIRECTORY, dir_fd=folder)
    same = files.open_at(".", os.O_RDONLY | O_DIRECTORY, dir_fd=below)
    assert os.path.samestat(os.fstat(below), os.fstat(same))
    assert os.path.samestat(files.above(below), os.fstat(folder))
    assert os.path.samestat(files.stat_at("below", dir_fd=folder), os.fstat(below))
    files.sync_directory(below)
    os.close(below)
    os.close(same)
    files.rmdir_at("below", dir_fd=folder)
    assert not (tmp_path / "below").exists()


def test_a_name_is_given_only_if_nobody_has_it_or_replaced_at_once(tmp_path: Path, folder: int) -> None:
    put(folder, "one", b"1")
    put(folder, "two", b"2")
    with pytest.raises(FileExistsError):
        files.rename_new_at("one", "two", src_dir_fd=folder, dst_dir_fd=folder)
    assert sorted(files.names_in(folder)) == ["one", "two"]
    files.rename_new_at("one", "three", src_dir_fd=folder, dst_dir_fd=folder)
    assert (tmp_path / "three").read_bytes() == b"1"
    files.rename_at("three", "two", src_dir_fd=folder, dst_dir_fd=folder)
    assert (files.names_in(folder), (tmp_path / "two").read_bytes()) == (["two"], b"1")
    files.link_at("two", "second", src_dir_fd=folder, dst_dir_fd=folder)
    with pytest.raises(FileExistsError):
        files.link_at("two", "second", src_dir_fd=folder, dst_dir_fd=folder)
    assert files.stat_at("two", dir_fd=folder).st_nlink == 2
    files.unlink_at("second", dir_fd=folder)
    assert files.names_in(folder) == ["two"]


def test_an_open_file_can_be_renamed_and_removed(tmp_path: Path, folder: int) -> None:
    descriptor = files.open_at("partial", NEW, 0o600, dir_fd=folder)
    files.rename_new_at("partial", "whole", src_dir_fd=folder, dst_dir_fd=folder)
    os.write(descriptor, b"more")
    assert (tmp_path / "whole").read_bytes() == b"more"
    files.unlink_at("whole", dir_fd=folder)
    os.close(descriptor)
    assert files.names_in(folder) == []


def test_bytes_are_read_and_written_where_they_belong(folder: int) -> None:
    descriptor = files.open_at("file", NEW, 0o600, dir_fd=folder)
    assert files.pwrite(descriptor, b"world", 6) == 5
    assert files.pwrite(descriptor, memoryview(b"hello\n"), 0) == 6
    assert files.pread(descriptor, 100, 0) == b"hello\nworld"
    assert files.pread(descriptor, 3, 8) == b"rld"
    assert files.pread(descriptor, 3, 11) == b""
    os.close(descriptor)


def test_when_a_file_was_modified_can_be_set_while_it_is_open(tmp_path: Path, folder: int) -> None:
    descriptor = files.open_at("file", NEW, 0o600, dir_fd=folder)
    os.write(descriptor, b"x")
    files.set_modified(descriptor, 1_234_567_890_123_000_000)
    os.close(descriptor)
    assert (tmp_path / "file").stat().st_mtime_ns == 1_234_567_890_123_000_000


def test_a_lock_is_one_processs_alone_or_shared(folder: int) -> None:
    first = files.open_at("lock", NEW, 0o600, dir_fd=folder)
    second = files.open_at("lock", os.O_RDWR, dir_fd=folder)
    assert files.lock(first)
    assert not files.lock(second)
    assert not files.lock(second, shared=True)
    assert files.lock(first, shared=True, wait=True)
    assert files.lock(second, shared=True)
    assert not files.lock(first)
    os.close(second)
    assert files.lock(first)
    os.close(first)


def test_what_is_free_is_what_the_system_says(tmp_path: Path, folder: int) -> None:
    free = shutil.disk_usage(tmp_path).free
    for where in (folder, tmp_path):
        assert abs((files.free_bytes(where) or 0) - free) < 2**30
    with pytest.raises(FileNotFoundError):
        files.free_bytes(tmp_path / "missing")


def test_owners_and_modes_count_where_the_system_has_them(folder: int) -> None:
    assert files.HAS_MODES is not WINDOWS
    descriptor = files.open_at("file", NEW, 0o600, dir_fd=folder)
    status = os.fstat(descriptor)
    assert files.is_trusted_owner(status.st_uid)
    assert files.is_trusted_owner(54321) is WINDOWS
    assert (files.effective_user(), files.effective_group()) == (status.st_uid, status.st_gid)
    files.fchown(descriptor, -1, files.effective_group())
    files.fchmod(descriptor, 0o640)
    assert WINDOWS or os.fstat(descriptor).st_mode & 0o777 == 0o640
    os.close(descriptor)


def test_groups_have_numbers_and_names() -> None:
    with pytest.raises(KeyError):
        files.group_number("no such group")
    assert files.group_name(1_234_567) == "1234567"
    number = files.effective_group()
    name = files.group_name(number)
    assert name == str(number) or files.group_number(name) == number
