"""What the end-to-end tests of files share: trees, digests, and what the commands report of themselves."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.e2e.world import payload

MIB = 1 << 20
STATE = ".mxrtc"


def make(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def sparse_file(path: Path, size: int) -> Path:
    """Holes, but for some blocks that tell one place from another."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset in range(0, size, 16 * MIB):
            file.seek(min(offset + offset // 16, size - 1000))
            file.write(payload(1000))
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digests(root: Path) -> dict[str, str]:
    """Path and SHA-256 of everything below ``root`` that is not the state of a drop box."""
    return {
        str(path.relative_to(root)): digest(path)
        for path in sorted(root.rglob("*"))
        if STATE not in path.relative_to(root).parts and path.is_file()
    }


def objects(out: bytes, kind: str) -> list[dict[str, Any]]:
    """What a command with ``--json`` has said of one kind; a last line that was cut short does not count."""
    lines = out.decode().split("\n")[:-1]
    return [each for each in map(json.loads, lines) if each["kind"] == kind]


async def until_moved(process: ManagedProcess, size: int) -> None:
    """Wait until a command with ``--json`` has reported that ``size`` bytes are done."""
    mark = process.mark()
    while True:
        found = await process.wait_for_line(r'"kind": "progress".*"bytes_done": (\d+)', 60, after=mark)
        if int(found[1]) >= size:
            return
        mark = process.mark()


def resident_bytes(process: ManagedProcess) -> int:
    """Resident memory of a process, from the kernel; 0 once it has ended."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS:")), 0)
