"""Writes down what has become of grants, until the database has it: their ends, claims, and what was given up.

What waits here counts already, by the memory alone; so it is never forgotten because a database refuses, is asked for
again for ever with growing pauses, and is written at the stop. Bounded: one entry for each grant and kind, and the
number of grants is bounded by whoever gives.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

from mxrtc_bridge.core.access.grants import Change, ClaimedGrant, EndedGrant, GivenUp
from mxrtc_bridge.core.bounds.backoff import Backoff
from mxrtc_bridge.core.errors import MxrtcError
from mxrtc_bridge.engine.set_within import set_within
from mxrtc_bridge.storage.grants import GrantStore

log = logging.getLogger(__name__)

PAUSES = Backoff(1.0, 60.0)
"""Between two attempts with a database that refuses; whatever is put in anew is tried at once."""
BATCH = 500
"""Changes of one transaction: what waits behind it is not kept waiting for long."""

_Key = tuple[type[Change], int | str]


class GrantWriter:
    """See the head of this module. :meth:`run` must run for what a database has refused to be tried again."""

    def __init__(self, store: GrantStore, pauses: Backoff) -> None:
        self._pauses = pauses
        self._store = store
        self._waiting: dict[_Key, Change] = {}
        self._wake = asyncio.Event()
        self._next: asyncio.Task[MxrtcError | None] | None = None
        """An attempt that has not begun, so it holds all that waits; many may wait for it."""
        self._now: asyncio.Task[MxrtcError | None] | None = None
        self._writing = asyncio.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, changes: Iterable[Change]) -> None:
        """Have changes written down; the first of its kind for a grant stays."""
        for change in changes:
            self._waiting.setdefault(_key_of(change), change)
        self._wake.set()

    def ends(self) -> list[EndedGrant]:
        """The ends that are not written down yet."""
        return [change for change in self._waiting.values() if isinstance(change, EndedGrant)]

    async def written(self, changes: Sequence[Change]) -> MxrtcError | None:
        """Wait until changes are written down, or have failed to be once more; returns that failure."""
        keys = [_key_of(change) for change in changes]
        while any(key in self._waiting for key in keys):
            failure = await self.flush()
            if failure is not None and any(key in self._waiting for key in keys):
                return failure
        return None

    async def run(self) -> None:
        """Write until cancelled."""
        failures = 0
        while True:
            pause_s = self._pauses.pause_s(failures + 1)
            # What waits already has failed, or is being written for somebody just now.
            await set_within(self._wake, pause_s if self._waiting else None)
            failures = failures + 1 if await self.flush() is not None else 0

    async def flush(self) -> MxrtcError | None:
        """Try once to write down all that waits; returns what has prevented it. It goes on when this is cancelled."""
        if self._next is None:
            self._next = asyncio.create_task(self._write_in_turn())
        return await asyncio.shield(self._next)

    async def _write_in_turn(self) -> MxrtcError | None:
        async with self._writing:
            self._now, self._next = self._next, None
            self._wake.clear()
            return await self._write_all()

    async def _write_all(self) -> MxrtcError | None:
        waiting = list(self._waiting.items())
        failure: MxrtcError | None = None
        for start in range(0, len(waiting), BATCH):
            part = waiting[start : start + BATCH]
            try:
                await self._store.write([change for _, change in part])
            except MxrtcError as error:
                log.warning("! %d changes of grants could not be written down yet: %s", len(self._waiting), error)
                return error
            except Exception:
                log.exception("! changes of grants could not be written down together")
                # A defect of one must not keep the others from being written.
                failure = await self._write_one_by_one(part) or failure
            else:
                self._done(part)
        return failure

    async def _write_one_by_one(self, part: Sequence[tuple[_Key, Change]]) -> MxrtcError | None:
        failure: MxrtcError | None = None
        for each in part:
            try:
                await self._store.write([each[1]])
            except MxrtcError as error:
                return error
            except Exception as error:
                log.exception("! a change of a grant cannot be written down: %s", type(each[1]).__name__)
                failure = MxrtcError(f"the database refuses it: {type(error).__name__}")
            else:
                self._done([each])
        return failure

    def _done(self, part: Sequence[tuple[_Key, Change]]) -> None:
        for key, _ in part:
            del self._waiting[key]


def _key_of(change: Change) -> _Key:
    match change:
        case EndedGrant(grant=grant):
            return EndedGrant, grant.number
        case ClaimedGrant(number=number):
            return ClaimedGrant, number
        case GivenUp(key=key):
            return GivenUp, key
