"""Child processes are waited for, ended by their own id, and never outlive their parent."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mxrtc_bridge.demo.processes import ManagedProcess, PortReservation, ProcessError, guarded_command, last_lines

PYTHON = sys.executable


def shell(folder: Path, script: str, **options: object) -> ManagedProcess:
    return ManagedProcess("child", ["/bin/sh", "-c", script], folder=folder, **options)  # type: ignore[arg-type]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return state[state.rindex(")") + 2] != "Z"


async def until_dead(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while is_alive(pid) and time.monotonic() < deadline:
        await asyncio.sleep(0.01)
    return not is_alive(pid)


async def test_output_is_kept_by_stream_with_the_exit_code(tmp_path: Path) -> None:
    child = shell(tmp_path, "echo data; echo talk >&2; exit 7")
    child.start()
    assert await child.wait() == 7
    assert (child.output(), child.output("stderr")) == (b"data\n", b"talk\n")
    assert child.lines() == ["data", "talk"]


async def test_stdin_is_read_to_its_end(tmp_path: Path) -> None:
    async with shell(tmp_path, "cat", stdin=b"\x00\xffbytes") as child:
        await child.wait()
        assert child.output() == b"\x00\xffbytes"


async def test_wait_for_line_returns_the_match_of_a_line_on_either_stream(tmp_path: Path) -> None:
    async with shell(tmp_path, "echo noise; echo 'ready on port 4711' >&2; sleep 60") as child:
        found = await child.wait_for_line(r"port (\d+)")
        assert found[1] == "4711"


async def test_wait_for_line_sees_only_what_comes_after_the_mark(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"echo step 1; while [ ! -e {go} ]; do sleep 0.02; done; echo step 2; sleep 60"
    async with shell(tmp_path, script) as child:
        await child.wait_for_line("step 1")
        mark = child.mark()
        go.touch()
        assert (await child.wait_for_line(r"step (\d)", after=mark))[1] == "2"


async def test_wait_for_line_does_not_match_half_a_line(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"printf 'port 1'; while [ ! -e {go} ]; do sleep 0.02; done; echo 23; sleep 60"
    async with shell(tmp_path, script) as child:
        waiting = asyncio.create_task(child.wait_for_line(r"port (\d+)"))
        while child.output() != b"port 1":
            await asyncio.sleep(0.01)
        go.touch()
        assert (await waiting)[1] == "123"


async def test_wait_for_line_takes_an_unfinished_last_line_of_a_child_that_ended(tmp_path: Path) -> None:
    async with shell(tmp_path, "printf 'the last word'") as child:
        assert await child.wait_for_line("last word")


async def test_wait_for_line_fails_with_the_last_lines_when_the_child_ends(tmp_path: Path) -> None:
    async with shell(tmp_path, "echo 'cannot open the door' >&2; exit 3") as child:
        with pytest.raises(ProcessError, match=r"exit code 3 [\s\S]*cannot open the door"):
            await child.wait_for_line("ready")


async def test_wait_for_line_fails_when_the_time_has_passed(tmp_path: Path) -> None:
    async with shell(tmp_path, "echo still here; sleep 60") as child:
        with pytest.raises(ProcessError, match=r"in 0\.3 s[\s\S]*still here"):
            await child.wait_for_line("ready", timeout_s=0.3)


async def test_terminate_kills_a_child_that_ignores_the_request_and_its_children(tmp_path: Path) -> None:
    async with shell(tmp_path, "trap '' TERM; sleep 61 & echo inner $!; wait; sleep 62") as child:
        inner = int((await child.wait_for_line(r"inner (\d+)"))[1])
        assert await child.terminate(grace_s=0.2) == -signal.SIGKILL
        assert not is_alive(child.pid)
        assert await until_dead(inner)


async def test_terminate_twice_gives_the_same_exit_code(tmp_path: Path) -> None:
    child = shell(tmp_path, "trap 'exit 5' TERM; echo up; while :; do sleep 0.02; done")
    child.start()
    await child.wait_for_line("up")
    assert [await child.terminate(), await child.terminate(), child.returncode] == [5, 5, 5]


async def test_a_signal_after_the_end_is_ignored(tmp_path: Path) -> None:
    child = shell(tmp_path, "exit 0")
    child.start()
    await child.wait()
    child.send_signal(signal.SIGTERM)
    assert child.returncode == 0


async def test_a_child_is_not_started_twice(tmp_path: Path) -> None:
    async with shell(tmp_path, "sleep 60") as child:
        with pytest.raises(ProcessError, match="was started before"):
            child.start()


async def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    async with ManagedProcess("gone", ["/nonexistent/program"], folder=tmp_path) as child:
        with pytest.raises(ProcessError, match="/nonexistent/program cannot be run: No such file"):
            await child.wait_for_line("anything")


async def test_the_kernel_ends_a_child_whose_parent_is_killed(tmp_path: Path) -> None:
    """A test run that is killed leaves nothing behind: the child goes with its parent, not with its own will."""
    middle = (
        "import subprocess, sys, time\n"
        "from mxrtc_bridge.demo.processes import guarded_command\n"
        "child = subprocess.Popen(guarded_command(['/bin/sh', '-c', 'echo $$; exec sleep 63']))\n"
        "time.sleep(63)\n"
    )
    async with ManagedProcess("middle", [PYTHON, "-c", middle], folder=tmp_path) as parent:
        orphan = int((await parent.wait_for_line(r"^(\d+)$"))[1])
        assert is_alive(orphan)
        os.kill(parent.pid, signal.SIGKILL)  # the parent alone, not its group
        assert await until_dead(orphan)


def test_a_guarded_child_does_not_start_when_its_parent_is_gone_already() -> None:
    command = guarded_command(["/bin/echo", "alive"])
    command[command.index(str(os.getpid()))] = "999999999"
    assert subprocess.run(command, capture_output=True, check=False).stdout == b""


def test_a_reserved_port_can_be_listened_on_while_nobody_else_is_given_it() -> None:
    with PortReservation() as reservation, socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.bind(("127.0.0.1", reservation.port))
        server.listen()
        with socket.create_connection(("127.0.0.1", reservation.port), timeout=5):
            others = [PortReservation() for _ in range(50)]
            assert reservation.port not in {other.port for other in others}
            for other in others:
                other.close()


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11])
def test_the_tail_has_the_last_lines(tmp_path: Path, count: int) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{n}\n" for n in range(count)))
    assert last_lines(log, 10) == [str(n) for n in range(count)][-10:]


def test_the_tail_of_a_huge_log_is_read_from_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"x" * 3_000_000 + b"\nend")
    assert last_lines(log, 10)[-1] == "end"
    assert len(last_lines(log, 10)[0]) < 70_000
