"""Stories that need a process of their own: a file system that is full, a user without rights.

python -m tests.sinks.files.full_disk mount|rlimit|unprivileged DIRECTORY SIZE
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode, FileError
from tests.sinks.files.receive.senders import begun, content, files_in, finish, opened, send

CLONE_NEWNS = 0x00020000
MS_REC_PRIVATE = 0x44000


def mount_small(path: Path) -> None:
    """Mount 4 MiB at ``path``, for this process alone."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.unshare(CLONE_NEWNS) == 0
    assert libc.mount(b"none", b"/", None, MS_REC_PRIVATE, None) == 0
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(path)], check=True)


async def full(path: Path, size: int, *, by_limit: bool) -> None:
    """Fill the disk, fail, make room, go on."""
    ballast = path / "ballast"
    data = content(size)
    async with opened(path) as box:
        reception = await begun(box, "name", size)
        if by_limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (min(2_000_000, size // 2), resource.RLIM_INFINITY))
        else:
            free = os.statvfs(path).f_bavail * os.statvfs(path).f_bsize
            ballast.write_bytes(bytes(free - min(2_000_000, size // 2) // 4096 * 4096))
        with pytest.raises(FileError) as caught:
            await finish(reception, data)
        assert caught.value.code is FileCode.SPACE, caught.value
        await reception.suspend()
        assert set(files_in(path)) <= {"ballast"}
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ballast.unlink(missing_ok=True)
        again = await begun(box, "name", size)
        assert again.offset == (min(2_000_000, size // 2) // CHUNK_BYTES) * CHUNK_BYTES, again.offset
        await finish(again, data)
        assert files_in(path) == {"name": data}
        assert await send(box, "after", b"x")
    print("all as it should be")


async def unprivileged(path: Path) -> None:
    """Lose the right to write into a directory of the box, and get it back."""
    path.chmod(0o755)
    box_path = path / "box"
    box_path.mkdir()
    os.chown(box_path, 65534, 65534)
    for above in path.parents:
        if not above.stat().st_mode & 0o001:
            above.chmod(above.stat().st_mode | 0o001)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    async with opened(box_path) as box:
        (box_path / "sub").mkdir(0o500)
        with pytest.raises(FileError) as caught:
            await send(box, "sub/name", b"x")
        assert caught.value.code is FileCode.DENIED, caught.value
        assert files_in(box_path) == {}
        (box_path / "sub").chmod(0o700)
        await send(box, "sub/name", b"x")


if __name__ == "__main__":
    story, where, how_much = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    if story == "unprivileged":
        asyncio.run(unprivileged(where))
    else:
        if story == "mount":
            mount_small(where)
        asyncio.run(full(where, how_much, by_limit=story == "rlimit"))
