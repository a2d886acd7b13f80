"""The directories of all services that have files: opened, kept in order, and closed again.

One that cannot be opened does not keep the bridge from running: its service says that it is not available, the log
says why, and it is tried again at the next reload and every time the house is kept.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.file_errors import FileError
from mxrtc_bridge.core.file_wire import FileCode, Get, Ls
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.targets import FilesTarget
from mxrtc_bridge.sinks.files.accounts import Limits
from mxrtc_bridge.sinks.files.dropbox import DropBox
from mxrtc_bridge.sinks.files.jobs import ReceivedFrom, Selected
from mxrtc_bridge.sinks.files.share import Share

log = logging.getLogger("mxrtc_bridge.files")


@dataclass(frozen=True, slots=True)
class _Directory:
    """What is open of one directory."""

    box: DropBox | None
    share: Share | None
    closing: AsyncExitStack


class Directories:
    """What is open; nothing at first."""

    def __init__(self) -> None:
        self._targets: tuple[FilesTarget, ...] = ()
        self._open: dict[FilesTarget, _Directory] = {}

    async def serve(self, targets: Sequence[FilesTarget]) -> None:
        """Serve these and no others. Transfers with others must have been reset before."""
        self._targets = tuple(targets)
        # First: a directory whose limits have changed is locked until it is closed.
        for target in [target for target in self._open if target not in self._targets]:
            await self._close(target)
        for target in self._targets:
            if target not in self._open:
                await self._try_to_open(target)

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
        """Remove what is unfinished and old, and try again to open what could not be opened."""
        for target, directory in tuple(self._open.items()):
            if directory.box is None:
                continue
            expired = await directory.box.expire()
            if expired.files:
                log.info("housekeeping: %d unfinished files removed from %s", expired.files, target.path)
        await self.serve(self._targets)

    async def close(self) -> None:
        """Close all, after the sessions have ended."""
        for target in tuple(self._open):
            await self._close(target)

    async def _try_to_open(self, target: FilesTarget) -> None:
        box = share = None
        async with AsyncExitStack() as stack:
            try:
                if target.direction.receives:
                    box = DropBox(
                        Path(target.path), _limits_of(target), sanitise=target.sanitise, allowed=target.allowed
                    )
                    await box.open()
                    stack.push_async_callback(box.close)
                if target.direction.sends:
                    share = Share(Path(target.path))
                    stack.push_async_callback(share.end)
            except LocalError as error:
                log.error("! %s is not available: %s", target, error)
                return
            self._open[target] = _Directory(box, share, stack.pop_all())
        log.debug("%s is open", target)

    async def _close(self, target: FilesTarget) -> None:
        await self._open.pop(target).closing.aclose()


class UserFiles:
    """:class:`mxrtc_bridge.engine.file_ports.FileServices` of one user."""

    def __init__(self, directories: Directories, user: UserId) -> None:
        self._directories = directories
        self._user = user

    async def source(self, target: FilesTarget, job: Get | Ls) -> Selected:
        return await Selected.open(self._directories.share(target), job)

    def receiver(self, target: FilesTarget) -> ReceivedFrom:
        return ReceivedFrom(self._directories.box(target), self._user)


def _limits_of(target: FilesTarget) -> Limits:
    limits = target.limits
    return Limits(
        file_bytes=limits.file_bytes,
        user_bytes=limits.user_bytes,
        total_bytes=limits.total_bytes,
        free_floor_bytes=limits.free_floor_bytes,
        partial_age_s=limits.partial_age_s,
    )
