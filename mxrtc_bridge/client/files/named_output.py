"""``get REMOTE:a.pdf -o b.pdf``: one file under a name of one's own, as with ``cp``.

Whether a file or a directory was asked for is known when the other side has named the first entry. So the place is
opened then: for a file the directory that it gets into, for anything else a directory of that name.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.events import Held
from mxrtc_bridge.core.files.messages import EntryKind, FileCode, FileEntry, FileError
from mxrtc_bridge.core.files.patterns import has_wildcards
from mxrtc_bridge.sinks.files.receive.incoming_file import IncomingFile
from mxrtc_bridge.sinks.files.transfer_ports import ReceivedFrom
from mxrtc_bridge.sinks.files.user_paths import UserDestination


def may_name_a_file(output: str, asked: str) -> bool:
    """Whether ``-o OUTPUT`` may be the name of a file, as with ``cp``: where one thing was asked for by its name.

    What ends in a slash is a directory to be made, and what is a directory is one.
    """
    return bool(asked) and not (has_wildcards(asked) or output.endswith("/") or Path(output).is_dir())


class NamedOutput:
    """Receives under the name ``output``. Implements :class:`mxrtc_bridge.engine.file_ports.FileReceiver`.

    Args:
        output: the name, of a file or of a directory.
        sender: as of :class:`ReceivedFrom`.
        open_at: makes the destination for a directory; what is asked for is its second argument.
        asked: of the other side.
    """

    def __init__(self, output: Path, sender: str, asked: str, open_at: Callable[[Path, str], UserDestination]) -> None:
        self._output = output
        self._sender = sender
        self._asked = asked
        self._open_at = open_at
        self._name = ""
        self._destination: UserDestination | None = None
        self._receiver: ReceivedFrom | None = None
        self._turn = asyncio.Lock()

    async def begin(self, entry: FileEntry) -> IncomingFile | Held:
        """Begin to receive a file or directory; the first one says which of the two the name is for.

        Raises:
            FileError: it is not received.
        """
        async with self._turn:
            if self._receiver is None:
                self._receiver = await self._open_for(entry)
        return await self._receiver.begin(replace(entry, path=self._name) if self._name else entry)

    async def close(self) -> None:
        """Let go, and leave nothing beside what is complete."""
        if self._destination is not None:
            await self._destination.close(tidy=True)

    async def _open_for(self, entry: FileEntry) -> ReceivedFrom:
        is_file = entry.kind is EntryKind.FILE and "/" not in entry.path
        place, asked = (self._output.parent, self._output.name) if is_file else (self._output, self._asked)
        destination = self._open_at(place, asked)
        try:
            await destination.open()
        except LocalError as error:
            raise FileError(FileCode.DENIED, str(error)) from error
        self._destination = destination
        self._name = self._output.name if is_file else ""
        return ReceivedFrom(destination, self._sender)
