"""All tables of one database under one name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from mxrtc_bridge.storage.calls import CallStore
from mxrtc_bridge.storage.certificates import CertificateStore
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.inbox import InboxStore
from mxrtc_bridge.storage.notices import NoticeStore
from mxrtc_bridge.storage.rooms import RoomStore


@dataclass(frozen=True, slots=True)
class Stores:
    """What the bridge remembers."""

    inbox: InboxStore
    calls: CallStore
    certificates: CertificateStore
    rooms: RoomStore
    notices: NoticeStore

    async def prune(self, now_ms: int) -> int:
        """Forget what is too old or too much, everywhere; to be called about once an hour. Returns the rows."""
        return await self.inbox.prune(now_ms) + await self.calls.prune(now_ms)


@asynccontextmanager
async def open_stores(url: str) -> AsyncIterator[Stores]:
    """Open the database at ``url`` for the length of a ``with`` block.

    Raises:
        StorageError: see :meth:`mxrtc_bridge.storage.database.Database.open`.
    """
    async with await Database.open(url) as database:
        yield Stores(
            inbox=InboxStore(database),
            calls=CallStore(database),
            certificates=CertificateStore(database),
            rooms=RoomStore(database),
            notices=NoticeStore(database),
        )
