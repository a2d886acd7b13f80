"""Real proxies, as networks have them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from mxrtc_bridge.demo.processes import ManagedProcess, PortReservation


@contextlib.asynccontextmanager
async def tinyproxy(folder: Path, *more: str) -> AsyncIterator[tuple[str, ManagedProcess]]:
    """A proxy of HTTP; gives its host and port, and the process."""
    program = shutil.which("tinyproxy")
    assert program is not None, "tinyproxy is not installed; .ci/packages test installs it"
    reservation = PortReservation()
    lines = (f"Port {reservation.port}", "Listen 127.0.0.1", "Timeout 60", "MaxClients 50", "Allow 127.0.0.1", *more)
    (folder / "tinyproxy.conf").write_text("\n".join(lines) + "\n")
    reservation.close()
    process = ManagedProcess("tinyproxy", [program, "-d", "-c", folder / "tinyproxy.conf"], folder=folder)
    async with process:
        await _listens(reservation.port)
        yield f"127.0.0.1:{reservation.port}", process


@contextlib.asynccontextmanager
async def microsocks(folder: Path, *more: str) -> AsyncIterator[tuple[str, ManagedProcess]]:
    """A proxy of SOCKS 5; gives its host and port, and the process."""
    program = shutil.which("microsocks")
    assert program is not None, "microsocks is not installed; .ci/packages test installs it"
    reservation = PortReservation()
    reservation.close()
    command = [program, "-i", "127.0.0.1", "-p", str(reservation.port), *more]
    async with ManagedProcess("microsocks", command, folder=folder) as process:
        await _listens(reservation.port)
        yield f"127.0.0.1:{reservation.port}", process


async def _listens(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.05)
