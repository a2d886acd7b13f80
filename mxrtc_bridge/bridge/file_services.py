"""The directories of all services that have files: opened, kept in order, and closed again.

One that cannot be opened does not keep the bridge from running: its service says that it is not available, the log
says why, and it is tried again at the next reload and every time the house is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Collection, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge.core.access.targets import FilesTarget
from mxrtc_bridge.core.errors import LocalError, MxrtcError
from mxrtc_bridge.core.files.messages import FileCode, FileError, Get, Ls
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.sinks.files.receive.drop_box import DropBox
from mxrtc_bridge.sinks.files.send.share import Share
from mxrtc_bridge.sinks.files.transfer_ports import ReceivedFrom, Selected

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""How long disks are waited for; what takes longer goes on beside everything else."""


@dataclass(frozen=True, slots=True)
class _Directory:
    """What is open of one directory."""

    box: DropBox | None
    share: Share | None
    closing: AsyncExitStack


class FileServices:
    """What is open; nothing at first."""

    def __init__(self, *, patience_s: float = PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._targets: tuple[FilesTarget, ...] = ()
        self._open: dict[FilesTarget, _Directory] = {}
        self._closing: dict[str, list[_Directory]] = {}
        """By path: what must be closed before anything is opened there, as it holds the lock."""
        self._working: dict[str, asyncio.Task[None]] = {}
        """By path, one for each: a disk that hangs holds up its own path, and nobody else."""

    @property
    def open_targets(self) -> frozenset[FilesTarget]:
        """The directories that are open now."""
        return frozenset(self._open)

    @property
    def busy_paths(self) -> frozenset[str]:
        """Where something is being opened or closed."""
        return frozenset(self._working)

    async def serve(self, targets: Sequence[FilesTarget]) -> None:
        """Serve these and no others. Transfers with others must have been reset before.

        What is not served any more is out of reach at once. Opening and closing goes on if the disk takes longer than
        :data:`PATIENCE_S`.

        Raises:
            LocalError: a disk has not answered by then.
        """
        self._targets = tuple(targets)
        for target in [target for target in self._open if target not in self._targets]:
            self._close(target)
        paths = {target.path for target in self._targets if target not in self._open} | set(self._closing)
        for path in paths - set(self._working):
            self._begin(path, self._work_at(path))
        if await self._wait_for(paths, self._patience_s):
            hanging = ", ".join(sorted(path for path in paths if path in self._working))
            raise LocalError(f"these disks have not answered within {self._patience_s:g} s: {hanging}")

    def _begin(self, path: str, work: Coroutine[None, None, None]) -> None:
        self._working[path] = task = asyncio.create_task(work, name="directory")
        task.add_done_callback(lambda _: self._working.pop(path))

    async def _wait_for(self, paths: Collection[str], patience_s: float) -> bool:
        """Wait for what is being done at these paths; returns whether some of it goes on."""
        tasks = [self._working[path] for path in paths if path in self._working]
        return bool(tasks and (await asyncio.wait(tasks, timeout=patience_s))[1])

    async def _work_at(self, path: str) -> None:
        """Close and open at one path, until what is open there is what is to be served."""
        tried: set[FilesTarget] = set()
        while True:
            for directory in self._closing.pop(path, ()):
                await directory.closing.aclose()
            missing = (each for each in self._targets if each.path == path and each not in self._open)
            target = next((each for each in missing if each not in tried), None)
            if target is not None:
                tried.add(target)
                await self._try_to_open(target)
                if target in self._open and target not in self._targets:
                    self._close(target)
            elif not self._closing.get(path):
                return

    def for_user(self, user: UserId) -> UserFiles:
        """The directories as ``user`` sees them; which of them he may use is decided elsewhere."""
        return UserFiles(self, user)

    def box(self, target: FilesTarget) -> DropBox:
        """The drop box.

        Raises:
            FileError: it is not open.
        """
        directory = self._open.get(target)
        if directory is None or directory.box is None:
            raise FileError(FileCode.UNAVAILABLE, "this directory does not receive at the moment")
        return directory.box

    def share(self, target: FilesTarget) -> Share:
        """The share.

        Raises:
            FileError: it is not open.
        """
        directory = self._open.get(target)
        if directory is None or directory.share is None:
            raise FileError(FileCode.UNAVAILABLE, "this directory is not served at the moment")
        return directory.share

    async def keep_house(self) -> None:
        """Remove what is unfinished and old, and try again to open what could not be opened.

        Raises:
            LocalError: a disk does not answer.
        """
        for target, directory in tuple(self._open.items()):
            if directory.box is not None and target.path not in self._working:
                self._begin(target.path, self._expire(target, directory.box))
        await self._wait_for(tuple(self._working), self._patience_s)
        await self.serve(self._targets)

    async def _expire(self, target: FilesTarget, box: DropBox) -> None:
        try:
            expired = await box.expire()
        except MxrtcError as error:
            log.error("! %s: unfinished files were not removed: %s", target, error)
            return
        if expired.files:
            log.info("housekeeping: %d unfinished files removed from %s", expired.files, target.path)

    async def close(self) -> None:
        """Close all, after the sessions have ended; what a disk that hangs keeps open is left to the system."""
        with contextlib.suppress(LocalError):
            await self.serve(())

    async def _try_to_open(self, target: FilesTarget) -> None:
        box = share = None
        async with AsyncExitStack() as stack:
            try:
                if target.direction.receives:
                    box = DropBox(
                        Path(target.path),
                        target.limits,
                        names=target.names,
                        allowed=target.allowed,
                        mode=target.mode,
                        group=target.group,
                    )
                    await box.open()
                    stack.push_async_callback(box.close)
                if target.direction.sends:
                    share = await Share.opened(Path(target.path), hidden=target.hidden)
                    stack.push_async_callback(share.end)
            except MxrtcError as error:
                log.error("! %s is not available: %s", target, error)
                return
            self._open[target] = _Directory(box, share, stack.pop_all())
        log.debug("%s is open", target)

    def _close(self, target: FilesTarget) -> None:
        self._closing.setdefault(target.path, []).append(self._open.pop(target))


class UserFiles:
    """:class:`mxrtc_bridge.engine.file_ports.UserFileServices` of one user."""

    def __init__(self, directories: FileServices, user: UserId) -> None:
        self._directories = directories
        self._user = user

    async def source(self, target: FilesTarget, job: Get | Ls) -> Selected:
        return await Selected.open(self._directories.share(target), job)

    def receiver(self, target: FilesTarget) -> ReceivedFrom:
        return ReceivedFrom(self._directories.box(target), self._user)
