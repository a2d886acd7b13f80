"""The state folder: private, atomic, and never trusted to be as we left it."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxrtc_bridge.client import state as state_module
from mxrtc_bridge.client.calls.device import NoDeviceError, own_device
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.client.status_socket import running_commands
from mxrtc_bridge.core.ids import RoomId, UserId
from tests.long import examples
from tests.other_user import OTHER_UID, as_other, needs_root, public_directory

ALICE = UserId("@alice:example.org")
LOGIN = Login("https://example.org", ALICE, "DEVICE", "secret-token", prefix="rtc_", bot="rtcbot")


@pytest.fixture
def folder(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "deep" / "mxrtc")


def test_login_comes_back_and_is_readable_by_its_owner_only(folder: StateFolder) -> None:
    folder.save_login(LOGIN)
    assert folder.load_login() == LOGIN
    assert stat.S_IMODE((folder.path / "login.json").stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
    assert [path.name for path in folder.path.iterdir()] == ["login.json"]


def test_token_is_in_no_text_about_the_login() -> None:
    assert "secret-token" not in repr(LOGIN)


def test_without_a_login_the_user_is_told_how_to_get_one(folder: StateFolder) -> None:
    with pytest.raises(ClientError, match="mxrtc login") as caught:
        folder.load_login()
    assert caught.value.code is Exit.USAGE


def test_login_that_others_can_read_is_refused_with_the_remedy(folder: StateFolder) -> None:
    folder.save_login(LOGIN)
    (folder.path / "login.json").chmod(0o640)
    with pytest.raises(ClientError, match="chmod 600"):
        folder.load_login()


def test_forgotten_login_is_gone(folder: StateFolder) -> None:
    folder.save_login(LOGIN)
    folder.save_room(ALICE, UserId("@rtc_build:example.org"), RoomId("!room:example.org"))
    folder.forget_login()
    assert list(folder.path.iterdir()) == []


def test_login_that_cannot_be_removed_is_named(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.save_login(LOGIN)

    def refuse(*_args: object, **_options: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os, "unlink", refuse)
    with pytest.raises(ClientError, match=r"login\.json cannot be removed: Permission denied; remove") as caught:
        folder.forget_login()
    assert caught.value.code is Exit.LOCAL


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"homeserver": 1}',
        b"\xff",
        b"[" * 100_000,
        b" " * (state_module.MAX_FILE_BYTES + 1),
    ],
)
def test_damaged_login_is_said_and_not_used(folder: StateFolder, damage: bytes) -> None:
    folder.save_login(LOGIN)
    (folder.path / "login.json").write_bytes(damage)
    with pytest.raises(ClientError):
        folder.load_login()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=examples(60))
@given(
    st.dictionaries(
        st.sampled_from(["homeserver", "user_id", "device_id", "access_token", "prefix", "bot", "other"]),
        st.one_of(st.none(), st.integers(), st.text(max_size=30), st.just("@a:b"), st.just("x" * 5000)),
    )
)
def test_any_object_is_a_login_or_refused(folder: StateFolder, data: dict[str, object]) -> None:
    folder.save_login(LOGIN)
    (folder.path / "login.json").write_text(json.dumps(data))
    try:
        login = folder.load_login()
    except ClientError:
        return
    assert login.user_id == data["user_id"]


def test_rooms_are_remembered_for_each_user_and_peer(folder: StateFolder) -> None:
    peer, bob = UserId("@rtc_build:example.org"), UserId("@bob:example.org")
    folder.save_room(ALICE, peer, RoomId("!one:example.org"))
    folder.save_room(bob, peer, RoomId("!two:example.org"))
    folder.save_room(ALICE, peer, RoomId("!three:example.org"))
    assert folder.load_room(ALICE, peer) == "!three:example.org"
    assert folder.load_room(bob, peer) == "!two:example.org"
    assert folder.load_room(bob, UserId("@rtc_other:example.org")) is None


def test_damaged_room_cache_is_an_empty_one(folder: StateFolder) -> None:
    peer = UserId("@rtc_build:example.org")
    folder.save_room(ALICE, peer, RoomId("!one:example.org"))
    (folder.path / "rooms.json").write_text("not json")
    assert folder.load_room(ALICE, peer) is None
    (folder.path / "rooms.json").write_text(json.dumps({f"{ALICE} {peer}": "no room id"}))
    assert folder.load_room(ALICE, peer) is None
    folder.save_room(ALICE, peer, RoomId("!new:example.org"))
    assert folder.load_room(ALICE, peer) == "!new:example.org"


def test_room_cache_forgets_the_oldest_beyond_its_limit(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path / "state", max_rooms=3)
    peers = [UserId(f"@rtc_{i}:example.org") for i in range(4)]
    for i, peer in enumerate(peers):
        folder.save_room(ALICE, peer, RoomId(f"!{i}:example.org"))
    assert [folder.load_room(ALICE, peer) for peer in peers] == [None, *(f"!{i}:example.org" for i in range(1, 4))]


def test_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ClientError, match="cannot be used") as caught:
        StateFolder(tmp_path / "file" / "state").save_login(LOGIN)
    assert caught.value.code is Exit.LOCAL


def test_default_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("MXRTC_STATE", raising=False)
    assert StateFolder.default().path == tmp_path / "mxrtc"
    monkeypatch.setenv("MXRTC_STATE", str(tmp_path / "own"))
    assert StateFolder.default().path == tmp_path / "own"


async def use(folder: StateFolder, name: str) -> None:
    """Do what reads this file first."""
    if name == "login.json":
        folder.load_login()
    else:
        async with own_device(folder, LOGIN):
            pass


SECRET_FILES = ["login.json", "crypto.key", "crypto.lock", "crypto.db"]


@pytest.mark.parametrize("by_other", [pytest.param(True, marks=needs_root), False])
async def test_state_folder_that_others_can_write_to_is_refused_before_anything_in_it_is_read(by_other: bool) -> None:
    with public_directory(sticky=True) as public:
        path = public / "state"
        StateFolder(path).save_login(LOGIN)
        if by_other:
            os.chown(path, OTHER_UID, OTHER_UID)
        else:
            path.chmod(0o777)
        folder = StateFolder(path)
        why = f"belongs to user {OTHER_UID}" if by_other else "others can write to it"
        for use in (folder.load_login, folder.run_folder, lambda: folder.save_login(LOGIN)):
            with pytest.raises(ClientError, match=why):
                use()
        with pytest.raises(ClientError, match=why):
            async with own_device(folder, LOGIN):
                pass


@pytest.mark.parametrize("name", SECRET_FILES)
@pytest.mark.parametrize("kind", [pytest.param("theirs", marks=needs_root), "a link", "a second name", "a pipe"])
async def test_file_of_the_state_that_is_not_ours_alone_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    folder, path, other = StateFolder(tmp_path / "state"), tmp_path / "state" / name, tmp_path / "other"
    folder.save_login(LOGIN)
    if name == "login.json":
        path.rename(other)
    else:
        other.write_bytes(b"k" * 43)
    match kind:
        case "theirs":
            other.rename(path)
            os.chown(path, OTHER_UID, OTHER_UID)
        case "a link":
            path.symlink_to(other)
        case "a second name":
            os.link(other, path)
        case "a pipe":
            os.mkfifo(path)
    with pytest.raises(ClientError):
        await use(folder, name)


def test_state_folder_that_is_exchanged_while_it_is_read_gives_nothing_of_the_other_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is read is in the folder that was looked at, whatever has its name by then."""
    folder = StateFolder(tmp_path / "state")
    folder.save_login(LOGIN)
    other = StateFolder(tmp_path / "other")
    other.save_login(replace(LOGIN, homeserver="https://evil.test"))
    opened = state_module.open_private_file

    def late(*arguments: Any) -> int:
        if other.path.exists():
            folder.path.rename(tmp_path / "away")
            other.path.rename(folder.path)
        return opened(*arguments)

    monkeypatch.setattr(state_module, "open_private_file", late)
    assert folder.load_login() == LOGIN


USES = ("load", "save", "run", "device", "forget")


async def use_state(folder: StateFolder, how: str) -> None:
    match how:
        case "load":
            folder.load_login()
        case "save":
            folder.save_login(LOGIN)
        case "run":
            folder.run_folder()
        case "device":
            async with own_device(folder, LOGIN):
                pass
        case "forget":
            folder.forget_login()


@needs_root
@pytest.mark.parametrize("how", USES)
@pytest.mark.parametrize("where", ["the folder", "above it", "behind a link of ours"])
async def test_state_that_a_link_of_somebody_else_leads_to_is_refused_although_it_is_ours(how: str, where: str) -> None:
    """They may have it lead anywhere at the next moment, and the database is opened by its path."""
    with public_directory(sticky=True) as public:
        ours = StateFolder(public / "ours" / "state")
        ours.save_login(LOGIN)
        before = sorted(ours.path.iterdir())
        link = public / "link"
        if where == "the folder":
            as_other(lambda: link.symlink_to(ours.path))
            path = link
        else:
            as_other(lambda: link.symlink_to(ours.path.parent))
            path = link / "state"
        if where == "behind a link of ours":
            (public / "own").symlink_to("link/state")
            path = public / "own"
        with pytest.raises(ClientError, match=f"link is a link of user {OTHER_UID}") as caught:
            await use_state(StateFolder(path), how)
        assert caught.value.code in (Exit.LOCAL, Exit.USAGE)
        assert "MXRTC_STATE names it" in str(caught.value)
        assert sorted(ours.path.iterdir()) == before


@needs_root
@pytest.mark.parametrize("how", USES)
@pytest.mark.parametrize("theirs", [True, False])
async def test_state_below_a_folder_in_which_others_can_rename_is_refused(how: str, theirs: bool) -> None:
    with public_directory(sticky=True) as public:
        above = public / "above"
        ours = StateFolder(above / "state")
        ours.save_login(LOGIN)
        if theirs:
            os.chown(above, OTHER_UID, OTHER_UID)
        else:
            above.chmod(0o777)
        why = f"above belongs to user {OTHER_UID}" if theirs else "others can rename what is in"
        with pytest.raises(ClientError, match=why):
            await use_state(ours, how)


def test_state_that_links_of_ours_lead_to_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "up").symlink_to("link/../link")
    (tmp_path / "state").symlink_to(tmp_path / "up" / "state")
    (tmp_path / "real" / "state").mkdir(mode=0o700)
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / "state", Path("state"), Path("real/../up/state")):
        folder = StateFolder(path)
        folder.save_login(LOGIN)
        assert folder.load_login() == LOGIN
    assert (tmp_path / "real" / "state" / "login.json").exists()


def test_links_that_lead_in_a_circle_are_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ClientError, match="cannot be used: Too many levels of symbolic links"):
        StateFolder(tmp_path / "a").run_folder()


@needs_root
def test_directories_above_our_home_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container in which the root of the machine is nobody."""
    with public_directory() as public:
        monkeypatch.setenv("HOME", str(public / "home"))
        (public / "home").mkdir(mode=0o700)
        StateFolder(public / "home" / "state").save_login(LOGIN)
        with pytest.raises(ClientError, match="others can rename"):
            StateFolder(public / "state").save_login(LOGIN)


@pytest.mark.parametrize("name", ["crypto.db-wal", "crypto.db-shm", "crypto.db-journal"])
async def test_what_belongs_to_the_database_must_be_ours_as_well(tmp_path: Path, name: str) -> None:
    folder = StateFolder(tmp_path / "state")
    folder.save_login(LOGIN)
    (folder.path / name).symlink_to(tmp_path / "other")
    with pytest.raises(ClientError, match=re.escape(name)):
        async with own_device(folder, LOGIN):
            pass


def test_a_tilde_is_the_home_directory_although_no_shell_has_seen_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MXRTC_STATE", "~/st")
    assert StateFolder.default().path == tmp_path / "st"
    assert StateFolder(Path("~/other")).path == tmp_path / "other"


@needs_root
def test_without_a_home_directory_one_is_told_what_to_name() -> None:
    """As in a container that runs as a user whom no file knows."""
    program = (
        "import os; from mxrtc_bridge.client.state import StateFolder; os.setuid(54321); "
        "StateFolder.default().load_login()"
    )
    done = subprocess.run([sys.executable, "-c", program], env={}, capture_output=True, text=True, check=False)
    assert "ClientError: there is no home directory" in done.stderr
    assert "MXRTC_STATE" in done.stderr


@needs_root
def test_what_is_a_cache_may_be_lost_and_what_is_not_is_tried_first(folder: StateFolder) -> None:
    folder.save_login(LOGIN)
    folder.try_to_save()
    assert [path.name for path in folder.path.iterdir()] == ["login.json"]
    with read_only(folder.path):
        folder.save_room(ALICE, UserId("@rtc_build:example.org"), RoomId("!one:example.org"))
        assert folder.load_login() == LOGIN
        with pytest.raises(ClientError, match="cannot be written") as caught:
            folder.try_to_save()
        assert caught.value.code is Exit.LOCAL
    assert folder.load_room(ALICE, UserId("@rtc_build:example.org")) is None


@needs_root
async def test_a_state_folder_that_cannot_be_written_has_no_device_and_no_commands(folder: StateFolder) -> None:
    folder.save_login(LOGIN)
    with read_only(folder.path):
        with pytest.raises(NoDeviceError):
            async with own_device(folder, LOGIN):
                pass
        assert await running_commands(folder) == []


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Have the folder in a file system that cannot be written."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)
