"""A PostgreSQL of the tests' own, from the distribution's package: started once, emptied before each test."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    folder = Path(tempfile.mkdtemp(prefix="mxrtc-postgres-"))
    # It refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    if os.geteuid() == 0:
        shutil.chown(folder, user, user)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    data, log = folder / "data", folder / "log"
    options = {"user": user, "cwd": folder} if os.geteuid() == 0 else {"cwd": folder}
    subprocess.run(
        [programs / "initdb", "-D", data, "-U", "test", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C"],
        check=True,
        stdout=subprocess.DEVNULL,
        **options,  # type: ignore[call-overload]
    )
    control = [programs / "pg_ctl", "-D", data, "-w", "-l", log]
    settings = f"-h 127.0.0.1 -p {port} -k {folder} -F"
    try:
        subprocess.run([*control, "-o", settings, "start"], check=True, stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
        try:
            yield f"postgres://test@127.0.0.1:{port}/postgres"
        finally:
            subprocess.run([*control, "-m", "immediate", "stop"], check=True, stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
    finally:
        shutil.rmtree(folder)
