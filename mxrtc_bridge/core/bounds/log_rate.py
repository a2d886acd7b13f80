"""What may be said now, and what has been said often enough: for log lines that strangers can order.

Pure: whoever owns it tells the time. In one period each subject has one line, and all subjects together have
:attr:`LogRate.subjects`; what is left unsaid is counted.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

PERIOD_S = 3600.0


class LogRate:
    """See the head of this module.

    Args:
        period_s: how long a subject is not mentioned again.
        subjects: how many there may be in that time.
    """

    def __init__(self, *, period_s: float = PERIOD_S, subjects: int = 200) -> None:
        self.subjects = subjects
        self._period_s = period_s
        self._said: OrderedDict[Hashable, list[float]] = OrderedDict()
        """By subject: when it was said, and what has been left unsaid since; the one that was said first is first."""
        self._unsaid = 0
        """Of subjects that were not mentioned at all."""

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
            entry[1] += 1
            return None
        unsaid = 0 if entry is None else int(entry[1])
        self._said.pop(subject, None)
        while self._said and now - next(iter(self._said.values()))[0] >= self._period_s:
            _, (_, left) = self._said.popitem(last=False)
            self._unsaid += int(left)
        if len(self._said) >= self.subjects:
            self._unsaid += unsaid + 1
            return None
        self._said[subject] = [now, 0]
        unsaid, self._unsaid = unsaid + self._unsaid, 0
        return unsaid
