"""What ``mxrtc`` completes of what it has seen before."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxrtc_bridge.cli.client.main import main
from mxrtc_bridge.cli.completion import SHELLS
from mxrtc_bridge.client.accounts import Accounts
from mxrtc_bridge.client.known_services import KnownServices, save_known
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream.messages import ServiceKind

ALICE = UserId("@alice:example.org")
BUILD, NAS = UserId("@rtc_build:example.org"), UserId("@rtc_nas:other.org")
KINDS = {
    (BUILD, ServiceName("ssh")): ServiceKind.STREAM,
    (BUILD, ServiceName("share")): ServiceKind.SHARE,
    (BUILD, ServiceName("inbox")): ServiceKind.INBOX,
    (NAS, ServiceName("photos")): ServiceKind.FILES,
    (NAS, ServiceName("new")): None,
}


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    state = StateFolder(tmp_path / "state")
    state.save_login(Login("https://example.org", ALICE, "DEVICE", "token"))
    known = KnownServices(dict(KINDS))
    known.see_files((BUILD, ServiceName("share"), ""), ["docs/", "notes.txt"])
    known.see_files((BUILD, ServiceName("share"), "docs"), ["a.pdf", "b.pdf"])
    save_known(state, ALICE, known)
    return state


def completed(state: StateFolder, *words: str) -> list[str]:
    complete = SHELLS["zsh"](main, {}, "mxrtc", "_MXRTC_COMPLETE")
    found = complete.get_completions(["--state", str(state.path), *words[:-1]], words[-1])
    return [item.value if item.type == "plain" else item.type for item in found]


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (("ping", ""), ["build", "nas@other.org"]),
        (("trust", "@"), [BUILD, NAS]),
        (("devices", "n"), ["nas@other.org"]),
        (("verify", "b"), ["build"]),
        (("nc", ""), ["build/ssh", "nas@other.org/new"]),
        (("connect", f"{BUILD}/"), [f"{BUILD}/ssh"]),
        (("how", "build/"), ["build/ssh", "build/share", "build/inbox"]),
        (("request", "nas"), ["nas@other.org/photos", "nas@other.org/new"]),
        (("connect", "build", "-L", "2222="), ["2222=ssh", "2222=new"]),
        (("connect", "-L", "[::]:2222=n"), ["[::]:2222=new"]),
        (("connect", "-L", "22"), []),
        (("get", ""), ["build/share:", "nas@other.org/photos", "nas@other.org/new"]),
        (("ls", "build/share:"), ["build/share:", "build/share:docs/", "build/share:notes.txt"]),
        (("get", f"{BUILD}/share:docs/b"), [f"{BUILD}/share:docs/b.pdf"]),
        (("get", "build/share:unknown/"), []),
        (("send", ""), ["file"]),
        (("send", "a.pdf", ""), ["build/inbox", "nas@other.org/photos", "nas@other.org/new"]),
        (("send", "a.pdf", "b.pdf", "build"), ["build/inbox"]),
        (("send", "a.pdf", "b.p"), ["file"]),
    ],
)
def test_what_fits_is_completed(state: StateFolder, words: tuple[str, ...], values: list[str]) -> None:
    assert completed(state, *words) == values


def test_nothing_is_completed_where_nobody_is_logged_in_or_the_login_cannot_be_trusted(state: StateFolder) -> None:
    (state.path / "login.json").chmod(0o644)
    assert completed(state, "ping", "") == []
    state.forget_login()
    assert completed(state, "ping", "") == []


def test_accounts_are_completed_and_what_is_known_is_that_of_the_account(state: StateFolder) -> None:
    work = Accounts(state).folder("work")
    work.save_login(Login("https://example.com", UserId("@al:example.com"), "DEVICE", "token"))
    peer = UserId("@rtc_lab:example.com")
    save_known(work, UserId("@al:example.com"), KnownServices({(peer, ServiceName("ssh")): None}))
    assert completed(state, "--account", "") == ["default", "work"]
    assert completed(state, "accounts", "--default", "w") == ["work"]
    assert completed(state, "--account", "work", "nc", "") == ["lab/ssh"]
    assert completed(state, "--account", "default", "nc", "b") == ["build/ssh"]
    assert completed(state, "--account", "none", "nc", "") == []


def test_completing_writes_nothing(state: StateFolder, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in state.path.iterdir()}
    completed(state, "get", "build/")
    assert {path: path.stat().st_mtime_ns for path in state.path.iterdir()} == before
    elsewhere = StateFolder(tmp_path / "none")
    assert completed(elsewhere, "get", "") == []
    assert not elsewhere.path.exists()
