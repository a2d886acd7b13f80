"""A share: a directory whose files people may list and fetch.

Only regular files with one name are served, only below the directory, and never through a link. Hidden files do not
exist for the other side, unless the admin offers them; only their number is told. The state of a drop box never does.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

from mxrtc_bridge.core.files.messages import FileCode, FileEntry, FileError
from mxrtc_bridge.core.files.names import FileNameError
from mxrtc_bridge.core.files.patterns import Selection, literal_path, parse_path_pattern
from mxrtc_bridge.sinks.files.rooted_dir import RootedDirectory, is_plain
from mxrtc_bridge.sinks.files.send.outgoing_file import OutgoingFile, inode_of, opened, version_of
from mxrtc_bridge.sinks.files.send.tree_walk import MAX_NAMES, Tree, TreeWalk, is_hidden
from mxrtc_bridge.sinks.files.threads import FileThreads


class Share:
    """The share ``path``. Blocks for a moment when it is made; ended by :meth:`close`.

    Args:
        path: an existing directory.
        hidden: serve names that begin with a dot, too.
        workers: threads; its own if there are none.

    Raises:
        LocalError: it cannot be opened.
    """

    def __init__(
        self, path: Path, *, hidden: bool = False, workers: FileThreads | None = None, max_names: int = MAX_NAMES
    ) -> None:
        self._max_names = max_names
        self._root = RootedDirectory(path)
        self._hidden = hidden
        self._workers = workers or FileThreads()

    @classmethod
    async def opened(cls, path: Path, *, hidden: bool = False) -> Share:
        """Open a share without blocking anybody: its disk may hang.

        Raises:
            LocalError: it cannot be opened.
        """
        workers = FileThreads()
        made: list[Share] = []
        try:
            # Into the list by the thread itself: a task that is cancelled takes no result.
            await workers.run(lambda: made.append(cls(path, hidden=hidden, workers=workers)))
        except BaseException:
            for share in made:
                share.close()
            workers.close()
            raise
        return made[0]

    def select(self, patterns: Sequence[str]) -> TreeWalk:
        """Return a walk through what ``patterns`` select; a directory stands for all that is in it.

        Raises:
            FileError: ``name``, a pattern is none or there are too many.
        """
        return TreeWalk(
            [Tree(self._root, _selection(patterns), hidden=self._hidden)], self._workers, max_names=self._max_names
        )

    async def list(self, path: str) -> TreeWalk:
        """Return a walk through what is at ``path``: the file, or what the directory has, not what those have.

        The paths of the entries are whole, seen from the share.

        Raises:
            FileError: ``name``, the path is none; ``unknown``, there is nothing that may be seen.
        """
        _selection([path])  # refuses what is too long, too deep or leads upwards
        parts = tuple(word for word in path.split("/") if word not in {"", "."})
        # Before the disk is asked: not even the time that it takes may tell what is hidden.
        hidden = any(is_hidden(part, shown=self._hidden) for part in parts)
        status = None if hidden else await self._workers.run(lambda: self._root.status(parts))
        if status is None or not (stat.S_ISDIR(status.st_mode) or is_plain(status)):
            raise FileError(FileCode.UNKNOWN, "there is nothing of this name")
        selection = Selection([literal_path(parts, below=stat.S_ISDIR(status.st_mode))])
        return TreeWalk(
            [Tree(self._root, selection, hidden=self._hidden, deep=False, strip=False)],
            self._workers,
            max_names=self._max_names,
        )

    async def open(self, entry: FileEntry, offset: int = 0) -> OutgoingFile:
        """Open a file that a walk has found, at ``offset``.

        Raises:
            FileError: ``changed`` or ``gone`` if it is not what was found, ``denied``, ``io``.
        """
        parts = entry.origin.split("/")
        return await open_source(lambda: self._root.open(parts, os.O_RDONLY), entry, self._workers, offset)

    async def end(self) -> None:
        """Let go as soon as the disk has answered what was asked; walks and files that are left can do no more."""
        await self._workers.drain()
        self._root.close()

    def close(self) -> None:
        """Let go, after all walks and files are done."""
        self._workers.close()
        self._root.close()


async def open_source(
    open_it: Callable[[], int], entry: FileEntry, workers: FileThreads, offset: int, *, hard_links: bool = False
) -> OutgoingFile:
    """Open a file at ``offset`` if it still is what ``entry`` says.

    Raises:
        FileError: it is not (one that has only grown is), or cannot be read.
    """
    made: list[OutgoingFile] = []

    def open_and_check() -> None:
        descriptor = open_it()
        source = OutgoingFile(descriptor, entry.version, entry.size, workers)
        # Into the list by the thread itself: a task that is cancelled takes no result.
        made.append(source)
        status = os.fstat(descriptor)
        if not is_plain(status, hard_links=hard_links):
            raise FileError(FileCode.DENIED, "it is not a plain file any more")
        if version_of(status) != entry.version and inode_of(status) != entry.inode:
            raise FileError(FileCode.CHANGED, "another file has taken its place since it was listed; try again")
        source.check()

    try:
        await workers.run(open_and_check)
    except BaseException:
        for source in made:
            source.close_now()
        raise
    return await opened(made[0], offset)


def _selection(patterns: Sequence[str]) -> Selection:
    try:
        return Selection([parse_path_pattern(pattern) for pattern in patterns])
    except FileNameError as error:
        raise FileError(FileCode.NAME, str(error)) from error
