"""The file of ``mxrtc up`` is read strictly, and all its mistakes are told together."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxrtc_bridge.client.accounts import Accounts
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Context, Forward
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.client.up.connections_file import MAX_FILE_BYTES, UpConnection, read_connections, usual_file
from mxrtc_bridge.core.access.peer_names import PeerName
from mxrtc_bridge.core.ids import ServiceName, UserId

LOGIN = Login("http://127.0.0.1:1", UserId("@alice:example.org"), "LAPTOP", "secret-token")


def read(folder: Path, text: str) -> list[UpConnection]:
    path = folder / "up.toml"
    path.write_text(text)
    return read_connections(path, LOGIN)


def test_each_line_leads_from_a_local_address_to_a_service(tmp_path: Path) -> None:
    text = '[connections]\n2222 = "build/ssh"\n"[::1]:8080" = "lab@other.org/web"\n'
    assert read(tmp_path, text) == [
        UpConnection(Forward("127.0.0.1", 2222, None), PeerName(UserId("@rtc_build:example.org"), ServiceName("ssh"))),
        UpConnection(Forward("::1", 8080, None), PeerName(UserId("@rtc_lab:other.org"), ServiceName("web"))),
    ]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("connections = [", "is not TOML"),
        ("", r"\[connections\] must have 1 to 64 lines"),
        ("[connections]", r"\[connections\] must have 1 to 64 lines"),
        ("connections = 1", r"\[connections\] must have 1 to 64 lines"),
        ("[connections]\n" + "\n".join(f'{port} = "build/ssh"' for port in range(1, 66)), "must have 1 to 64 lines"),
        ('[connections]\n2222 = "build"', "names no service"),
        ("[connections]\n2222 = 22", "as text"),
        ('[connections]\n99999 = "build/ssh"', r"write \[BIND:\]PORT"),
        ('[connections]\n"2222=web" = "build/ssh"', "before the ="),
        ('[connections]\n2222 = "no such name!/ssh"', "2222"),
        ('[connection]\n2222 = "build/ssh"', "'connection' is not known"),
        ("x = " + "[" * 5000, "is not TOML"),
        ("#" * (MAX_FILE_BYTES + 1), "more than 65536 bytes"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_line_and_the_remedy(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(ClientError, match=why) as refused:
        read(tmp_path, text)
    assert refused.value.code is Exit.USAGE


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(ClientError) as refused:
        read(tmp_path, 'other = 1\n[connections]\n2222 = "build"\n0x = 5\n')
    said = str(refused.value)
    assert [word in said for word in ("other", "2222", "0x")] == [True] * 3


def test_a_file_that_is_not_there_is_told_with_an_example(tmp_path: Path) -> None:
    with pytest.raises(ClientError, match=r'there is no .*up.toml; write one, for example:\n\[connections\]\n"2222"'):
        read_connections(tmp_path / "up.toml", LOGIN)
    with pytest.raises(ClientError, match="cannot be read: Is a directory"):
        read_connections(tmp_path, LOGIN)


def test_each_account_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    accounts = Accounts(StateFolder(tmp_path / "state"))
    first, work = (
        usual_file(Context(accounts.folder(name), Report(), accounts=accounts)) for name in ("default", "work")
    )
    assert (first, work) == (tmp_path / "config/mxrtc/up.toml", tmp_path / "config/mxrtc/up-work.toml")
