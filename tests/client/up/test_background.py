"""What runs in the background is a process of its own: it says that it runs, or why not, and ends when it is told."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.client.status_socket import running_commands
from mxrtc_bridge.client.up import background
from mxrtc_bridge.core.ids import UserId
from tests.waiting import until

LOGIN = Login("http://127.0.0.1:1", UserId("@alice:example.org"), "LAPTOP", "secret-token")


class Bench:
    def __init__(self, folder: Path) -> None:
        self.told = io.StringIO()
        self.state = StateFolder(folder / "state")
        self.state.save_login(LOGIN)
        self.context = Context(self.state, Report(sentences=self.told))
        self.file = folder / "up.toml"
        self.file.write_text('[connections]\n0 = "build/ssh"\n')
        self.argv = ["--state", str(folder / "state"), "up", str(self.file)]


async def test_it_runs_until_it_is_told_to_end(tmp_path: Path) -> None:
    """Also where the homeserver is away: it tries again by itself."""
    bench = Bench(tmp_path)
    await background.start(bench.context, bench.argv)
    (running,) = await running_commands(bench.state)
    pid = running["pid"]
    assert isinstance(pid, int)
    assert f"runs in the background (process {pid})" in bench.told.getvalue()
    assert os.getsid(pid) == pid, "no terminal can take it along"
    log = bench.state.path / "up.log"
    assert log.stat().st_mode & 0o777 == 0o600
    assert f"1 connection of {bench.file}, process {pid}" in log.read_text()
    await background.down(bench.context)
    assert bench.told.getvalue().endswith(f"ended (process {pid})\n")
    assert await running_commands(bench.state) == []
    await until(lambda: os.waitpid(pid, os.WNOHANG) != (0, 0))


async def test_one_that_cannot_run_is_told_with_its_reason_and_code(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.file.unlink()
    with pytest.raises(ClientError, match=r"There is no .*up\.toml; write one") as refused:
        await background.start(bench.context, bench.argv)
    assert refused.value.code is Exit.USAGE


async def test_where_nothing_runs_nothing_is_ended(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await background.down(bench.context)
    assert bench.told.getvalue() == "mxrtc up does not run for this account\n"


async def test_a_log_of_others_is_not_written_to(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (bench.state.path / "up.log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ClientError, match=r"up\.log"):
        await background.start(bench.context, bench.argv)
    assert not (tmp_path / "elsewhere").exists()
