"""The state folder: private, atomic, and never trusted to be as we left it."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxrtc_bridge.client import state as state_module
from mxrtc_bridge.client.device import NoDeviceError, own_device
from mxrtc_bridge.client.exits import ClientError, Exit
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import RoomId, UserId
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


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
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
    assert folder.known_peers(ALICE) == [peer]


def test_damaged_room_cache_is_an_empty_one(folder: StateFolder) -> None:
    peer = UserId("@rtc_build:example.org")
    folder.save_room(ALICE, peer, RoomId("!one:example.org"))
    (folder.path / "rooms.json").write_text("not json")
    assert folder.load_room(ALICE, peer) is None
    (folder.path / "rooms.json").write_text(json.dumps({f"{ALICE} {peer}": "no room id"}))
    assert folder.load_room(ALICE, peer) is None
    folder.save_room(ALICE, peer, RoomId("!new:example.org"))
    assert folder.load_room(ALICE, peer) == "!new:example.org"


def test_room_cache_forgets_the_oldest_beyond_its_limit(folder: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "MAX_ROOMS", 3)
    peers = [UserId(f"@rtc_{i}:example.org") for i in range(4)]
    for i, peer in enumerate(peers):
        folder.save_room(ALICE, peer, RoomId(f"!{i}:example.org"))
    assert folder.known_peers(ALICE) == peers[1:]


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
    with public_directory() as public:
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
    with pytest.raises((ClientError, NoDeviceError)):
        await use(folder, name)


@needs_root
def test_state_folder_that_is_exchanged_while_it_is_read_gives_nothing_of_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a directory without the sticky bit somebody may rename what is ours."""
    with public_directory() as public:
        folder = StateFolder(public / "state")
        folder.save_login(LOGIN)

        def exchange() -> None:
            (public / "state").rename(public / "away")
            (public / "state").mkdir()
            (public / "state" / "login.json").write_text((public / "theirs").read_text())

        (public / "theirs").write_text(json.dumps({**asdict(LOGIN), "homeserver": "https://evil.test"}))
        (public / "theirs").chmod(0o644)
        opened = state_module.open_private_file

        def late(*arguments: Any) -> int:
            if not (public / "away").exists():
                as_other(exchange)
            return opened(*arguments)

        monkeypatch.setattr(state_module, "open_private_file", late)
        assert folder.load_login() == LOGIN
        with pytest.raises(ClientError, match="cannot be trusted"):
            folder.load_login()
