"""What admins do with the running bridge, whoever asks for it: sessions, pausing, the configuration, the audit.

Every change acts on live sessions at once. Who may ask is decided before; here it is only written down who did.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mxrtc_bridge.bridge.access.runtime_grants import RuntimeGrants
from mxrtc_bridge.bridge.audit.events import AuditEvents
from mxrtc_bridge.core.access.grants import StoredGrant
from mxrtc_bridge.core.audit.chain import AuditKind, AuditRecord
from mxrtc_bridge.core.ids import Actor, UserId, folded
from mxrtc_bridge.engine.call_manager import CallManager
from mxrtc_bridge.engine.session import Session
from mxrtc_bridge.storage.audit import AuditQuery

log = logging.getLogger(__name__)

PAGE_ROWS = 20

RowT = TypeVar("RowT")
ItemT = TypeVar("ItemT")


@dataclass(frozen=True, slots=True)
class ListPage(Generic[RowT]):
    """A part of a list."""

    rows: tuple[RowT, ...]
    number: int
    """From 1."""
    pages: int
    total: int
    left_out: int = 0
    """How many there are in all that are not kept here any more, whatever was asked for."""


@dataclass(frozen=True, slots=True)
class SessionRow:
    """A live session, as admins see it."""

    number: int
    user: UserId
    peer: UserId
    age_s: float
    device: str
    """The device that has called, with how far it is trusted; empty where only the homeserver vouches for the user."""
    path: str
    """Direct or relayed; empty while it connects."""
    streams: int
    sent: int
    """Payload bytes to the user."""
    received: int


@dataclass(frozen=True, slots=True)
class ReloadOutcome:
    """What came of a reload by the time at which whoever asked is answered."""

    text: str
    """In a sentence or two."""
    done: bool = True
    """Whether nothing is known to have gone wrong; what takes longer may still be under way."""
    mistakes: str = ""
    """Why the file was refused, if it was: names and lines of it, which have no place in a room."""


class AdminService:
    """See the head of this module."""

    def __init__(
        self,
        given: RuntimeGrants,
        calls: CallManager,
        *,
        audited: AuditEvents,
        reload: Callable[[], Awaitable[ReloadOutcome]],
        monotonic: Callable[[], float],
    ) -> None:
        """Make it.

        Args:
            given: the grants, which are given and taken back there.
            calls: the live sessions.
            audited: where acts of admins are written down.
            reload: reads the configuration again, and says what came of it.
            monotonic: seconds, of the clock that sessions use.
        """
        self.given = given
        self._calls = calls
        self.audited = audited
        self._reload = reload
        self._monotonic = monotonic

    @property
    def paused(self) -> bool:
        """Whether no new sessions are taken."""
        return self._calls.paused

    def grants(self, page: int) -> ListPage[StoredGrant]:
        """The given grants in force, the newest first."""
        return page_of(tuple(self.given.table), page, lambda grant: grant)

    def who(self, page: int) -> ListPage[SessionRow]:
        """The live sessions, the oldest first."""
        now = self._monotonic()
        sessions = sorted(self._calls.live.sessions, key=lambda session: session.number)
        return page_of(sessions, page, lambda session: _row(session, now))

    def kick(self, by: Actor, *, number: int | None = None, user: UserId | None = None, reason: str = "") -> int:
        """End a session, or all of a user; returns how many. Both ends are told."""
        log.info("- sessions of %s ended by %s", user or f"number {number}", by)
        self.audited.acted(AuditKind.KICK, by, user=user, session=number, reason=reason)
        message = "an admin has ended this session" + (f": {reason}" if reason else "")
        return self._calls.live.end_sessions(
            lambda session: session.number == number if user is None else folded(session.remote) == folded(user),
            message,
        )

    def set_paused(self, by: Actor, *, paused: bool) -> bool:
        """Take no new sessions, until the next start at most, or take them again; False if it was so already."""
        news = self._calls.paused is not paused
        self._calls.paused = paused
        if news:
            self.audited.acted(AuditKind.PAUSE if paused else AuditKind.RESUME, by)
            log.warning("! new sessions are %s, by %s", "refused" if paused else "taken again", by)
        return news

    async def reload(self, by: Actor) -> ReloadOutcome:
        """Read the configuration again; returns what came of it."""
        log.info("the configuration is read again for %s", by)
        outcome = await self._reload()
        self.audited.acted(AuditKind.RELOAD, by, reason=outcome.text)
        return outcome

    async def log(self, query: AuditQuery, page: int) -> ListPage[tuple[int, AuditRecord]]:
        """Decisions, ends of sessions and what admins did, the newest first, with their numbers.

        Raises:
            StorageError: the database cannot be read.
        """
        rows, total = await self.audited.recorder.page(query, max(1, page), PAGE_ROWS)
        pages = max(1, -(-total // PAGE_ROWS))
        if page > pages:
            rows, total = await self.audited.recorder.page(query, pages, PAGE_ROWS)
        return ListPage(tuple(rows), min(max(1, page), pages), pages, total, await self.audited.recorder.left_out())


def page_of(rows: Sequence[ItemT], number: int, made: Callable[[ItemT], RowT]) -> ListPage[RowT]:
    """Cut a page out of a list; only its rows are made."""
    pages = max(1, -(-len(rows) // PAGE_ROWS))
    number = min(max(1, number), pages)
    part = rows[(number - 1) * PAGE_ROWS : number * PAGE_ROWS]
    return ListPage(tuple(made(row) for row in part), number, pages, len(rows))


def _row(session: Session, now: float) -> SessionRow:
    streams, sent, received = session.links.totals()
    return SessionRow(
        session.number,
        session.remote,
        session.local,
        now - session.started_at,
        "" if session.device is None else str(session.device),
        "" if session.path is None else str(session.path),
        streams,
        sent,
        received,
    )
