"""The directories that a batch publishes into: found, or made; open until the batch is done.

A directory that is not there is made, unless there is one whose name differs only in case. That one is taken where
names are made safe, and is the reason for a refusal elsewhere.

All methods block; call them in one thread at a time.
"""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field

from mxrtc_bridge.core.files.messages import FileCode, FileError
from mxrtc_bridge.core.files.names import collision_key
from mxrtc_bridge.core.text.display import quoted
from mxrtc_bridge.sinks.files.disk_names import from_disk, on_disk
from mxrtc_bridge.sinks.files.receive.name_allocator import NameAllocator
from mxrtc_bridge.sinks.files.receive.permissions import FilePermissions, Permissions
from mxrtc_bridge.sinks.files.rooted_dir import RootedDirectory
from mxrtc_bridge.system import files


@dataclass(slots=True)
class OpenDirectory:
    """One directory of a batch."""

    descriptor: int
    parts: tuple[str, ...]
    """Its path; differs from the one asked for at most in case."""
    made: list[tuple[str, ...]] = field(default_factory=list)
    """Those that were made for it, outermost first."""
    permissions: FilePermissions | None = None
    """Of the files in it; None until somebody asks."""


class BatchDirectories:
    """Directories beneath ``root``.

    Args:
        root: of the box.
        taken: knows the names in its directories.
        permissions: of what is made.
        partials: the descriptor of the directory of partial files.
        alike: take a directory whose name differs only in case.
    """

    def __init__(
        self, root: RootedDirectory, taken: NameAllocator, permissions: Permissions, partials: int, *, alike: bool
    ) -> None:
        self._root = root
        self._taken = taken
        self._permissions = permissions
        self._partials = partials
        self._alike = alike
        self._open: dict[tuple[str, ...], OpenDirectory] = {}

    def get(self, parts: tuple[str, ...]) -> OpenDirectory:
        """Return a directory, made if needed.

        Raises:
            FileError: there is one that differs only in case.
            OSError: something else is in the way, or the disk does not allow it.
        """
        found = self._open.get(parts)
        if found is None:
            try:
                found = OpenDirectory(self._root.open_directory(parts), parts)
            except FileNotFoundError:
                found = self._make(parts)
            self._open[parts] = found
            self._refuse_state(found)
        return found

    def permissions(self, directory: OpenDirectory) -> FilePermissions:
        """Return what files get in it.

        Raises:
            OSError: as the kernel says.
        """
        if directory.permissions is None:
            directory.permissions = self._permissions.of_files(directory.descriptor)
        return directory.permissions

    def check(self, parts: tuple[str, ...]) -> None:
        """Find out whether a path can be published, as far as names that differ only in case are concerned.

        Raises:
            FileError: it cannot.
            OSError: something else than a directory is in the way.
        """
        for depth in range(len(parts)):
            try:
                descriptor = self._root.open_directory(parts[:depth])
            except FileNotFoundError:
                return
            try:
                if self._taken.has_alike(descriptor, parts[depth]):
                    raise differs_in_case(parts[depth])
            finally:
                os.close(descriptor)

    def close(self) -> None:
        """Close them all."""
        for directory in self._open.values():
            os.close(directory.descriptor)
        self._open.clear()

    def _refuse_state(self, directory: OpenDirectory) -> None:
        """Refuse the directories of our own state, by whatever name the file system has led there."""
        found = os.fstat(directory.descriptor)
        ours = (os.fstat(self._partials), files.above(self._partials))
        if any((found.st_dev, found.st_ino) == (each.st_dev, each.st_ino) for each in ours):
            raise FileError(FileCode.NAME, "this name leads to what this program keeps for itself")

    def _make(self, parts: tuple[str, ...]) -> OpenDirectory:
        descriptor, resolved = self._deepest(parts)
        made: list[tuple[str, ...]] = []
        try:
            for name in parts[len(resolved) :]:
                actual = self._actual_name(descriptor, name)
                # Somebody else may have made it just now; then it is simply there.
                with contextlib.suppress(FileExistsError):
                    self._permissions.make_directory(descriptor, on_disk(actual))
                    self._taken.made(descriptor, actual)
                    made.append((*resolved, actual))
                resolved = (*resolved, actual)
                below = self._root.open_directory(resolved)
                os.close(descriptor)
                descriptor = below
        except BaseException:
            os.close(descriptor)
            raise
        return OpenDirectory(descriptor, resolved, made)

    def _deepest(self, parts: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        for depth in range(len(parts) - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                return self._root.open_directory(parts[:depth]), parts[:depth]
        return self._root.open_directory(()), ()

    def _actual_name(self, directory: int, name: str) -> str:
        """``name``, or the name of the directory that differs only in case."""
        if not self._taken.has_alike(directory, name):
            return name
        if self._alike:
            key = collision_key(name)
            with files.scan(directory) as entries:
                for entry in entries:
                    found = from_disk(entry.name)
                    if entry.is_dir(follow_symlinks=False) and collision_key(found) == key:
                        return found
        raise differs_in_case(name)


def differs_in_case(name: str) -> FileError:
    """Return the refusal of a name that some file system or reader would take for another."""
    return FileError(FileCode.NAME, f"there is a name that differs from {quoted(name)} only in case")
