"""How many records of the audit those whom it watches can order.

Each user who is let in has a share for an hour, and each server whose users are turned away; all who are turned away
have one together as well, as they can make up servers. What is beyond a share is counted, and one record says at the
end of the hour how much that was. Nothing of this is for what must never be missing: calls that are allowed, ends of
sessions, and what admins do.
"""

from __future__ import annotations

from dataclasses import dataclass

from mxrtc_bridge.core.audit.chain import AuditKind, AuditRecord, Retention, retention

WINDOW_MS = 3600 * 1000
PER_USER = 500
"""Records of a user in a window."""
PER_SERVER = 500
"""Records of the users of a server that are turned away, in a window."""
TURNED_AWAY = 5000
"""Records of all that are turned away, in a window."""
MAX_OWNERS = 10_000
"""Users and servers with a share of their own; those beyond have one together."""
_ALL, _OTHERS = "", "*"


@dataclass(slots=True)
class _Share:
    until_ms: int
    taken: int = 0
    beyond: int = 0


class AuditShares:
    """The shares of this hour; asked for each record before it is written."""

    def __init__(
        self,
        *,
        per_user: int = PER_USER,
        per_server: int = PER_SERVER,
        turned_away: int = TURNED_AWAY,
        max_owners: int = MAX_OWNERS,
    ) -> None:
        self._max_owners = max_owners
        self._limits = {Retention.LET_IN: per_user, Retention.TURNED_AWAY: per_server}
        self._turned_away = turned_away
        self._shares: dict[tuple[Retention, str], _Share] = {}

    def __len__(self) -> int:
        """How many shares are remembered."""
        return len(self._shares)

    def take(self, record: AuditRecord, now_ms: int) -> bool:
        """Whether there is room for a record; if not, it is counted."""
        kind, owner = retention(record)
        # What people ask for is bounded where they ask.
        summed_up = record.kind is AuditKind.SERVICE or (record.kind is AuditKind.CALL and not record.allowed)
        if kind is Retention.ACT or not summed_up:
            return True
        everybody = self._share(kind, _ALL, now_ms)
        if kind is Retention.TURNED_AWAY and everybody.taken >= self._turned_away:
            owner = _OTHERS  # not a record for each of the servers that somebody makes up
        share = self._share(kind, owner, now_ms)
        if owner == _OTHERS or share.taken >= self._limits[kind]:
            share.beyond += record.count or 1
            return False
        share.taken += 1
        everybody.taken += 1
        return True

    def _share(self, kind: Retention, owner: str, now_ms: int) -> _Share:
        name = (kind, owner)
        if name not in self._shares and owner not in (_ALL, _OTHERS) and len(self._shares) >= self._max_owners:
            name = (kind, _OTHERS)
        return self._shares.setdefault(name, _Share(now_ms + WINDOW_MS))

    def over(self, now_ms: int, *, stopping: bool = False) -> list[AuditRecord]:
        """Forget the windows that are over, all of them at a stop; returns the records that say what was beyond."""
        # A clock that was set back must not make an hour longer.
        gone = [
            name
            for name, share in self._shares.items()
            if stopping or share.until_ms <= now_ms or share.until_ms > now_ms + WINDOW_MS
        ]
        ended = [(name, self._shares.pop(name)) for name in gone]
        return [_summary(*name, share.beyond, now_ms) for name, share in ended if share.beyond]


def _summary(kind: Retention, owner: str, beyond: int, now_ms: int) -> AuditRecord:
    if kind is Retention.LET_IN:
        user = None if owner == _OTHERS else owner
        reason = f"and {beyond} more uses by {user or 'other users'}"
        return AuditRecord(AuditKind.SERVICE, now_ms, user=user, allowed=True, count=beyond, reason=reason)
    users = f"users of {owner}" if owner != _OTHERS else "users of other servers"
    reason = f"and {beyond} more times {users} were turned away"
    user = None if owner == _OTHERS else f"@*:{owner}"
    return AuditRecord(AuditKind.CALL, now_ms, user=user, allowed=False, count=beyond, reason=reason)
