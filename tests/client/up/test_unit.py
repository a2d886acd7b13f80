"""The unit that ``mxrtc up --install`` writes is one that systemd takes, with the words that it was given."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mxrtc_bridge.client.accounts import Accounts
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.client.up.unit import install, unit_quoted
from mxrtc_bridge.core.ids import UserId

LOGIN = Login("http://127.0.0.1:1", UserId("@alice:example.org"), "LAPTOP", "secret-token")


@pytest.mark.parametrize("account", ["default", "work"])
def test_systemd_takes_the_unit(account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where names have spaces, and what systemd would replace."""
    folder = tmp_path / 'odd "name" %h $HOME'
    folder.mkdir()
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setattr(sys, "argv", [str(Path(sys.executable).parent / "mxrtc")])
    accounts, told = Accounts(StateFolder(folder / "state")), io.StringIO()
    context = Context(accounts.folder(account), Report(sentences=told), accounts=accounts)
    context.state.save_login(LOGIN)
    file = folder / "my connections.toml"
    file.write_text('[connections]\n2222 = "build/ssh"\n')
    install(context, file)
    name = "mxrtc-up" if account == "default" else "mxrtc-up-work"
    unit = folder / "config/systemd/user" / f"{name}.service"
    assert f"systemctl --user enable --now {name}" in told.getvalue()
    # Where systemd looks for it must be a plain name for the test alone.
    plain = tmp_path / "units"
    plain.mkdir()
    (plain / unit.name).write_text(unit.read_text())
    done = subprocess.run(
        ["systemd-analyze", "--user", "verify", plain / unit.name],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{plain}:", "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    command = next(line for line in unit.read_text().splitlines() if line.startswith("ExecStart="))
    assert command.endswith(f'"--account" "{account}" "up" {unit_quoted(str(file))}')


def test_words_are_quoted_so_that_systemd_replaces_nothing() -> None:
    assert unit_quoted('a b%h$HOME"\\') == '"a b%%h$$HOME\\"\\\\"'


def test_a_file_with_mistakes_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    accounts = Accounts(StateFolder(tmp_path / "state"))
    context = Context(accounts.folder("default"), Report(sentences=io.StringIO()), accounts=accounts)
    context.state.save_login(LOGIN)
    with pytest.raises(ClientError) as refused:
        install(context, tmp_path / "nothing.toml")
    assert refused.value.code is Exit.USAGE
    assert not (tmp_path / "config").exists()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text("no folder")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    accounts = Accounts(StateFolder(tmp_path / "state"))
    context = Context(accounts.folder("default"), Report(sentences=io.StringIO()), accounts=accounts)
    context.state.save_login(LOGIN)
    file = tmp_path / "up.toml"
    file.write_text('[connections]\n2222 = "build/ssh"\n')
    with pytest.raises(ClientError, match="cannot be written") as refused:
        install(context, file)
    assert refused.value.code is Exit.LOCAL
