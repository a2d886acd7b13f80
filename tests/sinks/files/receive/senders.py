"""A sender for a store, as the machines of the protocol are: chunk after chunk, with their hashes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mxrtc_bridge.core.access.targets import FileLimits
from mxrtc_bridge.core.files.messages import CHUNK_BYTES, EntryKind, FileEntry
from mxrtc_bridge.sinks.files.receive.drop_box import DropBox
from mxrtc_bridge.sinks.files.receive.incoming_file import IncomingFile
from mxrtc_bridge.sinks.files.receive.publisher import Published
from mxrtc_bridge.sinks.files.receive.receiver import DirectoryReceiver

ALICE, BOB = "@alice:example.org", "@bob:example.org"
MTIME_MS = 1_700_000_000_123
ROOMY = FileLimits(free_floor_bytes=0)


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def entry_of(path: str, size: int, version: str = "v1") -> FileEntry:
    return FileEntry(path, EntryKind.FILE, size, MTIME_MS, version)


def directory_of(path: str) -> FileEntry:
    return FileEntry(path, EntryKind.DIRECTORY, 0, MTIME_MS)


@asynccontextmanager
async def opened(path: Path, limits: FileLimits = ROOMY, **settings: Any) -> AsyncIterator[DropBox]:
    box = DropBox(path, limits, **settings)
    await box.open()
    await box.counted()
    try:
        yield box
    finally:
        await box.close()


async def begun(
    store: DirectoryReceiver, path: str, size: int, *, version: str = "v1", sender: str = ALICE
) -> IncomingFile:
    reception = await store.begin(sender, entry_of(path, size, version))
    assert isinstance(reception, IncomingFile)
    return reception


async def write(reception: IncomingFile, data: bytes, *, upto: int | None = None, piece: int = 100_000) -> None:
    """Send ``data`` from where the reception wants it, with the hashes of the full chunks but the last."""
    end = len(data) if upto is None else upto
    at = reception.offset
    while at < end:
        size = min(piece, end - at, CHUNK_BYTES - at % CHUNK_BYTES)
        await reception.write(data[at : at + size])
        at += size
        if at % CHUNK_BYTES == 0 and at < len(data):
            number = at // CHUNK_BYTES - 1
            await reception.verify_chunk(number, sha256(data[number * CHUNK_BYTES : at]))


async def finish(reception: IncomingFile, data: bytes) -> Published:
    await write(reception, data)
    return await reception.publish(sha256(data))


async def send(
    store: DirectoryReceiver, path: str, data: bytes, *, version: str = "v1", sender: str = ALICE
) -> Published:
    reception = await store.begin(sender, entry_of(path, len(data), version))
    if isinstance(reception, Published):
        return reception
    return await finish(reception, data)


def files_in(path: Path) -> dict[str, bytes]:
    """What can be seen in a box."""
    return {name: (path / name).read_bytes() for name in names_in(path)}


def names_in(path: Path) -> Iterator[str]:
    for found in sorted(path.rglob("*")):
        name = found.relative_to(path).as_posix()
        if found.is_file() and not name.startswith(".mxrtc"):
            yield name


def partials_in(path: Path) -> list[str]:
    return sorted(found.suffix for found in (path / ".mxrtc" / "partial").iterdir())
