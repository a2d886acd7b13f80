"""How long to wait after a failure before the next attempt: pauses that double up to a limit."""

from __future__ import annotations

from dataclasses import dataclass

LONGEST_ASKED_S = 300.0
"""A pause that somebody else asks for is not kept any longer: they may mean an hour, and be there in a minute."""

_MOST_DOUBLINGS = 30
"""So that a count of failures that grows for weeks never overflows a float."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential backoff.

    Args:
        first_s: seconds after the first failure.
        longest_s: seconds that no pause exceeds, but for the jitter.
    """

    first_s: float
    longest_s: float

    def pause_s(self, failures: int, jitter: float = 0.5, asked_s: float = 0.0) -> float:
        """Seconds to wait after so many failures in a row.

        Args:
            failures: from 1.
            jitter: a number in [0, 1) that spreads those who failed together over a quarter to either side.
            asked_s: what the other side asks for, kept up to :data:`LONGEST_ASKED_S`.
        """
        pause = min(self.first_s * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), self.longest_s)
        return max(pause * (0.75 + jitter / 2), min(asked_s, LONGEST_ASKED_S))
