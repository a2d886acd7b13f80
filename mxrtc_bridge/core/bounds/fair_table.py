"""A table with a limit, where what some put into it pushes out nothing of others.

What is too much is taken from whoever has most: of the server, and of its users, that with most entries, what was put
in longest ago. Whoever uses an entry puts it in again.

Who has most is found by :class:`_Ranking`, without a look at everybody: a table that strangers have filled must cost
those who come after them no more than an empty one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Generic, TypeVar

from mxrtc_bridge.core.bounds.shares import host_of
from mxrtc_bridge.core.ids import UserId

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")
NameT = TypeVar("NameT")


class _Ranking(Generic[NameT]):
    """Names by their count: who has most is known at once, as counts change by one."""

    def __init__(self) -> None:
        self._counts: dict[NameT, int] = {}
        self._names: dict[int, OrderedDict[NameT, None]] = {}
        """By count; of those with the same, who has come to it longest ago is first. The first of a plain dictionary is
        found by walking over all that was taken from its front."""
        self._most = 0

    def change(self, name: NameT, by: int) -> int:
        """Count one more (1) or one less (-1) for a name; return its count, with 0 it is forgotten."""
        before = self._counts.get(name, 0)
        after = before + by
        if before:
            same = self._names[before]
            del same[name]
            if not same:
                del self._names[before]
        if after:
            self._counts[name] = after
            self._names.setdefault(after, OrderedDict())[name] = None
        else:
            del self._counts[name]
        if after > self._most or (before == self._most and before not in self._names):
            self._most = after
        return after

    def first(self) -> NameT:
        """Who has most."""
        return next(iter(self._names[self._most]))


class FairTable(Generic[KeyT, ValueT]):
    """See the head of this module.

    Args:
        limit: entries, in all.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._entries: dict[UserId, OrderedDict[KeyT, ValueT]] = {}
        self._servers = _Ranking[str]()
        self._users: dict[str, _Ranking[UserId]] = {}
        """Of each server."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def of(self, user: UserId) -> Iterable[ValueT]:
        """What a user has, longest ago first."""
        entries = self._entries.get(user)
        return entries.values() if entries is not None else ()

    def get(self, user: UserId, key: KeyT) -> ValueT | None:
        """An entry of a user, or None."""
        entries = self._entries.get(user)
        return entries.get(key) if entries is not None else None

    def put(self, user: UserId, key: KeyT, value: ValueT) -> None:
        """Put an entry in, as the newest of its user; one that is too much goes."""
        entries = self._entries.setdefault(user, OrderedDict())
        known = key in entries
        entries[key] = value
        if known:
            entries.move_to_end(key)
            return
        self._count(user, 1)
        if self._size > self._limit:
            most = self._users[self._servers.first()].first()
            self.pop(most, next(iter(self._entries[most])))

    def pop(self, user: UserId, key: KeyT) -> ValueT | None:
        """Take an entry out, if it is there."""
        entries = self._entries.get(user)
        if entries is None or key not in entries:
            return None
        value = entries.pop(key)
        if not entries:
            del self._entries[user]
        self._count(user, -1)
        return value

    def _count(self, user: UserId, by: int) -> None:
        server = host_of(user)
        self._users.setdefault(server, _Ranking()).change(user, by)
        if not self._servers.change(server, by):
            del self._users[server]
        self._size += by
