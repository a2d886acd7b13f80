"""Limits: how fresh an invite must be, how often a user may call, how many calls may live, how long others may take.

Pure counters; whoever owns them tells the time. All of them are bounded in the number of users they remember, so that
a server full of invented users cannot grow them.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from mxrtc_bridge.core.bounds.shares import count_down, host_of
from mxrtc_bridge.core.ids import UserId, server_of

OWN_SERVER_FACTOR = 50
"""How many times as much as those of another homeserver all users of our own together may do.

What a server may do is bounded because whoever has one can make up its users. Those of our own are made by its admin,
who is ours, and each of them has a bound; so all of them may come at once, as after a start of the bridge.
"""

CLOCK_TOLERANCE_MS = 60_000
"""How far the clocks of two homeservers may be apart, beyond the lifetime of the invite."""

MAX_REMEMBERED = 10_000
"""Users that one limiter remembers; beyond that the one seen longest ago is forgotten."""

BUSY = "user_busy"
"""The reason of a refusal after which the same call may be let in at another time."""
BUSY_ANSWERS_A_MINUTE, BUSY_ANSWERS_A_MINUTE_OF_SERVER = 6, 60
"""How often a user, and all users of one other homeserver, are told that a limit is reached; then they hear nothing."""
STRANGERS_A_MINUTE = 120
"""Calls of users without a right that are looked at and refused: of those of our homeserver, and of all others.

Each of them costs a record and an answer, and servers are made up as easily as users; the rest hears nothing.
"""
LIMIT_LOG_S = 60.0
"""How often the log says so, with the number of those that it has not named."""


def owner_of(user: UserId, own_server: str) -> str:
    """Whose a user is: our homeserver's by its whole name, or another host's, which has all of its ports."""
    server = server_of(user)
    return server if server == own_server else f"host {host_of(user)}"


def is_fresh(sent_at_ms: int, lifetime_ms: int, now_ms: int) -> bool:
    """Whether an invite may still be answered.

    ``origin_server_ts`` is set by the sender's server and proves nothing; this only sorts out honest latecomers
    (a homeserver that delivers its backlog). Replays are caught by the call directory.
    """
    return abs(now_ms - sent_at_ms) <= lifetime_ms + CLOCK_TOLERANCE_MS


class RateLimit:
    """A token bucket for each user and for each server.

    Args:
        per_user: invites a minute of one user.
        per_server: invites a minute of all users of one server.
        own_server: our homeserver, whose users together may do :data:`OWN_SERVER_FACTOR` times as much.
    """

    def __init__(self, per_user: int, per_server: int, own_server: str = "") -> None:
        self._a_minute = (per_user, per_server, per_server * OWN_SERVER_FACTOR)
        self._own_server = own_server.lower()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    @property
    def remembered(self) -> int:
        """Users and servers that have a bucket of their own."""
        return len(self._buckets)

    def allow(self, user: UserId, now: float) -> bool:
        """Take one token from both buckets of ``user``, or none from either.

        Args:
            user: who calls.
            now: monotonic seconds.
        """
        keys = (user, owner_of(user, self._own_server))
        rates = (self._a_minute[0], self._a_minute[2 if keys[1] == self._own_server else 1])
        levels = [self._level(key, rate, now) for key, rate in zip(keys, rates, strict=True)]
        allowed = all(level >= 1 for level in levels)
        for key, level in zip(keys, levels, strict=True):
            self._buckets[key] = (level - 1 if allowed else level, now)
            self._buckets.move_to_end(key)
        while len(self._buckets) > MAX_REMEMBERED:
            self._buckets.popitem(last=False)
        return allowed

    def reached(self, user: UserId, now: float) -> str:
        """Name the rate that :meth:`allow` has refused ``user`` by, with its number."""
        if self._level(user, self._a_minute[0], now) < 1:
            return f"invites_per_minute {self._a_minute[0]}"
        rate = self._a_minute[2 if server_of(user) == self._own_server else 1]
        return f"invites_per_minute_per_server {rate}"

    def _level(self, key: str, a_minute: int, now: float) -> float:
        burst = float(max(1, a_minute))
        level, since = self._buckets.get(key, (burst, now))
        return min(burst, level + (now - since) * a_minute / 60)


@dataclass(frozen=True, slots=True)
class CallLimits:
    """How many calls may live at a time."""

    per_user: int = 4
    per_server: int = 20
    """Of all users of one other homeserver."""
    total: int = 200


class LiveCalls:
    """Counts live calls by user and by server of the user; users of our own homeserver have no limit together.

    Args:
        limits: how many there may be; may be replaced.
        own_server: our homeserver.
    """

    def __init__(self, limits: CallLimits, own_server: str = "") -> None:
        self.limits = limits
        self._own_server = own_server.lower()
        self._total = 0
        self._by_user: dict[UserId, int] = {}
        self._by_server: dict[str, int] = {}

    @property
    def remembered(self) -> int:
        """Users and servers that are counted."""
        return len(self._by_user) + len(self._by_server)

    def begin(self, user: UserId) -> bool:
        """Count a new call of ``user``; False, and nothing is counted, where a limit is reached."""
        server = owner_of(user, self._own_server)
        if (
            self._total >= self.limits.total
            or self._by_user.get(user, 0) >= self.limits.per_user
            or (server != self._own_server and self._by_server.get(server, 0) >= self.limits.per_server)
        ):
            return False
        self._total += 1
        self._by_user[user] = self._by_user.get(user, 0) + 1
        self._by_server[server] = self._by_server.get(server, 0) + 1
        return True

    def reached(self, user: UserId) -> str:
        """Name the limit that :meth:`begin` has refused ``user`` by, with its number; the user's own counts first."""
        limits = self.limits
        if self._by_user.get(user, 0) >= limits.per_user:
            return f"calls_per_user {limits.per_user}"
        server = owner_of(user, self._own_server)
        if server != self._own_server and self._by_server.get(server, 0) >= limits.per_server:
            return f"calls_per_server {limits.per_server}"
        return f"calls_total {limits.total}"

    def end(self, user: UserId) -> None:
        """Take back one :meth:`begin` of ``user`` that returned True."""
        self._total -= 1
        count_down(self._by_user, user)
        count_down(self._by_server, owner_of(user, self._own_server))

    def __len__(self) -> int:
        return self._total
