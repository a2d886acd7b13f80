"""What may be said now, and what has been said often enough: for log lines that strangers can order.

Pure: whoever owns it tells the time. In one period each subject has one line, or as many as it may have, and there are
:attr:`LogRate.subjects` of them; what is left unsaid is counted. Users, rooms and servers of one domain have no more
places than it leaves for others: as many users as somebody makes up, half of the places are left for whoever comes.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Hashable

PERIOD_S = 3600.0


class LogRate:
    """See the head of this module.

    Args:
        period_s: begins when a subject is mentioned.
        subjects: how many there may be in that time.
        lines: how often a subject may be mentioned in it.
    """

    def __init__(self, *, period_s: float = PERIOD_S, subjects: int = 200, lines: int = 1) -> None:
        self.subjects = subjects
        self._period_s = period_s
        self._lines = lines
        self._said: OrderedDict[Hashable, list[float]] = OrderedDict()
        """By subject: when its period began, what has been left unsaid, and what was said; the oldest is first."""
        self._held: Counter[str] = Counter()
        """Places by domain."""
        self._unsaid = 0
        """Of subjects that were not mentioned at all."""
        self._unsaid_since = math.inf

    def __len__(self) -> int:
        """How many subjects are remembered."""
        return len(self._said)

    def due(self, subject: Hashable, now: float) -> int | None:
        """Whether ``subject`` may be mentioned: how many times it was not since it last was; None if it may not.

        Args:
            subject: what the line is about.
            now: monotonic seconds.
        """
        entry = self._said.get(subject)
        if entry is not None and now - entry[0] < self._period_s:
            if entry[2] < self._lines:
                entry[2] += 1
                return 0
            entry[1] += 1
            return None
        unsaid = 0 if entry is None else int(entry[1])
        self._forget(subject)
        for _, left in self._ended(now):
            self._leave_out(left, now)
        domain = _domain_of(subject)
        if self._held[domain] >= self.subjects - len(self._said):
            self._leave_out(unsaid + 1, now)
            return None
        self._said[subject] = [now, 0, 1]
        self._held[domain] += domain != ""
        unsaid, self._unsaid, self._unsaid_since = unsaid + self._unsaid, 0, math.inf
        return unsaid

    def left_out(self, now: float, *, but: Hashable = None) -> list[tuple[Hashable, int]]:
        """Take the subjects whose period is over, with how often each was not mentioned; 0 is left out.

        What is taken is counted from nothing. None stands for all subjects that had no line at all.

        Args:
            now: monotonic seconds; infinite for all, whatever their period.
            but: a subject that is about to be mentioned, which :meth:`due` will tell of.
        """
        found: list[tuple[Hashable, int]] = [(subject, left) for subject, left in self._ended(now, but) if left]
        if self._unsaid and now - self._unsaid_since >= self._period_s:
            found.append((None, self._unsaid))
            self._unsaid, self._unsaid_since = 0, math.inf
        return found

    def knows(self, subject: Hashable) -> bool:
        """Whether something will be said of a subject yet, where it was left unsaid; None for those without a line."""
        return bool(self._unsaid) if subject is None else subject in self._said

    def _leave_out(self, count: int, now: float) -> None:
        if count and not self._unsaid:
            self._unsaid_since = now
        self._unsaid += count

    def _ended(self, now: float, but: Hashable = None) -> list[tuple[Hashable, int]]:
        ended: list[tuple[Hashable, int]] = []
        for subject, (began, left, _) in self._said.items():
            if now - began < self._period_s:
                break
            if subject != but:
                ended.append((subject, int(left)))
        for subject, _ in ended:
            self._forget(subject)
        return ended

    def _forget(self, subject: Hashable) -> None:
        if self._said.pop(subject, None) is not None and (domain := _domain_of(subject)):
            self._held[domain] -= 1
            if not self._held[domain]:
                del self._held[domain]


def _domain_of(subject: Hashable) -> str:
    """What the owner of a subject cannot make up without end, roughly: the last two labels of its server; or nothing.

    A room may have an id that names no server (room version 12). Of several things it is the first that has an owner.
    """
    if isinstance(subject, tuple):
        return next(filter(None, map(_domain_of, subject)), "")
    if not isinstance(subject, str) or not ("." in subject or subject[:1] in "!@"):
        return ""
    host = subject.partition(":")[2] if subject[:1] in "!@#$" else subject
    return ".".join(host.partition(":")[0].lower().rstrip(".").split(".")[-2:]) or "!"
