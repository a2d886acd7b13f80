"""What there is to be sent below some directories, a few entries at a time.

A walk goes through the tree in the order of names, parents before children. It holds the names of the directories on
the way to where it stands and nothing else, with a limit; a tree of millions of files takes no more memory than its
largest directories. What cannot be sent (links, devices, hard links, names that nobody would accept) is told as a
failure in its place, and never opened.

All methods of :class:`Tree` and :class:`Walk` but :meth:`Walk.next` block.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from mxrtc_bridge.core.file_wire import Entry, EntryKind, FileCode
from mxrtc_bridge.core.filenames import MAX_COMPONENTS, MAX_PATH_BYTES, NameRules, refusal
from mxrtc_bridge.core.path_patterns import Place, Selection
from mxrtc_bridge.core.transfer_events import Failure
from mxrtc_bridge.sinks.files.beneath import Beneath, is_plain
from mxrtc_bridge.sinks.files.box import STATE_DIRECTORY
from mxrtc_bridge.sinks.files.failures import translated
from mxrtc_bridge.sinks.files.reading import version_of
from mxrtc_bridge.sinks.files.workers import Workers

MAX_NAMES = 200_000
"""That a walk holds at a time."""
MAX_STEP = 1024

Found = Entry | Failure


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory to be walked through."""

    root: Beneath
    selection: Selection
    rules: NameRules
    prefix: tuple[str, ...] = ()
    """Put before the offered paths."""
    origin: str = ""
    """Put before the origins of the entries."""
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
    parts: tuple[str, ...]
    place: Place
    names: deque[str] = field(default_factory=deque)


class Walk:
    """A walk through ``trees``, one after the other.

    Args:
        trees: where to.
        first: found before all trees.
        workers: threads.
    """

    def __init__(self, trees: Sequence[Tree], workers: Workers, first: Sequence[Found] = ()) -> None:
        self._trees = deque(trees)
        self._first = deque(first)
        self._workers = workers
        self._levels: list[_Level] = []
        self._held = 0
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
                tree = self._trees.popleft()
                self._matched |= {(self._number(tree), index) for index in tree.selection.root.chosen}
                found += self._enter(tree, (), tree.selection.root)
            else:
                break
        return found

    def _number(self, tree: Tree) -> int:
        return next(number for number, other in enumerate(self._all) if other is tree)

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
        if not place.leads_on:
            return
        status = tree.root.status(parts)
        if status is None:
            return  # gone meanwhile, or never there
        self._matched |= {(self._number(tree), index) for index in place.chosen}
        if place.selected and (problem := _problem(tree, parts, status)) is not None:
            yield problem
            return
        if stat.S_ISDIR(status.st_mode):
            yield from self._directory(tree, parts, place, status)
        elif place.selected:
            yield _entry(tree, parts, place, status)

    def _directory(self, tree: Tree, parts: tuple[str, ...], place: Place, status: os.stat_result) -> Iterator[Found]:
        # The directory that a pattern ends in, "docs" in "docs/**", is where things are, not one of them.
        if place.selected and _offered(tree, parts, place):
            yield _entry(tree, parts, place, status)
        if tree.deep or not place.selected:
            yield from self._enter(tree, parts, place)

    def _enter(self, tree: Tree, parts: tuple[str, ...], place: Place) -> Iterator[Found]:
        level = _Level(tree, parts, place)
        names = tree.selection.names(place)
        try:
            level.names.extend(sorted(names if names is not None else self._list(tree, parts)))
        except OSError as error:
            failure = translated(error)
            yield Failure(_shown("/".join((*tree.prefix, *parts))), failure.code, str(failure))
            return
        if self._held + len(level.names) > MAX_NAMES:
            words = f"the directory has too many names to be sorted ({len(level.names)})"
            yield Failure(_shown("/".join((*tree.prefix, *parts))), FileCode.LIMIT, words)
            return
        self._held += len(level.names)
        self._levels.append(level)

    def _list(self, tree: Tree, parts: tuple[str, ...]) -> Iterator[str]:
        descriptor = tree.root.open_directory(parts)
        try:
            with os.scandir(descriptor) as entries:
                for count, entry in enumerate(entries):
                    if count > MAX_NAMES:
                        break
                    hidden = entry.name[:1] == "." and not tree.rules.leading_dot
                    if not hidden and entry.name != STATE_DIRECTORY:
                        yield entry.name
        finally:
            os.close(descriptor)


def _offered(tree: Tree, parts: tuple[str, ...], place: Place) -> tuple[str, ...]:
    return (*tree.prefix, *parts[tree.selection.base(place) if tree.strip else 0 :])


def _entry(tree: Tree, parts: tuple[str, ...], place: Place, status: os.stat_result) -> Entry:
    path = "/".join(_offered(tree, parts, place))
    origin = tree.origin + "/".join(parts)
    modified_ms = max(status.st_mtime_ns // 1_000_000, 0)
    if stat.S_ISDIR(status.st_mode):
        return Entry(path, EntryKind.DIRECTORY, 0, modified_ms, "", origin)
    return Entry(path, EntryKind.FILE, status.st_size, modified_ms, version_of(status), origin)


def _problem(tree: Tree, parts: tuple[str, ...], status: os.stat_result) -> Failure | None:
    """Why this cannot be sent, if it cannot."""
    path = "/".join((*tree.prefix, *parts))
    code = FileCode.DENIED
    if (reason := refusal(parts[-1], tree.rules)) is not None:
        code, words = FileCode.NAME, f"its name cannot be sent: it {reason}"
    elif len(parts) + len(tree.prefix) > MAX_COMPONENTS or len(path.encode()) > MAX_PATH_BYTES:
        code, words = FileCode.NAME, f"its path has more than {MAX_COMPONENTS} parts or {MAX_PATH_BYTES} bytes"
    elif stat.S_ISLNK(status.st_mode):
        words = "it is a symbolic link; links are not followed"
    elif stat.S_ISDIR(status.st_mode) or is_plain(status, hard_links=tree.hard_links):
        return None
    elif stat.S_ISREG(status.st_mode):
        words = "it has more than one name (hard links)"
    else:
        words = "it is neither a file nor a directory"
    return Failure(_shown(path), code, words)


def _shown(path: str) -> str:
    """A path that may hold bytes that are no text, as text."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")[:MAX_PATH_BYTES]
