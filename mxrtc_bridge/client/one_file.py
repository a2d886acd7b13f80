"""Fetching one file for standard output."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path

from mxrtc_bridge.core.file_errors import FileError
from mxrtc_bridge.core.file_wire import Entry, EntryKind, FileCode
from mxrtc_bridge.core.transfer_events import Held
from mxrtc_bridge.sinks.files.jobs import ReceivedFrom
from mxrtc_bridge.sinks.files.local import Destination
from mxrtc_bridge.sinks.files.receiving import Reception

_POUR_BYTES = 256 * 1024


class OneFile(ReceivedFrom):
    """Takes one file, and refuses everything else before any of it is sent."""

    def __init__(self, destination: Destination, sender: str) -> None:
        super().__init__(destination, sender)
        self._only: str | None = None

    async def begin(self, entry: Entry) -> Reception | Held:
        if entry.kind is EntryKind.DIRECTORY:
            raise FileError(FileCode.LIMIT, "standard output takes a file, and this is a directory")
        if self._only not in (None, entry.path):
            raise FileError(FileCode.LIMIT, "standard output takes one file only")
        self._only = entry.path
        return await super().begin(entry)


async def pour(path: Path, descriptor: int) -> None:
    """Write a file to a descriptor that may block for ever, without keeping anybody from ending this program.

    Raises:
        OSError: it cannot be written to.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle(error: OSError | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)

    def work() -> None:
        error = None
        try:
            with path.open("rb") as file:
                while data := file.read(_POUR_BYTES):
                    view = memoryview(data)
                    while view:
                        view = view[os.write(descriptor, view) :]
        except OSError as caught:
            error = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, error)

    # Not one of the loop's own threads: those are waited for at the end of the program.
    threading.Thread(target=work, name="output", daemon=True).start()
    await done
