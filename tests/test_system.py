"""What Linux has and others do not; also as the others have it, in a process that is told to do without."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mxrtc_bridge import system

WITHOUT = {**os.environ, "MXRTC_PORTABLE": "1"}


@pytest.fixture(params=[False, True], ids=["linux", "portable"])
def portable(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def run(program: str, *, portable: bool) -> str:
    env = WITHOUT if portable else {**os.environ, "MXRTC_PORTABLE": ""}
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="says what Linux has")
def test_linux_uses_what_it_has_unless_it_is_told_to_do_without() -> None:
    program = (
        "from mxrtc_bridge import system; import os\n"
        "print(system.PORTABLE, system.O_PATH == os.O_RDONLY, bool(system.O_TMPFILE), system.make_epoll() is None)"
    )
    assert run(program, portable=False) == "False False True False"
    assert run(program, portable=True) == "True True False True"


def test_what_windows_lacks_is_left_out_where_that_is_forced_alone() -> None:
    program = "from mxrtc_bridge import system; print(system.WINDOWS, system.PORTABLE, system.state_home())"
    env = {**os.environ, "LOCALAPPDATA": "/local", "XDG_STATE_HOME": "/state"}
    said = [
        subprocess.run(
            [sys.executable, "-c", program],
            env={**env, "MXRTC_PORTABLE": forced},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        ).stdout.split()
        for forced in ("1", "windows")
    ]
    assert said == [["False", "True", "/state"], ["True", "True", "/local"]]


@pytest.mark.parametrize("reset", [True, False])
def test_a_socket_that_lingers_for_no_time_is_reset(reset: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        with theirs:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, system.linger(reset=reset))
            ours.close()
            theirs.settimeout(20)
            if reset:
                with pytest.raises(ConnectionResetError):
                    theirs.recv(1)
            else:
                assert theirs.recv(1) == b""


def test_a_port_is_taken_by_one_program_at_a_time_and_again_at_once() -> None:
    first = socket.socket()
    system.listen_alone(first)
    first.bind(("127.0.0.1", 0))
    first.listen()
    where = first.getsockname()
    with socket.socket() as second:
        system.listen_alone(second)
        with pytest.raises(OSError, match="in use"):
            second.bind(where)
    # The end of a connection that was closed here first is waited for by the system.
    with socket.create_connection(where) as ours:
        theirs, _ = first.accept()
        theirs.close()
        assert ours.recv(1) == b""
    first.close()
    with socket.socket() as third:
        system.listen_alone(third)
        third.bind(where)


def test_what_was_written_is_synced(tmp_path: Path, portable: bool) -> None:
    program = (
        "import os, sys; from mxrtc_bridge import system\n"
        f"file = open({str(tmp_path / 'file')!r}, 'wb', buffering=0)\n"
        "file.write(b'x'); system.sync_data(file.fileno())\n"
        "try: system.sync_data(999)\n"
        "except OSError as error: print(error.errno)"
    )
    assert run(program, portable=portable) == str(errno.EBADF)


def test_elapsed_time_goes_on_at_the_pace_of_other_clocks(portable: bool) -> None:
    program = (
        "import time; from mxrtc_bridge import system\n"
        "a, b = system.elapsed_ns(), time.monotonic_ns(); time.sleep(0.05)\n"
        "print(abs((system.elapsed_ns() - a) - (time.monotonic_ns() - b)) < 20_000_000)"
    )
    assert run(program, portable=portable) == "True"


def test_a_signal_is_waited_for_no_longer_than_asked(portable: bool) -> None:
    program = (
        "import os, signal, time; from mxrtc_bridge import system\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "began = time.monotonic()\n"
        "print(system.wait_for_signal({signal.SIGTERM}, 0.1), time.monotonic() - began >= 0.1)\n"
        "os.kill(os.getpid(), signal.SIGTERM); print(system.wait_for_signal({signal.SIGTERM}, 10))\n"
        "print(system.wait_for_signal({signal.SIGTERM}, 0), time.monotonic() - began < 9)"
    )
    assert run(program, portable=portable).split() == ["False", "True", "True", "False", "True"]


def test_attributes_are_kept_or_said_to_be_unknown(tmp_path: Path, portable: bool) -> None:
    program = (
        "import os, sys; from mxrtc_bridge import system\n"
        f"file = open({str(tmp_path / 'file')!r}, 'wb')\n"
        "for act in (lambda: system.set_attribute(file.fileno(), 'user.x', b'y'),\n"
        "            lambda: system.get_attribute(file.fileno(), 'user.x'),\n"
        "            lambda: system.remove_attribute(file.fileno(), 'user.x')):\n"
        "    try: print(act())\n"
        "    except OSError as error: print(error.errno)"
    )
    said = run(program, portable=portable).split("\n")
    unknown = [str(errno.EOPNOTSUPP)] * 3
    assert said == unknown if portable else said in (["None", "b'y'", "None"], unknown)  # by the file system


def test_a_program_runs_on_a_loop_that_there_is(portable: bool) -> None:
    program = (
        "import asyncio; from mxrtc_bridge import system\n"
        "async def work(): print(type(asyncio.get_running_loop()).__module__.partition('.')[0])\n"
        "system.run_loop(work())"
    )
    assert run(program, portable=portable) == ("asyncio" if portable else "uvloop")


def test_signals_that_come_while_it_waits_end_the_wait() -> None:
    """In this process: those of :func:`threading.main_thread` must not be taken by another."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2})
    try:
        threading.Timer(0.05, signal.pthread_kill, (threading.main_thread().ident, signal.SIGUSR2)).start()
        began = time.monotonic()
        assert system.wait_for_signal({signal.SIGUSR2}, 30)
        assert time.monotonic() - began < 20
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_the_user_side_calls_nothing_of_linux_beside_this_module() -> None:
    """What else there might be is found by mypy, which the Makefile runs as on macOS and on Windows."""
    package = Path(system.__file__).parent.parent
    names = ("uvloop.run", "os.eventfd", "os.O_PATH", "os.O_TMPFILE", "CLOCK_BOOTTIME", "sigtimedwait", "select.epoll")
    servers = {"bridge", "storage", "web", "demo"}
    found = [
        (str(file.relative_to(package)), name)
        for file in sorted(package.rglob("*.py"))
        for name in names
        if name in file.read_text()
        if not {"system", *servers} & set(file.relative_to(package).parts)
    ]
    assert found == []
