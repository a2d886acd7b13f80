"""What an installation takes on the disk, and what the start of a command costs.

Each is measured in an environment that has what the wheel says it needs and nothing else. Processor time is the least
of some runs, so that it says little about what else the machine does: the user's and the system's, of one process with
all its threads, from the start of the interpreter to its end.
"""

from __future__ import annotations

import asyncio
import compileall
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from aiohttp import web

from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import UserId
from tests.catch_all import answering
from tests.clean_environment import ROOT, make_environment

RUNS = 9


async def measure_installation(folder: Path) -> dict[str, object]:
    """Megabytes (1,000,000 bytes) of files, and seconds of processor time."""
    build = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    found: dict[str, object] = {}
    for name, extras in {"client": (), "bridge": ("bridge",)}.items():
        programs = make_environment(folder / name, wheel, *extras)
        (packages,) = (folder / name).glob("lib/python*/site-packages")
        compileall.compile_dir(str(packages), quiet=2)  # as pip does
        sizes = {path: path.stat().st_size / 1e6 for path in packages.rglob("*") if path.is_file()}
        compiled = sum(size for path, size in sizes.items() if path.suffix == ".pyc")
        found[name] = {
            "files, MB": sum(sizes.values()) - compiled,
            "compiled by pip, MB": compiled,
            "start, s": await _starts(name, programs, folder),
        }
    return found


async def _starts(name: str, programs: Path, folder: Path) -> dict[str, float]:
    """Processor time of commands that load little and much; those of a user end at a refusal of the homeserver."""
    if name == "bridge":
        return {"--help": _least([programs / "mxrtc-bridge", "--help"], folder)}

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"errcode": "M_UNKNOWN_TOKEN", "error": "Unrecognised access token"}, status=401)

    state = folder / "state"
    async with answering(refuse) as address:
        StateFolder(state).save_login(Login(address, UserId("@alice:example.org"), "DEVICE", "token"))
        mxrtc = [programs / "mxrtc", "--state", state]
        return {
            "--help": _least([programs / "mxrtc", "--help"], folder),
            "status": await asyncio.to_thread(_least, [*mxrtc, "status"], folder),
            "ping": await asyncio.to_thread(_least, [*mxrtc, "ping", "build"], folder),
        }


def _least(command: Sequence[str | Path], folder: Path) -> float:
    times = []
    for _ in range(RUNS):
        process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode in {0, 2}, command
        times.append(used.ru_utime + used.ru_stime)
    return min(times)
