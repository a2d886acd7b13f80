"""A PostgreSQL of the tests' own, from the distribution's package: started once, emptied before each test."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mxrtc_bridge.demo.processes import PortReservation

GIVEN_URL = os.environ.get("MXRTC_TEST_POSTGRES", "")
"""A database that may be emptied, where it is not to be started by the tests."""


def find_programs() -> Path | None:
    """The folder of ``initdb`` and ``postgres``, which Debian keeps out of the search path; None if not installed."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    usable = [folder for folder in folders if (folder / "initdb").exists() and (folder / "postgres").exists()]
    return usable[-1] if usable else None


@contextmanager
def running(programs: Path) -> Iterator[str]:
    """Run a server for the length of a ``with`` block; gives the URL of an empty database."""
    with started(programs) as server:
        yield server.url


class Server:
    """A server that runs; made by :func:`started`."""

    def __init__(self, programs: Path, folder: Path, user: str, port: int) -> None:
        self.url = f"postgres://test@127.0.0.1:{port}/postgres"
        self._control = [programs / "pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log"]
        self._settings = f"-h 127.0.0.1 -p {port} -k {folder} -F"
        self._options = {"user": user, "cwd": folder} if os.geteuid() == 0 else {"cwd": folder}

    def start(self) -> None:
        """Start it, with what it has stored before, and wait until it answers."""
        self._run(*self._control, "-o", self._settings, "start")

    def kill(self) -> None:
        """End it as a crash would: without a word to its clients, and with its log to be replayed at the next start."""
        self._run(*self._control, "-m", "immediate", "stop")

    def _run(self, *command: str | Path) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **self._options)  # type: ignore[call-overload]


@contextmanager
def started(programs: Path) -> Iterator[Server]:
    """Run a server that may be killed and started again meanwhile, for the length of a ``with`` block."""
    folder = Path(tempfile.mkdtemp(prefix="mxrtc-postgres-"))
    # It refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        shutil.chown(folder, user, user)
    reserved = PortReservation()
    server = Server(programs, folder, user, reserved.port)
    try:
        server._run(
            *(programs / "initdb", "-D", folder / "data", "-U", "test", "-A", "trust"),
            *("--no-sync", "-E", "UTF8", "--locale=C"),
        )
        server.start()
        try:
            yield server
        finally:
            server.kill()
    finally:
        reserved.close()
        shutil.rmtree(folder)
