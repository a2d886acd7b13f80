"""The file side of one transfer: a store or a share, seen by one user for one job."""

from __future__ import annotations

from mxrtc_bridge.core.files.events import Failure, Held
from mxrtc_bridge.core.files.messages import FileCode, FileEntry, Get, Ls
from mxrtc_bridge.sinks.files.receive.incoming_file import IncomingFile
from mxrtc_bridge.sinks.files.receive.publisher import Published
from mxrtc_bridge.sinks.files.receive.receiver import DirectoryReceiver
from mxrtc_bridge.sinks.files.send.outgoing_file import OutgoingFile
from mxrtc_bridge.sinks.files.send.share import Share
from mxrtc_bridge.sinks.files.send.tree_walk import Found, TreeWalk


class ReceivedFrom:
    """Receives what ``sender`` puts into ``store``.

    Args:
        store: open.
        sender: who is charged, and who alone can go on with what is unfinished.
    """

    def __init__(self, store: DirectoryReceiver, sender: str) -> None:
        self._store = store
        self._sender = sender

    async def begin(self, entry: FileEntry) -> IncomingFile | Held:
        """Begin to receive a file; a directory, or what was received before, is there at once.

        Raises:
            FileError: it is not received.
        """
        begun = await self._store.begin(self._sender, entry)
        return Held(begun.name, begun.digest) if isinstance(begun, Published) else begun


class Selected:
    """What one job has of a share, and a walk that tells at its end which patterns nothing was found for.

    Made by :meth:`open`.
    """

    def __init__(self, share: Share, walk: TreeWalk, *, complain: bool) -> None:
        self._share = share
        self._walk = walk
        self._complain = complain

    @classmethod
    async def open(cls, share: Share, job: Get | Ls) -> Selected:
        """Find the beginning of what ``job`` wants.

        Raises:
            FileError: a pattern is none, or there is no such directory.
        """
        if isinstance(job, Ls):
            return cls(share, await share.list(job.path), complain=False)
        return cls(share, share.select(job.patterns), complain=True)

    def walk(self) -> Selected:
        """Return the walk, which is this; it can be walked once."""
        return self

    async def open_file(self, entry: FileEntry, offset: int = 0) -> OutgoingFile:
        """Open a file that the walk has found, at ``offset``.

        Raises:
            FileError: it is not what was found any more, or cannot be read.
        """
        return await self._share.open(entry, offset)

    @property
    def hidden(self) -> int:
        return self._walk.hidden

    async def next(self, limit: int) -> list[Found]:
        found = await self._walk.next(limit)
        if found or not self._complain:
            return found
        self._complain = False
        return [Failure(text, FileCode.UNKNOWN, "there is nothing of this name") for text in self._walk.unmatched()]
