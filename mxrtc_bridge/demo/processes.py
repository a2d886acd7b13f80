"""Child processes for the demonstration, the tests and the benchmark.

A child must never outlive the run that started it, must never block because nobody reads what it says, and must be
stopped by its own process id and by nothing wider.

How it works: output goes to two files instead of pipes, so a child can say as much as it likes, everything is still
there after a crash, and the object belongs to no event loop (a homeserver shared by a whole test session outlives
many). Waiting is polling, every 20 ms. A small launcher asks the kernel to end the child when its parent thread
dies (``PR_SET_PDEATHSIG``) and then becomes the program; ``preexec_fn`` would do the same, but runs Python between
fork and exec, which may hang in a process that has threads.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, Protocol, Self

from mxrtc_bridge.core.errors import LocalError

POLL_INTERVAL_S = 0.02
"""How often a wait looks again."""

_READ_BYTES = 1 << 20
"""How much of an output file is read in one piece."""

_LINE_BYTES = 1 << 16
"""The most that is kept of a line that does not end."""

_TAIL_BYTES = 1 << 16
"""How much of the end of a file :func:`last_lines` reads."""

_PR_SET_PDEATHSIG = 1

_LAUNCHER = f"""
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
try:
    os.execvp(sys.argv[2], sys.argv[2:])
except OSError as error:
    sys.exit(f"{{sys.argv[2]}} cannot be run: {{error.strerror}}")
"""

Stream = Literal["stdout", "stderr"]


class ProcessError(LocalError):
    """A child process did not start, ended too early, or did not say in time what it was waited for."""


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the output of a child, to look only at what comes after it."""

    stdout: int = 0
    """Bytes of standard output before the mark."""

    stderr: int = 0
    """Bytes of standard error before the mark."""


class PortReservation(socket.socket):
    """A TCP port on loopback that stays ours between choosing it and a server listening on it.

    The port is bound but never listened on. Linux lets a second socket bind and listen there as long as both set
    ``SO_REUSEADDR``, which Twisted, asyncio and OpenSSH do; nobody who asks for "any free port" is given it. So the
    number can be written into other programs' settings before its server runs, and survives restarts of the server.
    """

    def __init__(self) -> None:
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.bind(("127.0.0.1", 0))
        self.port: int = self.getsockname()[1]


def guarded_command(argv: Sequence[str | Path]) -> list[str]:
    """Return the command line that runs ``argv`` and has the kernel kill it when the calling thread dies.

    For children that need pipes of their own and are therefore started by ``asyncio.create_subprocess_exec``.
    """
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *map(str, argv)]


class Child(Protocol):
    """A started program, which leads a session and a process group of its own."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs.

        The child is looked at without being collected: until then its id names nobody else, so that the kill of its
        process group cannot meet strangers.
        """

    def collect(self) -> int:
        """Wait for the end, return the exit code, and let the id go."""


class GuardedChild:
    """A process of its own that the kernel kills with the calling thread.

    Args:
        argv: the program and its arguments.
        options: as of :class:`subprocess.Popen`.
    """

    def __init__(self, argv: Sequence[str | Path], **options: Any) -> None:
        self._process = subprocess.Popen(guarded_command(argv), start_new_session=True, **options)
        self.pid = self._process.pid

    def poll(self) -> int | None:
        found = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is None:
            return None
        return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status

    def collect(self) -> int:
        return self._process.wait()


class ManagedProcess:
    """One run of a child program, its output, and its end.

    Start it from a thread that lives as long as the child should (the main thread does): the kernel ends the child
    with that thread.

    Args:
        name: what error messages call it, and the stem of its two output files.
        argv: the program and its arguments.
        folder: where ``<name>.stdout`` and ``<name>.stderr`` are written; the files are started afresh.
        env: variables that are added to, or replace, those of this process.
        cwd: the child's working directory.
        stdin: bytes that the child reads, then end of file; empty for none.
        spawn: what starts the child; called like :class:`GuardedChild`.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str | Path],
        *,
        folder: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdin: bytes = b"",
        spawn: Callable[..., Child] = GuardedChild,
    ) -> None:
        self.name = name
        self._argv = argv
        self._env = {**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})}
        self._cwd = cwd
        self._stdin = stdin
        self._paths: dict[Stream, Path] = {"stdout": folder / f"{name}.stdout", "stderr": folder / f"{name}.stderr"}
        self._stdin_path = folder / f"{name}.stdin"
        self._spawn = spawn
        self._child: Child | None = None
        self._exit_code: int | None = None

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.terminate()

    @property
    def pid(self) -> int:
        """The process id, which is also the id of the child's process group."""
        return self._started().pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal, or None while the child runs."""
        return self._started().poll() if self._exit_code is None else self._exit_code

    def start(self) -> None:
        """Run the program.

        Raises:
            ProcessError: it was started before; a second run needs a second object.
        """
        if self._child is not None:
            raise ProcessError(f"{self.name} was started before")
        self._stdin_path.write_bytes(self._stdin)
        with (
            self._stdin_path.open("rb") as stdin,
            self._paths["stdout"].open("wb") as stdout,
            self._paths["stderr"].open("wb") as stderr,
        ):
            self._child = self._spawn(
                self._argv, stdin=stdin, stdout=stdout, stderr=stderr, env=self._env, cwd=self._cwd
            )

    def output(self, stream: Stream = "stdout") -> bytes:
        """Return everything that the child has written to one of its streams."""
        return self._paths[stream].read_bytes()

    def lines(self, stream: Stream | None = None) -> list[str]:
        """Return the lines written so far, of one stream or of standard output and then standard error."""
        streams = self._paths if stream is None else (stream,)
        return [line for each in streams for line in self.output(each).decode(errors="replace").splitlines()]

    def tail(self, count: int = 20) -> str:
        """Return the last lines of both streams as one text, for a message to a person."""
        parts: list[str] = []
        for path in self._paths.values():
            parts += last_lines(path, count)
        return "\n".join(parts) or "(no output)"

    def mark(self) -> Mark:
        """Return the present end of the output, for ``wait_for_line(..., after=mark)``."""
        return Mark(**{stream: path.stat().st_size for stream, path in self._paths.items()})

    async def wait_for_line(self, pattern: str, timeout_s: float = 30.0, *, after: Mark | None = None) -> re.Match[str]:
        """Wait until a whole line of either stream contains ``pattern``, and return the match.

        Args:
            pattern: a regular expression, searched for in each line.
            timeout_s: seconds after which waiting is given up.
            after: only lines after this mark count; by default all since the start.

        Raises:
            ProcessError: the child ended or the time passed without such a line; the message has its last lines.
        """
        regex = re.compile(pattern)
        mark = after or Mark()
        readers = [
            _LineReader(self._paths["stdout"].open("rb"), mark.stdout),
            _LineReader(self._paths["stderr"].open("rb"), mark.stderr),
        ]
        deadline = time.monotonic() + timeout_s
        try:
            while True:
                ended = self.returncode is not None  # asked before reading: what it said last still counts
                for line in (line for reader in readers for line in reader.read(ended=ended)):
                    if found := regex.search(line):
                        return found
                if ended:
                    raise ProcessError(
                        f"{self.name} ended with exit code {self.returncode} without a line like {pattern!r}; "
                        f"its last lines:\n{self.tail()}"
                    )
                if time.monotonic() > deadline:
                    raise ProcessError(
                        f"{self.name} wrote no line like {pattern!r} in {timeout_s:g} s; its last lines:\n{self.tail()}"
                    )
                await asyncio.sleep(POLL_INTERVAL_S)
        finally:
            for reader in readers:
                reader.close()

    async def wait(self, timeout_s: float = 30.0) -> int:
        """Wait until the child ends by itself and return its exit code.

        Raises:
            ProcessError: it still runs after ``timeout_s`` seconds; it is left running.
        """
        if not await self._ended_within(timeout_s):
            raise ProcessError(f"{self.name} still runs after {timeout_s:g} s; its last lines:\n{self.tail()}")
        return self.kill()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the child alone; nothing happens when it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    async def terminate(self, grace_s: float = 5.0) -> int:
        """Ask the child to end, kill its process group after ``grace_s`` seconds, and return the exit code.

        A child that has ended already is only cleaned up after, so calling this twice is allowed.
        """
        self.send_signal(signal.SIGTERM)
        try:
            await self._ended_within(grace_s)
        finally:
            self.kill()
        return self.kill()

    def kill(self) -> int:
        """Kill whatever is left of the child's process group, collect the child, and return its exit code.

        This blocks for the few milliseconds that the kernel needs, so that a cancelled task can still clean up.
        """
        child = self._started()
        if self._exit_code is None:
            os.killpg(child.pid, signal.SIGKILL)
            self._exit_code = child.collect()
        return self._exit_code

    def _started(self) -> Child:
        if self._child is None:
            raise ProcessError(f"{self.name} was not started")
        return self._child

    async def _ended_within(self, timeout_s: float) -> bool:
        deadline = time.monotonic() + timeout_s
        while self.returncode is None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(POLL_INTERVAL_S)
        return True


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of a file, however long it is."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()[-count:]


class _LineReader:
    """Whole lines from a file that still grows."""

    def __init__(self, file: IO[bytes], offset: int) -> None:
        self._file = file
        self._partial = b""
        file.seek(offset)

    def read(self, *, ended: bool) -> list[str]:
        """Return the lines that became whole; with ``ended`` a last line without its newline counts too."""
        lines: list[bytes] = []
        while block := self._file.read(_READ_BYTES):
            *whole, partial = (self._partial + block).split(b"\n")
            lines += whole
            self._partial = partial[-_LINE_BYTES:]
        if ended and self._partial:
            lines.append(self._partial)
            self._partial = b""
        return [line.decode(errors="replace") for line in lines]

    def close(self) -> None:
        self._file.close()
