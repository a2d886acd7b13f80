"""All tables of one database under one name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, nullcontext

from mxrtc_bridge.engine.outside import in_new_thread
from mxrtc_bridge.storage.advisory_lock import sole_use_of_server
from mxrtc_bridge.storage.audit import AuditStore
from mxrtc_bridge.storage.call_events import CallEventStore
from mxrtc_bridge.storage.calls import CallStore
from mxrtc_bridge.storage.certificates import CertificateStore
from mxrtc_bridge.storage.counters import CounterStore
from mxrtc_bridge.storage.crypto import CryptoStore
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.events import InboxStore
from mxrtc_bridge.storage.file_lock import sole_use
from mxrtc_bridge.storage.free_space import reorganise, shrink
from mxrtc_bridge.storage.grants import GrantStore
from mxrtc_bridge.storage.greetings import GreetingStore
from mxrtc_bridge.storage.notice_times import NoticeStore
from mxrtc_bridge.storage.policy_rules import PolicyRuleStore
from mxrtc_bridge.storage.requests import RequestStore
from mxrtc_bridge.storage.rooms import RoomStore
from mxrtc_bridge.storage.virtual_users import VirtualUserStore


class Stores:
    """What the bridge remembers.

    Args:
        database: open.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.inbox = InboxStore(database)
        self.calls = CallStore(database)
        self.certificates = CertificateStore(database)
        self.rooms = RoomStore(database)
        self.notices = NoticeStore(database)
        self.greetings = GreetingStore(database)
        self.crypto = CryptoStore(database)
        self.requests = RequestStore(database)
        self.grants = GrantStore(database)
        self.audit = AuditStore(database)
        self.traces = CallEventStore(database)
        self.policy_rules = PolicyRuleStore(database)
        self.own_users = VirtualUserStore(database)
        self.counters = CounterStore(database)

    async def prune(self, now_ms: int) -> int:
        """Forget what is too old or too much, everywhere; to be called about once an hour. Returns the rows.

        The file gets smaller by what is not used any more.
        """
        gone = (
            await self.inbox.prune(now_ms)
            + await self.calls.prune(now_ms)
            + await self.crypto.prune(now_ms)
            + await self.requests.prune(now_ms)
            + await self.grants.prune(now_ms)
            + await self.audit.prune(now_ms)
            + await self.traces.prune(now_ms)
        )
        await shrink(self._database)
        return gone


@asynccontextmanager
async def open_stores(url: str, *, sole: bool = False) -> AsyncIterator[Stores]:
    """Open the database at ``url`` for the length of a ``with`` block.

    Args:
        url: see :meth:`mxrtc_bridge.storage.database.Database.open`.
        sole: refuse if another process has opened it so; a look at it (``check``) goes without.

    Raises:
        StorageError: another bridge uses it, or it cannot be opened.
    """
    with ExitStack() as held:
        if sole:
            # In a thread of its own, as its disk may hang.
            await in_new_thread(held.enter_context, sole_use(url))
        async with sole_use_of_server(url) if sole else nullcontext(), await Database.open(url) as database:
            if sole:
                await reorganise(database)
            yield Stores(database)
