"""The demonstration as a whole, as `make demo` runs it: it works, says so, fails clearly, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxrtc_bridge.demo.processes import ManagedProcess

pytestmark = pytest.mark.real


@pytest.fixture
def temporary() -> Iterator[Path]:
    """The folder that a demonstration takes for temporary files; short, because of the unix sockets below it."""
    folder = Path(tempfile.mkdtemp(prefix="demo-"))
    yield folder
    shutil.rmtree(folder)


def demo(folder: Path, temporary: Path, *arguments: str, **env: str) -> ManagedProcess:
    argv = [sys.executable, "-m", "mxrtc_bridge.demo", *arguments]
    return ManagedProcess("demo", argv, folder=folder, env={"TMPDIR": str(temporary), "COLUMNS": "80", **env})


def descendants_with(text: str) -> list[str]:
    """Return the command lines of this machine's processes that hold ``text``."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue  # it ended meanwhile
        if text in command:
            found.append(command)
    return found


async def test_demo_shows_every_step_and_ends_with_success_when_asked_to_run_once(
    tmp_path: Path, temporary: Path
) -> None:
    async with demo(tmp_path, temporary, ONCE="1") as process:
        assert await process.wait(150) == 0, process.tail(60)
        text = process.output().decode()
    assert re.findall(r"^ *(\d+)\. ", text, re.MULTILINE) == [str(n) for n in range(1, 12)]
    assert re.search(r"path: direct \(host to \w+, ipv[46]\); set-up time: \d+ ms", text)
    assert re.search(r"67108864 bytes in [\d.]+ s: \d+ MB/s", text)
    assert re.search(r"Everything works: direct \(.+\), set up in \d+ ms, \d+ MB/s, every byte as it was sent\.$", text)
    sums = re.findall(r"SHA-256 ([0-9a-f]{16})\.\.\.", text)
    assert len(sums) == 2
    assert sums[0] == sums[1]
    assert "\x1b" not in text, "plain text where there is no terminal"
    assert list(temporary.iterdir()) == []
    assert descendants_with(str(temporary)) == []


async def test_demo_stays_up_until_interrupted_and_its_commands_can_be_pasted(tmp_path: Path, temporary: Path) -> None:
    async with demo(tmp_path, temporary, ONCE="0") as process:
        await process.wait_for_line("Ctrl-C ends everything", 150)
        lines = process.lines("stdout")
        begin = lines.index("Paste into another terminal:") + 2
        export, *commands = lines[begin : lines.index("", begin)]
        port_taking = [command for command in commands if command.startswith("mxrtc connect")]
        script = "\n".join([export, *(command for command in commands if command not in port_taking)])
        async with ManagedProcess(
            "pasted", ["/bin/sh", "-c", script], folder=tmp_path, env={"PATH": os.environ["PATH"]}
        ) as pasted:
            await pasted.wait(60)
            said = pasted.output().decode()
        # The last command asks about somebody without a grant: that is its exit code.
        assert pasted.returncode == 3, pasted.tail(60)
        assert said.count("You are behind the bridge") == (2 if shutil.which("curl") else 1), pasted.tail(60)
        assert [line.split("\t")[:3] for line in said.splitlines() if line.startswith("demo/web")] == [
            ["demo/web", "stream", "up"]
        ]
        assert said.splitlines()[-2:] == ["allow: grant demo-users", "deny: no grant"]
        assert port_taking == ["mxrtc connect demo/web -L 8080"]

        process.send_signal(signal.SIGINT)
        assert await process.wait(30) == 0, process.tail()
    assert process.lines("stdout")[-1] == "ended, and everything is removed"
    assert list(temporary.iterdir()) == []
    assert descendants_with(str(temporary)) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_demo_leaves_nothing_behind_when_it_is_interrupted_on_its_way(
    tmp_path: Path, temporary: Path, number: signal.Signals
) -> None:
    async with demo(tmp_path, temporary, "--once") as process:
        await process.wait_for_line("reads the registration", 60)
        process.send_signal(number)
        assert await process.wait(30) == 130, process.tail()
    assert process.lines("stdout")[-1] == "interrupted"
    assert process.output("stderr") == b""
    assert list(temporary.iterdir()) == []
    assert descendants_with(str(temporary)) == []


async def test_demo_names_the_failed_step_and_its_log_when_the_homeserver_does_not_start(
    tmp_path: Path, temporary: Path
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no synapse today >&2\nexit 3\n")
    broken.chmod(0o755)
    async with demo(tmp_path, temporary, "--once", MXRTC_SYNAPSE_PYTHON=str(broken)) as process:
        assert await process.wait(60) == 1, process.tail()
    lines = process.lines("stdout")
    assert (
        "Step 3 failed (A homeserver (Synapse) starts and reads the registration): "
        "Synapse ended with exit code 3 at its start"
    ) in lines
    (kept,) = temporary.iterdir()
    log = kept / "synapse-1.stderr"
    assert lines[-2:] == [f"Read {log}; it ends with:", "    no synapse today"]
    assert log.read_text() == "no synapse today\n"
    assert [path.name for path in kept.iterdir()] == ["synapse-1.stderr"], "logs only: no tokens, no passwords"
    assert process.output("stderr") == b""
    assert descendants_with(str(temporary)) == []


async def test_demo_says_what_is_missing_when_there_is_no_synapse(tmp_path: Path, temporary: Path) -> None:
    async with demo(tmp_path, temporary, "--once", MXRTC_SYNAPSE_PYTHON=str(tmp_path / "nothing")) as process:
        assert await process.wait(60) == 1, process.tail()
    text = process.output().decode()
    assert "Step 3 failed" in text
    assert f"{tmp_path}/nothing cannot be run: No such file or directory" in text
    assert process.output("stderr") == b""
