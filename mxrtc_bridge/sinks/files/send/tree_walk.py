"""What there is to be sent below some directories, a few entries at a time.

A walk goes through the tree in the order of names, parents before children. It holds the names of the directories on
the way to where it stands and nothing else, with a limit; a tree of millions of files takes no more memory than its
largest directories. What cannot be sent (links, devices, hard links, names that are no text) is told as a failure in
its place, and never opened. Whether a name is acceptable is otherwise left to the receiver.

All methods of :class:`Tree` and :class:`TreeWalk` but :meth:`TreeWalk.next` block.
"""

from __future__ import annotations

import itertools
import os
import secrets
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mxrtc_bridge.config.private_files import closing
from mxrtc_bridge.core.files.events import Failure
from mxrtc_bridge.core.files.messages import EntryKind, FileCode, FileEntry
from mxrtc_bridge.core.files.names import MAX_COMPONENTS, MAX_PATH_BYTES, STATE_DIRECTORY
from mxrtc_bridge.core.files.patterns import PatternPosition, Selection
from mxrtc_bridge.sinks.files.disk_names import from_disk
from mxrtc_bridge.sinks.files.os_errors import translated
from mxrtc_bridge.sinks.files.rooted_dir import RootedDirectory, is_plain
from mxrtc_bridge.sinks.files.send.outgoing_file import inode_of, version_of
from mxrtc_bridge.sinks.files.threads import FileThreads
from mxrtc_bridge.system import files

MAX_NAMES = 200_000
"""That a walk holds at a time."""
MAX_STEP = 1024

NOT_TEXT = f"its path is not text in UTF-8, or has more than {MAX_PATH_BYTES} bytes"
"""Why something cannot be told to the other side at all."""

Found = FileEntry | Failure


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory to be walked through."""

    root: RootedDirectory
    selection: Selection
    hidden: bool = False
    """Whether names that begin with a dot are seen; the state of a drop box never is."""
    prefix: tuple[str, ...] = ()
    """Put before the offered paths."""
    origin: str = ""
    """Put before the origins of the entries."""
    version: str = ""
    """Put before their versions."""
    hard_links: bool = False
    """Whether files that have several names are sent."""
    deep: bool = True
    """Whether directories that are selected are gone into."""
    strip: bool = True
    """Whether the place that a pattern names is left out of the offered paths."""


@dataclass(slots=True)
class _Level:
    """A directory on the way."""

    tree: Tree
    number: int
    """Of the tree."""
    parts: tuple[str, ...]
    place: PatternPosition
    names: deque[str] = field(default_factory=deque)


class TreeWalk:
    """A walk through ``trees``, one after the other.

    Args:
        trees: where to.
        first: found before all trees.
        workers: threads.
    """

    def __init__(
        self, trees: Sequence[Tree], workers: FileThreads, first: Sequence[Found] = (), *, max_names: int = MAX_NAMES
    ) -> None:
        self._max_names = max_names
        self._trees = deque(enumerate(trees))
        self._first = deque(first)
        self._workers = workers
        self._levels: list[_Level] = []
        self._held = 0
        self.hidden = 0
        """Names that begin with a dot and are not offered for that, in directories that were wanted as a whole."""
        # A name that nobody knows: only who wants everything in a directory wants it, too. To count what a pattern of
        # letters fits would tell by and by which hidden names there are.
        self._unknown_name = secrets.token_hex(16)
        self._matched: set[tuple[int, int]] = set()
        self._all = tuple(trees)

    async def next(self, limit: int) -> list[Found]:
        """Return up to ``limit`` more entries and failures; an empty list is the end.

        Never to be called again before it has returned.
        """
        return await self._workers.run(lambda: self._next(min(limit, MAX_STEP)))

    def unmatched(self) -> list[str]:
        """Return the patterns that nothing was found for so far."""
        return [
            pattern.text
            for number, tree in enumerate(self._all)
            for index, pattern in enumerate(tree.selection.patterns)
            if (number, index) not in self._matched
        ]

    def _next(self, limit: int) -> list[Found]:
        found: list[Found] = []
        while len(found) < limit:
            if self._first:
                found.append(self._first.popleft())
            elif self._levels:
                found += self._step()
            elif self._trees:
                number, tree = self._trees.popleft()
                self._matched |= {(number, index) for index in tree.selection.root.chosen}
                found += self._enter(_Level(tree, number, (), tree.selection.root))
            else:
                break
        return found

    def _step(self) -> Iterator[Found]:
        """Look at the next name of the innermost directory."""
        level = self._levels[-1]
        if not level.names:
            self._levels.pop()
            return
        name = level.names.popleft()
        self._held -= 1
        tree, parts = level.tree, (*level.parts, name)
        place = tree.selection.below(level.place, name)
        if not place.leads_on or is_hidden(name, shown=tree.hidden):
            return
        status = tree.root.status(parts)
        if status is None:
            return  # gone meanwhile, or never there
        self._matched |= {(level.number, index) for index in place.chosen}
        if place.selected and (problem := _problem(tree, parts, status)) is not None:
            yield problem
        elif stat.S_ISDIR(status.st_mode):
            # The directory that a pattern ends in, "docs" in "docs/**", is where things are, not one of them.
            if place.selected and _offered(tree, parts, place):
                yield _entry(tree, parts, place, status)
            if tree.deep or not place.selected:
                yield from self._enter(_Level(tree, level.number, parts, place))
        elif place.selected:
            yield _entry(tree, parts, place, status)

    def _list(self, level: _Level) -> Iterator[str]:
        tree = level.tree
        counted = tree.selection.below(level.place, self._unknown_name).selected
        with closing(tree.root.open_directory(level.parts)) as descriptor, files.scan(descriptor) as entries:
            names = (from_disk(entry.name) for entry in entries)
            shown = (name for name in names if self._is_shown(tree, name, counted=counted))
            # One more than the limit, so that reaching it can be told from passing it.
            yield from itertools.islice(shown, self._max_names + 1)

    def _is_shown(self, tree: Tree, name: str, *, counted: bool) -> bool:
        if not is_hidden(name, shown=tree.hidden):
            return True
        if counted and name != STATE_DIRECTORY:
            self.hidden += 1
        return False

    def _enter(self, level: _Level) -> Iterator[Found]:
        tree = level.tree
        path = "/".join((*tree.prefix, *level.parts))
        names = tree.selection.names(level.place)
        try:
            level.names.extend(sorted(names if names is not None else self._list(level)))
        except OSError as error:
            failure = translated(error)
            yield Failure(displayable_path(path), failure.code, str(failure))
            return
        if self._held + len(level.names) > self._max_names:
            room = self._max_names - self._held
            yield Failure(displayable_path(path), FileCode.LIMIT, f"the directory has more than {room} names")
            return
        self._held += len(level.names)
        self._levels.append(level)


def is_hidden(name: str, *, shown: bool) -> bool:
    """Whether a name does not exist for the other side; the state of a drop box never does.

    Args:
        name: one component of a path.
        shown: whether other names that begin with a dot are seen.
    """
    return name == STATE_DIRECTORY or (name[:1] == "." and not shown)


def _offered(tree: Tree, parts: tuple[str, ...], place: PatternPosition) -> tuple[str, ...]:
    return (*tree.prefix, *parts[tree.selection.base(place) if tree.strip else 0 :])


def _entry(tree: Tree, parts: tuple[str, ...], place: PatternPosition, status: os.stat_result) -> FileEntry:
    path = "/".join(_offered(tree, parts, place))
    origin = tree.origin + "/".join(parts)
    modified_ms = max(status.st_mtime_ns // 1_000_000, 0)
    if stat.S_ISDIR(status.st_mode):
        return FileEntry(path, EntryKind.DIRECTORY, 0, modified_ms, "", origin)
    version = tree.version + version_of(status)
    return FileEntry(path, EntryKind.FILE, status.st_size, modified_ms, version, origin, inode_of(status))


def _problem(tree: Tree, parts: tuple[str, ...], status: os.stat_result) -> Failure | None:
    """Why this cannot be sent, if it cannot."""
    path = "/".join((*tree.prefix, *parts))
    code = FileCode.DENIED
    if displayable_path(path) != path:
        code, words = FileCode.NAME, NOT_TEXT
    elif len(parts) + len(tree.prefix) > MAX_COMPONENTS:
        code, words = FileCode.NAME, f"its path has more than {MAX_COMPONENTS} parts"
    elif stat.S_ISLNK(status.st_mode):
        words = "it is a symbolic link; links are not followed"
    elif stat.S_ISDIR(status.st_mode) or is_plain(status, hard_links=tree.hard_links):
        return None
    elif stat.S_ISREG(status.st_mode):
        words = (
            "it has more than one name (hard links), and may have been linked there by somebody to be read; a copy of "
            "it would be offered"
        )
    else:
        words = "it is neither a file nor a directory"
    return Failure(displayable_path(path), code, words)


def displayable_path(path: str) -> str:
    """Return a path that may be too long, or hold bytes that are no text, as text that is neither."""
    return path.encode("utf-8", "surrogateescape")[:MAX_PATH_BYTES].decode("utf-8", "replace")
