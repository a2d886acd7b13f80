"""Which rows of a table go when others fill it: whose row it is decides, and then its age.

Users who were let in before are known; everybody else is a stranger, of whom a server can make up as many as it likes.
Strangers have a part of the table that is theirs, with a share for each server, and never push out a row of somebody
who is known. Among the known, and among the servers of strangers, whoever has most gives first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from mxrtc_bridge.core.ids import host_of


@dataclass(frozen=True, slots=True)
class Row:
    """What is judged of a row."""

    name: tuple[str, ...]
    user: str
    used_ms: int
    known: bool
    """Whether its user was let in before."""
    size: int = 0
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How many rows there may be."""

    total: int
    """Of all who are known."""
    of_user: int
    of_server: int
    """Of the strangers of a server."""
    strangers: int
    """Of all strangers."""
    strangers_bytes: int | None = None
    """Sizes of all rows of strangers together."""


def surplus(rows: Iterable[Row], bound: Bound) -> list[Row]:
    """The rows that are too many, in the order of the rule at the head of this module."""
    newest_first = sorted(rows, key=lambda row: -row.used_ms)
    gone: list[Row] = []
    for known in (True, False):
        ranked = _ranked([row for row in newest_first if row.known is known], bound, known=known, gone=gone)
        limit = bound.total if known else bound.strangers
        room = None if known else bound.strangers_bytes
        kept = 0
        for row in ranked:
            kept += row.size
            limit -= 1
            if limit < 0 or (room is not None and kept > room):
                gone.append(row)
    return gone


def _ranked(rows: list[Row], bound: Bound, *, known: bool, gone: list[Row]) -> list[Row]:
    """The rows within the shares, those that go last first; the others are put into ``gone``."""
    of_user: Counter[str] = Counter()
    of_owner: Counter[str] = Counter()
    ranks: list[tuple[int, Row]] = []
    for row in rows:
        owner = row.user if known else host_of(row.user.partition(":")[2])
        of_user[row.user] += 1
        if of_user[row.user] > bound.of_user or (not known and of_owner[owner] >= bound.of_server):
            gone.append(row)
            continue
        of_owner[owner] += 1
        ranks.append((of_owner[owner], row))
    # The sort is stable, so the newer of two with the same rank stays first.
    return [row for _, row in sorted(ranks, key=lambda ranked: ranked[0])]
