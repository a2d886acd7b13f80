"""Who may read what arrives, compared with what the kernel gives to a file that a program makes in the same place."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import re
import stat
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileError
from mxrtc_bridge.sinks.files.receive.permissions import Permissions, group_id
from mxrtc_bridge.sinks.files.user_paths import UserDestination
from tests.confined import confine, needs_confinement
from tests.other_user import OTHER_UID, as_other, in_child, needs_root, public_directory
from tests.sinks.files.receive.senders import ALICE, begun, content, directory_of, opened, send, sha256, write

OTHER_GROUP = 65_532
SIZES = [10, 2 * CHUNK_BYTES]


@contextmanager
def umask(mask: int) -> Iterator[None]:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)


@asynccontextmanager
async def destination(path: Path, *, force: bool = False, private: bool = False) -> AsyncIterator[UserDestination]:
    """What ``mxrtc get`` puts things into."""
    made = UserDestination(path, force=force, private=private)
    await made.open()
    try:
        yield made
    finally:
        await made.close(tidy=True)


def set_list(path: Path, entries: str, *, default: bool = True) -> None:
    command = ["setfacl", *(["-d"] if default else []), "-m", entries, str(path)]
    subprocess.run(command, check=True, capture_output=True)


def permissions_of(path: Path) -> tuple[str, int, list[bytes | None]]:
    """Mode, group and access lists."""
    status, lists = path.stat(), []
    for name in ("system.posix_acl_access", "system.posix_acl_default"):
        try:
            lists.append(os.getxattr(path, name))
        except OSError:
            lists.append(None)
    return f"{stat.S_IMODE(status.st_mode):04o}", status.st_gid, lists


def mode_of(path: Path) -> str:
    return permissions_of(path)[0]


@pytest.mark.posix
@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077, 0o000, 0o027])
@pytest.mark.parametrize("size", SIZES)
async def test_what_is_fetched_has_what_the_umask_leaves(tmp_path: Path, mask: int, size: int) -> None:
    with umask(mask):
        async with destination(tmp_path / "new") as got:
            await send(got, "a/file", content(size))
    assert mode_of(tmp_path / "new" / "a" / "file") == f"{0o666 & ~mask:04o}"
    assert mode_of(tmp_path / "new" / "a") == mode_of(tmp_path / "new") == f"{0o777 & ~mask:04o}"


def dress(draw: random.Random, path: Path) -> None:
    """Give a directory some setgid bit, group and access lists."""
    if os.geteuid() == 0 and draw.random() < 0.7:
        os.chown(path, -1, draw.choice([OTHER_GROUP, OTHER_UID]))
    path.chmod(draw.choice([0o755, 0o770, 0o2755, 0o2770, 0o2700]))
    if draw.random() < 0.7:
        for who in draw.sample(["u::", "g::", "o::", "u:65533:", "g:65532:", "u:1234:"], draw.randrange(1, 6)):
            set_list(path, who + draw.choice(["rwx", "rX", "r", "-", "rw"]))
    if draw.random() < 0.3:
        set_list(path, "u:65533:rx", default=False)


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.linux
async def test_what_is_fetched_has_what_any_program_would_give_it_there(tmp_path: Path, seed: int) -> None:
    """Umask, setgid, default access lists, one below the other, drawn at random; the kernel says what is right."""
    draw = random.Random(seed)
    root = tmp_path / "root"
    root.mkdir()
    dress(draw, root)
    (root / "sub").mkdir()
    dress(draw, root / "sub")
    with umask(draw.choice([0o022, 0o002, 0o077, 0])):
        for place in (root, root / "sub"):
            (place / "made").mkdir()
            for directory in (place, place / "made"):
                (directory / "by-kernel").touch()
        async with destination(root) as got:
            for number, size in enumerate(SIZES):
                for prefix in ("", "sub/", "got/", "sub/got/"):
                    await send(got, f"{prefix}by-us{number}", content(size, number))
    for place in (root, root / "sub"):
        assert permissions_of(place / "got") == permissions_of(place / "made")
        for number in range(len(SIZES)):
            assert permissions_of(place / f"by-us{number}") == permissions_of(place / "by-kernel")
            assert permissions_of(place / "got" / f"by-us{number}") == permissions_of(place / "made" / "by-kernel")


@pytest.mark.posix
@pytest.mark.parametrize("mask", [0o022, 0o077])
async def test_what_arrives_in_a_box_is_the_owners_alone_unless_somebody_says_otherwise(
    tmp_path: Path, mask: int
) -> None:
    with umask(mask):
        async with opened(tmp_path / "box") as box:
            await send(box, "a/file", b"x")
    assert [mode_of(tmp_path / "box" / name) for name in (".", "a", "a/file")] == ["0700", "0700", "0600"]


@pytest.mark.parametrize("size", SIZES)
@needs_root
@pytest.mark.posix
async def test_the_group_of_a_box_with_setgid_may_read_what_arrives(tmp_path: Path, size: int) -> None:
    box_path = tmp_path / "box"
    box_path.mkdir()
    os.chown(box_path, -1, OTHER_GROUP)
    box_path.chmod(0o2770)
    with umask(0o077):
        async with opened(box_path) as box:
            await send(box, "a/b/file", content(size))
            await box.begin(ALICE, directory_of("empty"))
    for name, mode in {"a": "2750", "a/b": "2750", "empty": "2750", "a/b/file": "0640"}.items():
        assert permissions_of(box_path / name)[:2] == (mode, OTHER_GROUP), name
    assert mode_of(box_path / ".mxrtc") in {"0700", "2700"}


@needs_root
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.linux
async def test_the_default_access_list_of_a_box_lets_another_user_read_and_nobody_else(size: int) -> None:
    with public_directory() as public:
        public.chmod(0o755)
        box_path = public / "box"
        box_path.mkdir(0o700)
        set_list(box_path, f"u:{OTHER_UID}:rX,g::-,o::-")
        set_list(box_path, f"u:{OTHER_UID}:rx", default=False)
        with umask(0o077):
            async with opened(box_path) as box:
                await send(box, "a/file", content(size))
        as_other(lambda: read(box_path / "a" / "file", size))
        os.removexattr(box_path / "a" / "file", "system.posix_acl_access")
        assert stat.S_IMODE((box_path / "a" / "file").stat().st_mode) & 0o007 == 0


def read(path: Path, size: int) -> None:
    assert path.stat().st_size == len(path.read_bytes()) == size


@pytest.mark.posix
@pytest.mark.parametrize(
    ("mode", "file", "directory"),
    [(0o600, "0600", "0700"), (0o640, "0640", "0750"), (0o664, "0664", "0775"), (0o660, "0660", "0770")],
)
async def test_mode_counts_whatever_the_umask(tmp_path: Path, mode: int, file: str, directory: str) -> None:
    with umask(0o077):
        async with opened(tmp_path / "box", mode=mode) as box:
            await send(box, "a/file", b"x")
            await send(box, "a/large", content(CHUNK_BYTES))
    found = [mode_of(tmp_path / "box" / name) for name in ("a/file", "a/large", "a", ".")]
    assert found == [file, file, directory, directory]


@needs_root
@pytest.mark.posix
async def test_group_gets_what_arrives_and_may_read_it(tmp_path: Path) -> None:
    async with opened(tmp_path / "box", group=str(OTHER_GROUP)) as box:
        await send(box, "a/file", b"x")
    assert permissions_of(tmp_path / "box" / "a" / "file")[:2] == ("0640", OTHER_GROUP)
    assert permissions_of(tmp_path / "box" / "a")[:2] == ("0750", OTHER_GROUP)


async def test_a_group_that_does_not_exist_is_said_when_the_box_is_opened(tmp_path: Path) -> None:
    with pytest.raises(LocalError, match="no group 'no-such-group'"):
        async with opened(tmp_path / "box", group="no-such-group"):
            pass
    assert group_id("root") == group_id("0") == 0


@needs_root
async def test_a_group_that_the_bridge_is_no_member_of_is_said_when_the_box_is_opened() -> None:
    def other_opens() -> None:
        async def try_it() -> None:
            with pytest.raises(LocalError, match="usermod -aG"):
                async with opened(public / "box", group=str(OTHER_GROUP)):
                    pass

        asyncio.run(try_it())

    with public_directory() as public:
        as_other(other_opens)


@needs_root
def test_a_group_that_cannot_be_given_does_not_leave_its_rights_to_another() -> None:
    """Ours is the group of the file then, and nobody has said that it may read."""

    def apply() -> None:
        wanted = Permissions(mode=0o660, group=OTHER_GROUP).of_files(directory)
        descriptor = os.open(public / "file", os.O_RDWR | os.O_CREAT, 0o600)
        wanted.apply(descriptor)
        assert mode_of(public / "file") == "0600"

    with public_directory() as public:
        directory = os.open(public, os.O_RDONLY | os.O_DIRECTORY)
        as_other(apply)
        os.close(directory)


def receive_confined(box_path: Path, *, users: bool, calls: bool, groups: list[int], prefix: str = "") -> None:
    """Receive as the bridge does that a service manager has taken something from."""

    async def receive() -> None:
        async with opened(box_path) as box:
            for number, size in enumerate(SIZES):
                await send(box, f"{prefix}file{number}", content(size))
                await send(box, f"a/b/{prefix}file{number}", content(size))

    def child() -> None:
        confine(OTHER_UID, groups, users=users, calls=calls)
        os.umask(0o077)
        asyncio.run(receive())

    in_child(child)


@needs_confinement
@pytest.mark.parametrize("users", [False, True])
@pytest.mark.linux
def test_setgid_counts_also_where_a_service_may_not_set_it(users: bool) -> None:
    with public_directory() as public:
        box_path = public / "box"
        box_path.mkdir()
        os.chown(box_path, OTHER_UID, OTHER_GROUP)
        box_path.chmod(0o2750)
        receive_confined(box_path, users=users, calls=True, groups=[OTHER_GROUP])
        for name in ("file0", "file1", "a/b/file0", "a/b/file1", "a", "a/b"):
            mode = "2750" if (box_path / name).is_dir() else "0640"
            assert permissions_of(box_path / name)[:2] == (mode, OTHER_GROUP), name


@needs_confinement
@pytest.mark.posix
@pytest.mark.parametrize("users", [False, True])
def test_the_commands_of_the_page_give_an_inbox_that_is_in_use_to_a_group(users: bool) -> None:
    page = Path(__file__).parents[4] / "docs/how-to/files.md"
    (commands,) = re.findall(r"```sh\n(chgrp -R .*?)```", page.read_text(), re.DOTALL)
    with public_directory() as public:
        box_path = public / "box"
        box_path.mkdir(0o700)
        os.chown(box_path, OTHER_UID, OTHER_UID)
        receive_confined(box_path, users=users, calls=True, groups=[OTHER_GROUP])
        assert mode_of(box_path / "a" / "b" / "file0") == "0600"
        commands = commands.replace("/srv/inbox", str(box_path)).replace("builders", str(OTHER_GROUP))
        subprocess.run(["/bin/sh", "-euc", commands], check=True)
        receive_confined(box_path, users=users, calls=True, groups=[OTHER_GROUP], prefix="new-")
        for name in ("file0", "a/b/file1", "new-file0", "new-file1", "a/b/new-file0", "a/b/new-file1", "a", "a/b"):
            mode = "2750" if (box_path / name).is_dir() else "0640"
            assert permissions_of(box_path / name)[:2] == (mode, OTHER_GROUP), name
        assert [mode_of(box_path / name) for name in (".mxrtc", ".mxrtc/partial", ".mxrtc/lock")] == [
            "2700",
            "2700",
            "0600",
        ]


@needs_confinement
@pytest.mark.parametrize(("users", "mode"), [(False, "0640"), (True, "0600")])
@pytest.mark.linux
def test_a_default_access_list_of_people_whom_a_service_cannot_know_costs_no_file(users: bool, mode: str) -> None:
    """What it cannot pass on lets nobody in, and what arrives is kept."""
    with public_directory() as public:
        box_path = public / "box"
        box_path.mkdir()
        os.chown(box_path, OTHER_UID, OTHER_UID)
        box_path.chmod(0o700)
        set_list(box_path, "u:1234:rX,g::-,o::-")
        receive_confined(box_path, users=users, calls=True, groups=[])
        for name in ("file0", "file1", "a/b/file0", "a/b/file1"):
            found, _, (access_list, _) = permissions_of(box_path / name)
            assert (found, access_list is None) == (mode, users), name


@needs_confinement
@pytest.mark.parametrize(("users", "calls"), [(False, True), (True, False), (True, True)])
def test_a_group_that_a_service_may_not_give_is_said_when_the_box_is_opened(users: bool, calls: bool) -> None:
    async def opens() -> None:
        with pytest.raises(LocalError, match=r"usermod -aG .*PrivateUsers=no and SystemCallFilter=@chown"):
            async with opened(public / "box", group=str(OTHER_GROUP)):
                pass

    def child() -> None:
        confine(OTHER_UID, [OTHER_GROUP], users=users, calls=calls)
        asyncio.run(opens())

    with public_directory() as public:
        in_child(child)


@needs_root
@pytest.mark.posix
def test_a_directory_that_cannot_keep_its_setgid_bit_is_told_in_the_log() -> None:
    """The kernel takes the bit where we are no member of the group; the group may read no file below then."""

    def child() -> None:
        confine(OTHER_UID, [], users=False, calls=False)
        told: list[str] = []
        logging.getLogger(Permissions.__module__).addFilter(lambda line: told.append(line.getMessage()) is None)
        Permissions().make_directory(directory, "a")
        assert [line for line in told if "add the user to the group" in line]

    with public_directory() as public:
        os.chown(public, -1, OTHER_GROUP)
        public.chmod(0o2777)
        directory = os.open(public, os.O_RDONLY | os.O_DIRECTORY)
        in_child(child)
        os.close(directory)


async def test_fetched_file_that_its_group_may_write_is_known_again(tmp_path: Path) -> None:
    """As where each user has a group of his own, and the umask is 002."""
    with umask(0o002):
        async with destination(tmp_path) as got:
            first = await send(got, "file", b"x")
            again = await send(got, "file", b"x")
            assert (first.before, again.before) == (False, True)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_what_is_fetched_for_standard_output_is_private(tmp_path: Path) -> None:
    with umask(0):
        async with destination(tmp_path, private=True) as got:
            await send(got, "file", b"x")
    assert mode_of(tmp_path / "file") == "0600"


@pytest.mark.posix
async def test_replacing_a_file_gives_it_what_the_umask_leaves(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    (tmp_path / "file").chmod(0o600)
    with umask(0o022):
        async with destination(tmp_path, force=True) as got:
            await send(got, "file", b"new")
    assert mode_of(tmp_path / "file") == "0644"


async def test_nobody_else_can_open_a_file_before_it_has_its_name(tmp_path: Path) -> None:
    """Nor after a publication that failed: what waits for another attempt is the owner's alone again."""
    data = content(2 * CHUNK_BYTES)
    with umask(0):
        async with destination(tmp_path) as got:
            reception = await begun(got, "a", len(data))
            await write(reception, data)
            partials = tmp_path / ".mxrtc" / "partial"
            assert {mode_of(path) for path in partials.iterdir()} == {"0600"}
            assert mode_of(tmp_path / ".mxrtc") == mode_of(partials) == "0700"
            (tmp_path / "a").mkdir()
            (tmp_path / "a").rename(tmp_path / "b")
            for number in range(2, 12_000):  # every name that it could get
                (tmp_path / f"a ({number})").symlink_to("nowhere")
            (tmp_path / "a").symlink_to("nowhere")
            with pytest.raises(FileError):
                await reception.publish(sha256(data))
            assert {mode_of(path) for path in partials.iterdir()} == {"0600"}


@pytest.mark.posix
async def test_a_file_system_without_nameless_files_is_asked_by_one_that_is_gone_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NFS; what stands for it here is an answer of the kernel."""
    opening = os.open

    def open_named(path: str, flags: int, *args: int, **options: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return opening(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", open_named)
    with umask(0o027):
        async with destination(tmp_path) as got:
            await send(got, "file", b"x")
    assert mode_of(tmp_path / "file") == "0640"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_a_file_system_that_sets_no_modes_takes_files_that_have_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many of FUSE; what stands for it here is an answer of the kernel, and a umask for its one mode."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(os, "fchmod", refuse)
    with umask(0o077):
        async with destination(tmp_path) as got:
            for number, size in enumerate(SIZES):
                await send(got, f"a/file{number}", content(size))
    assert [mode_of(tmp_path / "a" / f"file{number}") for number in range(len(SIZES))] == ["0600", "0600"]
