"""Fetching one file for standard output."""

from __future__ import annotations

import os
import select

from mxrtc_bridge.config.private_files import exposure, open_private_file
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.events import Held
from mxrtc_bridge.core.files.messages import EntryKind, FileCode, FileEntry, FileError
from mxrtc_bridge.engine.outside import in_new_thread
from mxrtc_bridge.sinks.files.receive.incoming_file import IncomingFile
from mxrtc_bridge.sinks.files.transfer_ports import ReceivedFrom
from mxrtc_bridge.sinks.files.user_paths import UserDestination
from mxrtc_bridge.system import files

_POUR_BYTES = 256 * 1024


class SingleFile(ReceivedFrom):
    """Takes one file, and refuses everything else before any of it is sent."""

    def __init__(self, destination: UserDestination, sender: str) -> None:
        super().__init__(destination, sender)
        self._destination = destination
        self._only: str | None = None

    async def begin(self, entry: FileEntry) -> IncomingFile | Held:
        if entry.kind is EntryKind.DIRECTORY:
            raise FileError(FileCode.LIMIT, "standard output takes a file, and this is a directory")
        if self._only not in (None, entry.path):
            raise FileError(FileCode.LIMIT, "standard output takes one file only")
        self._only = entry.path
        return await super().begin(entry)

    def open_received(self) -> int | None:
        """The descriptor of the file that was received; None if none was. Blocks for a moment.

        Raises:
            LocalError: others can write to the folder, or the file in it is not ours: TMPDIR is no place for this.
        """
        root = self._destination.box.root
        if (why := exposure(os.fstat(root.descriptor))) is not None:
            raise LocalError(f"the temporary folder cannot be trusted: {why}. Choose another one with TMPDIR")
        with files.scan(root.descriptor) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        return (
            open_private_file(root.descriptor, names[0], os.O_RDONLY, "what was fetched") if len(names) == 1 else None
        )


async def pour(source: int, descriptor: int) -> None:
    """Write a file to a descriptor that may block for ever, without keeping anybody from ending this program.

    Args:
        source: the descriptor of the file; closed at the end.
        descriptor: where to.

    Raises:
        OSError: it cannot be written to.
    """
    # Not in one of the loop's own threads: those are waited for at the end of the program.
    await in_new_thread(_pour, source, descriptor)


def _pour(source: int, descriptor: int) -> None:
    with os.fdopen(source, "rb") as file:
        while data := file.read(_POUR_BYTES):
            view = memoryview(data)
            while view:
                try:
                    view = view[os.write(descriptor, view) :]
                except BlockingIOError:
                    # Somebody who shares the terminal or the pipe has set it so.
                    select.select((), (descriptor,), ())
