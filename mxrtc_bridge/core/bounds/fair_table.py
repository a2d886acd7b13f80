"""A table with a limit, where what some put into it pushes out nothing of others.

What is too much is taken from whoever has most: of the server, and of its users, that with most entries, what was put
in longest ago. Whoever uses an entry puts it in again.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from mxrtc_bridge.core.bounds.shares import host_of
from mxrtc_bridge.core.ids import UserId

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


class FairTable(Generic[KeyT, ValueT]):
    """See the head of this module.

    Args:
        limit: entries, in all.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._servers: dict[str, dict[UserId, dict[KeyT, ValueT]]] = {}
        self._counts: dict[str, int] = {}
        """Entries of each server."""
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def of(self, user: UserId) -> Iterable[ValueT]:
        """What a user has, longest ago first."""
        return self._servers.get(host_of(user), {}).get(user, {}).values()

    def get(self, user: UserId, key: KeyT) -> ValueT | None:
        """An entry of a user, or None."""
        return self._servers.get(host_of(user), {}).get(user, {}).get(key)

    def put(self, user: UserId, key: KeyT, value: ValueT) -> None:
        """Put an entry in, as the newest of its user; one that is too much goes."""
        self.pop(user, key)
        server = host_of(user)
        self._servers.setdefault(server, {}).setdefault(user, {})[key] = value
        self._counts[server] = self._counts.get(server, 0) + 1
        self._size += 1
        if self._size > self._limit:
            users = self._servers[max(self._counts, key=self._counts.__getitem__)]
            most = max(users, key=lambda each: len(users[each]))
            self.pop(most, next(iter(users[most])))

    def pop(self, user: UserId, key: KeyT) -> ValueT | None:
        """Take an entry out, if it is there."""
        server = host_of(user)
        users = self._servers.get(server, {})
        entries = users.get(user, {})
        if key not in entries:
            return None
        value = entries.pop(key)
        self._counts[server] -= 1
        self._size -= 1
        if not entries:
            del users[user]
        if not users:
            del self._servers[server], self._counts[server]
        return value
