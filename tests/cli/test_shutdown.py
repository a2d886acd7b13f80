"""Every command ends within a second when it is told to, whatever it waits for: real processes, real waiting.

Each waits for something that never comes; the test knows by the other end of it that it waits.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import pty
import select
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import UserId

pytestmark = pytest.mark.real

BIN = Path(sys.executable).parent
SOON_S = 1.5
"""A second, and what a busy machine needs to notice."""
LIMIT_S = 60
SIGNALS = [signal.SIGINT, signal.SIGTERM]
FUSE_INIT = 26
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


class Waiting:
    """A command that waits, and what tells that it does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env: dict[str, str] = {}
        self.program = "mxrtc"
        self.command: list[str] = []
        self.prefix: list[str | Path] = []
        self.stdin: int = subprocess.DEVNULL
        self.stdout: int = subprocess.DEVNULL
        self.stderr: int = subprocess.PIPE
        self.waits: Callable[[], bool] = lambda: True
        self.pid = 0
        self._used = (0, 0.0)

    def logged_in(self, homeserver: str) -> None:
        state = StateFolder(self.folder / "state")
        state.save_login(Login(homeserver, UserId("@a:example.test"), "D", "token"))

    def is_idle(self) -> bool:
        """Whether it has done nothing for a while, but has done what a start takes."""
        used = sum(int(each) for each in Path(f"/proc/{self.pid}/stat").read_text().split()[13:15])
        if used != self._used[0]:
            self._used = used, time.monotonic()
        return used > 2 and time.monotonic() - self._used[1] > 1

    def ends(self, number: signal.Signals, *, times: int = 1, within_s: float = SOON_S, ignored: bool = False) -> str:
        """Start, wait until it waits, tell it to end, and return what it said."""
        env = {**os.environ, "MXRTC_STATE": str(self.folder / "state"), **self.env}
        trap = "trap '' INT; " if ignored else ""
        process = subprocess.Popen(
            [*self.prefix, "sh", "-c", f'{trap}exec "$@"', "sh", BIN / self.program, *self.command],
            env=env, stdin=self.stdin, stdout=self.stdout, stderr=self.stderr,
        )  # fmt: skip
        self.pid = process.pid
        try:
            until(lambda: self.waits() or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            began = time.monotonic()
            for each in range(times):
                if each:
                    time.sleep(0.2)
                process.send_signal(number)
            _, said = process.communicate(timeout=LIMIT_S)
            assert time.monotonic() - began < within_s
        finally:
            process.kill()
            process.communicate()
        words = (said or b"").decode()
        assert process.returncode == 130, words
        assert "Traceback" not in words
        return words


@contextmanager
def silent_server(waiting: Waiting) -> Iterator[None]:
    """A homeserver that takes connections and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server, ExitStack() as held:
        server.setblocking(False)

        def asked() -> bool:
            try:
                connection, _ = server.accept()
            except BlockingIOError:
                return False
            held.enter_context(connection)
            return True

        waiting.waits = asked
        waiting.logged_in(f"http://127.0.0.1:{server.getsockname()[1]}")
        yield


@contextmanager
def closing_server(waiting: Waiting) -> Iterator[None]:
    """A homeserver that ends each connection, so that there are pauses between attempts."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        asked = 0

        def asks_again() -> bool:
            nonlocal asked
            with suppress(BlockingIOError):
                server.accept()[0].close()
                asked += 1
            return asked > 1

        waiting.waits = asks_again
        waiting.logged_in(f"http://127.0.0.1:{server.getsockname()[1]}")
        yield


@contextmanager
def silent_resolver(waiting: Waiting) -> Iterator[None]:
    """A name server that does not answer; in a mount namespace with a file that names it."""
    # An address of this process alone: the port is the same for all that are tested on this machine.
    pid = os.getpid()
    address = f"127.{1 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((address, 53))
        server.setblocking(False)

        def asked() -> bool:
            with suppress(BlockingIOError):
                return bool(server.recv(512))
            return False

        resolver = waiting.folder / "resolv.conf"
        resolver.write_text(f"nameserver {address}\noptions timeout:30 attempts:5\n")
        mounted = f'mount --bind {resolver} "$(readlink -f /etc/resolv.conf)" && exec "$@"'
        waiting.prefix = ["unshare", "-m", "sh", "-c", mounted, "sh"]
        waiting.waits = asked
        waiting.logged_in("http://matrix.example.test:8008")
        yield


@contextmanager
def endless_input(waiting: Waiting) -> Iterator[None]:
    """Standard input that has begun and goes on for ever."""
    reading, writing = os.pipe()
    os.write(writing, b"x")
    waiting.stdin = reading
    waiting.waits = lambda: struct.unpack("i", fcntl.ioctl(reading, termios.FIONREAD, b"\0" * 4))[0] == 0
    waiting.logged_in("http://127.0.0.1:9")
    yield
    os.close(reading)
    os.close(writing)


@contextmanager
def hanging_disk(waiting: Waiting) -> Iterator[None]:
    """A file system whose other side answers nothing, as an NFS server that is away."""
    folder = waiting.folder / "hangs"
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0".encode()
    assert libc.mount(b"hangs", str(folder).encode(), b"fuse", 0, options) == 0, os.strerror(ctypes.get_errno())
    _, opcode, unique = struct.unpack_from("=IIQ", os.read(device, 1 << 17))
    assert opcode == FUSE_INIT
    answer = struct.pack("=IIIIHHII32x", 7, 31, 0, 0, 12, 9, 4096, 1)
    os.write(device, struct.pack("=IiQ", 16 + len(answer), 0, unique) + answer)
    # What is asked next is never even read: whoever waits for that can still be killed, as with NFS.
    asked = select.poll()
    asked.register(device, select.POLLIN)
    waiting.waits = lambda: bool(asked.poll(0))
    waiting.logged_in("http://127.0.0.1:9")
    try:
        yield
    finally:
        os.close(device)
        assert libc.umount2(str(folder).encode(), 2) == 0, os.strerror(ctypes.get_errno())


@contextmanager
def locked_database(waiting: Waiting) -> Iterator[None]:
    """Another program holds what the keys of the device are kept in, so that a thread waits."""
    waiting.logged_in("http://127.0.0.1:9")
    path = waiting.folder / "state" / "crypto.db"
    database = sqlite3.connect(path, isolation_level=None)
    path.chmod(0o600)
    database.execute("BEGIN EXCLUSIVE")
    key = waiting.folder / "state" / "crypto.key"
    waiting.waits = lambda: key.exists() and waiting.is_idle()
    yield
    database.close()


def full() -> tuple[int, int]:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, bytes(4096))
    os.set_blocking(writing, True)
    return reading, writing


@contextmanager
def full_pipe(waiting: Waiting) -> Iterator[None]:
    """Standard error that nobody reads, full already, at a homeserver that does not answer."""
    reading, writing = full()
    waiting.stderr = writing
    with silent_server(waiting):
        yield
    os.close(reading)
    os.close(writing)


@contextmanager
def full_output(waiting: Waiting) -> Iterator[None]:
    """Standard output for data that nobody reads."""
    reading, writing = full()
    waiting.stdout = writing
    waiting.waits = waiting.is_idle
    yield
    os.close(reading)
    os.close(writing)


@contextmanager
def stopped_terminal(waiting: Waiting) -> Iterator[None]:
    """Ctrl-S at the terminal that messages go to."""
    leader, follower = pty.openpty()
    termios.tcflow(follower, termios.TCOOFF)
    waiting.stderr = follower
    with silent_server(waiting):
        yield
    termios.tcflow(follower, termios.TCOON)
    os.close(leader)
    os.close(follower)


Point = Callable[[Waiting], AbstractContextManager[None]]
HANGS: list[list[str]] = [
    ["login", "@a:example.test", "--homeserver", "{server}", "--password-file", "{password}"],
    ["logout"],
    ["ls"],
    ["ls", "build/share:"],
    ["connect", "build", "-L", "0"],
    ["nc", "build/echo"],
    ["ping", "build"],
    ["request", "build/echo"],
    ["devices"],
    ["trust", "build"],
    ["verify"],
    ["status"],
    ["send", "/etc/hostname", "build/inbox"],
    ["get", "build/share", "-o", "{folder}/got"],
    ["--signal", "room", "ls"],
]
OTHERS: list[tuple[Point, list[str]]] = [
    (closing_server, ["connect", "build", "-L", "0"]),
    (closing_server, ["request", "build/echo"]),
    (locked_database, ["nc", "build/echo"]),
    (full_pipe, ["ping", "build"]),
    (stopped_terminal, ["ls"]),
    (full_output, ["--help"]),
    (endless_input, ["send", "-", "build/inbox", "--name", "x"]),
    (endless_input, ["login", "@a:example.test", "--password-file", "-"]),
]


@pytest.mark.parametrize("number", range(len(HANGS)), ids=lambda number: " ".join(HANGS[number][:3]))
def test_a_homeserver_that_does_not_answer(number: int, tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    with silent_server(waiting):
        login = json.loads((tmp_path / "state" / "login.json").read_text())
        (tmp_path / "password").write_text("secret")
        names = {"server": login["homeserver"], "password": str(tmp_path / "password"), "folder": str(tmp_path)}
        waiting.command = [each.format(**names) for each in HANGS[number]]
        waiting.ends(SIGNALS[number % 2])


@pytest.mark.parametrize("each", SIGNALS)
@pytest.mark.parametrize(("point", "command"), OTHERS, ids=[f"{p.__name__}-{c[0]}" for p, c in OTHERS])
def test_what_else_it_may_wait_for(point: Point, command: list[str], each: signal.Signals, tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    waiting.command = command
    with point(waiting):
        waiting.ends(each)


@pytest.mark.parametrize("each", SIGNALS)
def test_the_commands_of_admins_end_at_once(each: signal.Signals, tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    waiting.program = "mxrtc-bridge"
    with silent_server(waiting):
        address = json.loads((tmp_path / "state" / "login.json").read_text())["homeserver"]
        config = {
            "version": 2,
            "homeserver": {"address": address, "domain": "example.test"},
            "appservice": {"listen": "127.0.0.1:1", "as_token": "as" * 24, "hs_token": "hs" * 24},
            "database": f"sqlite:{tmp_path / 'bridge.db'}",
            "peers": {"build": {"services": {"unused": {"target": "tcp:127.0.0.1:1"}}}},
            "grants": [],
        }
        path = tmp_path / "config.yaml"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        waiting.command = ["check", "-c", str(path)]
        waiting.ends(each)


@needs_root
@pytest.mark.parametrize(
    "command", [["ls"], ["--account", "b", "login", "@a:matrix.example.test", "--password-file", "/etc/hostname"]]
)
def test_a_name_server_that_does_not_answer(command: list[str], tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    waiting.command = command
    with silent_resolver(waiting):
        waiting.ends(signal.SIGTERM)


@needs_root
def test_a_disk_that_does_not_answer(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    waiting.command = ["send", str(tmp_path / "hangs" / "file"), "build/inbox"]
    with hanging_disk(waiting):
        waiting.ends(signal.SIGTERM)


@needs_root
def test_a_disk_that_does_not_answer_holds_not_even_the_main_thread(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    waiting.command = ["status"]
    waiting.env = {"XDG_STATE_HOME": str(tmp_path / "hangs"), "MXRTC_STATE": ""}
    with hanging_disk(waiting):
        waiting.ends(signal.SIGINT)


@needs_root
def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    waiting.command = ["send", str(tmp_path / "hangs" / "file"), "build/inbox"]
    with hanging_disk(waiting):
        waiting.ends(signal.SIGINT, times=2, within_s=0.6)


def test_a_signal_that_the_parent_ignores_counts(tmp_path: Path) -> None:
    waiting = Waiting(tmp_path)
    waiting.command = ["send", "-", "build/inbox", "--name", "x"]
    with endless_input(waiting):
        waiting.ends(signal.SIGINT, ignored=True)


@pytest.mark.parametrize("each", SIGNALS)
def test_a_prompt_for_a_password_leaves_the_terminal_as_it_was(each: signal.Signals, tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), PasswordsAlone) as homeserver:
        threading.Thread(target=homeserver.serve_forever, daemon=True).start()
        ends_at_the_prompt(each, tmp_path, f"http://127.0.0.1:{homeserver.server_port}")
        homeserver.shutdown()


class PasswordsAlone(BaseHTTPRequestHandler):
    """A homeserver that offers nothing but a login by password."""

    def do_GET(self) -> None:
        answers = {"versions": {"versions": ["v1.11"]}, "login": {"flows": [{"type": "m.login.password"}]}}
        answer = answers.get(self.path.rpartition("/")[2])
        body = json.dumps(answer or {"errcode": "M_UNRECOGNIZED"}).encode()
        self.send_response(404 if answer is None else 200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def ends_at_the_prompt(each: signal.Signals, tmp_path: Path, homeserver: str) -> None:
    leader, follower = pty.openpty()
    before = termios.tcgetattr(follower)
    pid = os.fork()
    if pid == 0:
        os.login_tty(follower) if hasattr(os, "login_tty") else _login_tty(follower)
        env = {**os.environ, "MXRTC_STATE": str(tmp_path / "state")}
        os.execve(BIN / "mxrtc", ["mxrtc", "login", "@a:example.test", "--homeserver", homeserver], env)
    shown = b""
    while b"Password of" not in shown:
        shown += os.read(leader, 1000)
    until(lambda: not termios.tcgetattr(follower)[3] & termios.ECHO)
    began = time.monotonic()
    os.kill(pid, each)
    _, status = os.waitpid(pid, 0)
    assert time.monotonic() - began < SOON_S
    assert os.waitstatus_to_exitcode(status) == 130
    assert termios.tcgetattr(follower) == before
    os.close(leader)
    os.close(follower)


def _login_tty(follower: int) -> None:
    os.setsid()
    fcntl.ioctl(follower, termios.TIOCSCTTY, 0)
    for number in range(3):
        os.dup2(follower, number)


@pytest.mark.parametrize("each", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(("side", "command"), [("client", "status"), ("bridge", "check")])
def test_before_anything_is_loaded_a_signal_ends_it_in_silence(
    side: str, command: str, each: signal.Signals, tmp_path: Path
) -> None:
    program = f"from mxrtc_bridge.cli.{side}.entry import main; main()"
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-c", program, command],
        env={**os.environ, "MXRTC_STATE": str(tmp_path)}, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    while b"mxrtc_bridge.cli.shutdown" not in (line := process.stderr.readline()):
        assert line
    while b"click" not in (line := process.stderr.readline()):
        assert line
    began = time.monotonic()
    process.send_signal(each)
    said = process.stderr.read()
    assert process.wait(LIMIT_S) == 130
    assert time.monotonic() - began < SOON_S
    assert b"Traceback" not in said
    process.stderr.close()
