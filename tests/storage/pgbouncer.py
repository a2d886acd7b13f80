"""A PgBouncer of the tests' own before a PostgreSQL, from the distribution's package."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yarl import URL

from mxrtc_bridge.demo.processes import PortReservation

USER = "test"


@contextmanager
def pooling(url: str, mode: str, *, size: int = 20) -> Iterator[str]:
    """Stand before the server at ``url`` for the length of a ``with`` block; gives the URL that leads through it.

    Args:
        url: of a database whose user needs no password.
        mode: ``session``, ``transaction`` or ``statement``.
        size: how many connections to the server there are.
    """
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, "PgBouncer is among the packages of .ci/packages"
    server = URL(url)
    folder = Path(tempfile.mkdtemp(prefix="mxrtc-pgbouncer-"))
    with PortReservation() as reserved:
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": reserved.port,
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": folder / "users",
            "pool_mode": mode,
            "default_pool_size": size,
        }
        (folder / "users").write_text(f'"{USER}" ""\n')
        lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
        (folder / "ini").write_text(f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\n{lines}")
        # It refuses to run as root.
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        user = "postgres" if os.geteuid() == 0 else None
        with open(folder / "log", "wb") as log:
            process = subprocess.Popen([program, folder / "ini"], cwd=folder, user=user, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 20
            while "process up" not in (folder / "log").read_text():
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.01)
            yield str(server.with_port(reserved.port))
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(folder)
