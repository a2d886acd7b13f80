"""How much of something bounded each sender, server and room may take, so that nobody's flood is everybody's.

Pure counters. What is counted is the caller's: events that wait, work that runs. Servers are invented as easily as
users, so besides a share for each there is one for all foreign servers together, and places that only those with a
right may take. A right does not lift the shares of a sender and of a server: a rule may give one to a whole server.

Tables hold what is counted and nothing else, so they have at most as many entries as the total allows.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TypeVar

from mxrtc_bridge.core.ids import UserId, server_of

KeyT = TypeVar("KeyT", bound=str)

_PORT = re.compile(r":[0-9]{1,5}\Z")


class FullShare(Enum):
    """A share that is full; the text is for the log."""

    SENDER = "of one sender"
    SERVER = "of one server"
    ROOM = "of one room"
    FOREIGN = "of all foreign servers"
    OTHERS = "of all who have no right"
    TOTAL = "of everybody"


@dataclass(frozen=True, slots=True)
class ShareLimits:
    """How many each may have."""

    sender: int
    server: int
    """Of one foreign server; our own has no limit but those below."""
    foreign: int
    """Of all foreign servers together."""
    others: int
    """From this count on, whatever it consists of, only those with a right get more."""
    total: int
    room: int | None = None
    """Of one room; those with a right get more. None where rooms do not matter."""


@lru_cache(maxsize=4096)
def host_of(user: UserId) -> str:
    """The server of a user without its port: whoever has a name has all of its ports."""
    return _PORT.sub("", server_of(user)).lower()


class Shares:
    """Counts by sender, server and room.

    Args:
        limits: how many each may have.
        own_server: the server name of our homeserver.
    """

    def __init__(self, limits: ShareLimits, own_server: str) -> None:
        self.limits = limits
        self._own = _PORT.sub("", own_server).lower()
        self.clear()

    def clear(self) -> None:
        """Count from nothing."""
        self._senders: dict[str, int] = {}
        self._servers: dict[str, int] = {}
        self._rooms: dict[str, int] = {}
        self._foreign = 0
        self._total = 0

    def __len__(self) -> int:
        return self._total

    @property
    def table_sizes(self) -> tuple[int, int, int]:
        """Entries of the tables of senders, servers and rooms."""
        return len(self._senders), len(self._servers), len(self._rooms)

    def is_foreign(self, sender: UserId) -> bool:
        """Whether ``sender`` belongs to another homeserver."""
        return host_of(sender) != self._own

    def full(self, sender: UserId, room: str = "", *, has_right: Callable[[UserId], bool]) -> FullShare | None:
        """The share that leaves no place for one more, or None.

        Args:
            sender: who orders it.
            room: where.
            has_right: asked only where a right makes the difference.
        """
        limits, server = self.limits, host_of(sender)
        if self._senders.get(sender, 0) >= limits.sender:
            return FullShare.SENDER
        if server != self._own and self._servers.get(server, 0) >= limits.server:
            return FullShare.SERVER
        if self._total >= limits.total:
            return FullShare.TOTAL
        common = self._full_in_common(server, room)
        return None if common is None or has_right(sender) else common

    def _full_in_common(self, server: str, room: str) -> FullShare | None:
        limits = self.limits
        if limits.room is not None and self._rooms.get(room, 0) >= limits.room:
            return FullShare.ROOM
        if server != self._own and self._foreign >= limits.foreign:
            return FullShare.FOREIGN
        return FullShare.OTHERS if self._total >= limits.others else None

    def add(self, sender: UserId, room: str = "", count: int = 1) -> None:
        """Count what was taken, whatever :meth:`full` says."""
        server = host_of(sender)
        self._senders[sender] = self._senders.get(sender, 0) + count
        self._servers[server] = self._servers.get(server, 0) + count
        if self.limits.room is not None:
            self._rooms[room] = self._rooms.get(room, 0) + count
        self._foreign += count if server != self._own else 0
        self._total += count

    def remove(self, sender: UserId, room: str = "") -> None:
        """Take back one :meth:`add`; what was never counted changes nothing."""
        if sender not in self._senders:
            return
        server = host_of(sender)
        count_down(self._senders, sender)
        count_down(self._servers, server)
        if self.limits.room is not None:
            count_down(self._rooms, room)
        self._foreign -= server != self._own
        self._total -= 1


def count_down(counts: dict[KeyT, int], key: KeyT) -> None:
    """One fewer of something; none is no entry."""
    left = counts.get(key, 0) - 1
    if left > 0:
        counts[key] = left
    else:
        counts.pop(key, None)
