"""How far a request to the homeserver has got: whoever waits for it in vain learns what was silent."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum


class Reach(Enum):
    """What a request waits for."""

    NAME = "a resolver to say where the homeserver is"
    CONNECTION = "the homeserver to take a connection"
    ANSWER = "the homeserver"

    def silence(self, timeout_s: float) -> str:
        """Say that it was waited for in vain, for so many seconds."""
        return _SILENCE[self].format(f"{timeout_s:g}")


_SILENCE = {
    Reach.NAME: "the homeserver cannot be reached: no resolver said within {} seconds where it is",
    Reach.CONNECTION: "the homeserver cannot be reached: it took no connection within {} seconds",
    Reach.ANSWER: "the homeserver did not answer within {} seconds",
}


class RequestProgress:
    """How far the requests of one transport have got: the last step of any of them, as all have the same way.

    Args:
        by_name: whether the homeserver is known by a name, and not by an address.
        on_reach: told of each step.
    """

    def __init__(self, by_name: bool, on_reach: Callable[[Reach], None]) -> None:
        self.reach = Reach.ANSWER
        self._by_name = by_name
        self._on_reach = on_reach
        self._resolving = False

    def connecting(self) -> None:
        """A new connection is wanted, which needs an address first."""
        self._take(Reach.NAME if self._by_name else Reach.CONNECTION)

    def resolving(self) -> None:
        """A resolver is asked."""
        self._resolving = True

    def resolved(self) -> None:
        """A resolver has answered."""
        self._resolving = False
        self._take(Reach.CONNECTION)

    def known(self) -> None:
        """The address is known already, or will be by the question of another request."""
        if not self._resolving:
            self._take(Reach.CONNECTION)

    def connected(self) -> None:
        """A request has its connection."""
        self._take(Reach.ANSWER)

    def _take(self, reach: Reach) -> None:
        self.reach = reach
        self._on_reach(reach)
