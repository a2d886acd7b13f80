"""A drop box: a directory that people put files into.

What a stranger can do to it is bounded by :class:`~mxrtc_bridge.core.access.targets.FileLimits`. Nothing is ever
overwritten, nothing outside the directory is ever touched, and everything that appears in it is whole.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge.config.private_files import closing
from mxrtc_bridge.core.access.targets import FileLimits
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.names import STATE_DIRECTORY, NamePolicy
from mxrtc_bridge.core.files.patterns import NamePattern
from mxrtc_bridge.sinks.files.receive.incoming_file import MAX_MEMORY_BYTES
from mxrtc_bridge.sinks.files.receive.publisher import Naming
from mxrtc_bridge.sinks.files.receive.receipts import Receipt, read_receipts
from mxrtc_bridge.sinks.files.receive.receiver import RECOUNT_EVERY_S, DirectoryReceiver, ReceivePolicy
from mxrtc_bridge.sinks.files.rooted_dir import RootedDirectory

LEDGER_PATH = (STATE_DIRECTORY, "ledger.jsonl")


class DropBox(DirectoryReceiver):
    """The drop box ``path``; what it does is said at its base, :class:`DirectoryReceiver`.

    Args:
        path: the directory; made if it does not exist.
        limits: what it takes.
        names: what becomes of their names.
        allowed: names that are taken; empty means all.
        mode: of files; None for the owner's alone, unless the directory says something else.
        group: of what arrives; None for the one that the kernel gives.
        recount_every_s: see its base.
        max_memory_bytes: see its base.
    """

    def __init__(
        self,
        path: Path,
        limits: FileLimits | None = None,
        *,
        names: NamePolicy = NamePolicy.KEEP,
        allowed: tuple[NamePattern, ...] = (),
        mode: int | None = None,
        group: str | None = None,
        recount_every_s: float = RECOUNT_EVERY_S,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
    ) -> None:
        naming = Naming(names.rules, sanitise=names is NamePolicy.SANITISE, remedy=names.remedy)
        super().__init__(
            path,
            ReceivePolicy(naming, limits or FileLimits(), allowed, mode=mode, group=group),
            recount_every_s=recount_every_s,
            max_memory_bytes=max_memory_bytes,
        )


@dataclass(frozen=True, slots=True)
class BoxEntry:
    """One line of the ledger, for the admin."""

    receipt: Receipt
    present: bool
    """Whether the file is still in the box, unchanged in size."""


def read_box(path: Path) -> Iterator[BoxEntry]:
    """Yield what was put into a drop box and by whom, oldest first; works while a bridge receives into it.

    Blocks. A publication that a crash prevented is listed as not present.

    Raises:
        LocalError: the directory cannot be read, or is not a drop box.
    """
    with contextlib.closing(RootedDirectory(path)) as root:
        try:
            ledger = root.open(LEDGER_PATH, os.O_RDONLY)
        except OSError as error:
            words = os.strerror(error.errno or 0)
            raise LocalError(f"{str(path)[:200]!a} has no ledger of received files ({words})") from error
        with closing(ledger):
            for _, receipt in read_receipts(ledger):
                yield BoxEntry(receipt, receipt.matches(root.status(receipt.name.split("/"))))
