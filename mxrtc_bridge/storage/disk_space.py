"""How much can be written where a file is: for words about it, as whether a writing succeeds is seen by writing."""

from __future__ import annotations

from pathlib import Path

from mxrtc_bridge.system import files

LOW_BYTES = 64 * 1024 * 1024
"""Less than that is told before it is too late."""
FULL_BYTES = 256 * 1024
"""Less than that is as good as nothing: a transaction of the database takes some pages, and as many of its journal."""


def space_left(file: Path) -> int | None:
    """Bytes that a user other than root can write where ``file`` is or will be; None where that is not known."""
    for place in (file, *file.absolute().parents):
        try:
            return files.free_bytes(place)
        except FileNotFoundError:
            continue
        except OSError:
            return None
    return None


def is_full(file: Path) -> bool:
    """Whether the disk of ``file`` has no space left."""
    left = space_left(file)
    return left is not None and left < FULL_BYTES
