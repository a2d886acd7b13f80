"""Candidates of the other side: kept until there is a remote description, then passed on, bounded over the whole call.

Before the first answer the caller cannot know which party's candidates will count, so lines are kept with the party
that sent them. The end-of-candidates mark is not kept: clients leave it out, and nothing here waits for it.
"""

from __future__ import annotations

from mxrtc_bridge.core.call.events import MAX_CANDIDATES, CandidateLine, Candidates
from mxrtc_bridge.core.ids import PartyId

MAX_REMOTE_CANDIDATES = MAX_CANDIDATES
"""Candidates taken in a whole call. Every one costs connectivity checks towards an address of the sender's choice."""


class RemoteCandidates:
    """The store of one call.

    Attributes:
        dropped: how many lines came beyond the bound.
    """

    def __init__(self) -> None:
        self._waiting: list[tuple[PartyId | None, CandidateLine]] = []
        self._taken = 0
        self._passing = False
        self.dropped = 0

    def receive(self, message: Candidates) -> tuple[CandidateLine, ...]:
        """Take a batch; returns the lines to pass on now."""
        lines = message.candidates[: MAX_REMOTE_CANDIDATES - self._taken]
        self.dropped += len(message.candidates) - len(lines)
        self._taken += len(lines)
        if self._passing:
            return lines
        self._waiting += [(message.party_id, line) for line in lines]
        return ()

    def open_for(self, party: PartyId | None) -> tuple[CandidateLine, ...]:
        """Begin to pass on; returns what ``party`` has sent so far. Lines of other parties count no more."""
        lines = tuple(line for sender, line in self._waiting if sender == party)
        self._waiting.clear()
        self._taken = len(lines)
        self._passing = True
        return lines

    def clear(self) -> None:
        """Forget what waits: the call is over."""
        self._waiting.clear()
