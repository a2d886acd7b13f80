"""Whether other commands depend on this process at the moment, for whoever is about to end it."""

from __future__ import annotations

from collections.abc import Callable


class Lending:
    """What one command lends to others."""

    def __init__(self) -> None:
        self.guests: Callable[[], int] = lambda: 0
        """How many commands use connections of this one; may be asked in any thread."""
        self.asked_to_end = False
        """Whether somebody has asked this command to end, and it stays for the others."""

    def stay(self) -> bool:
        """Say whether this process has to outlive its own command; called in another thread."""
        if not self.guests():
            return False
        self.asked_to_end = True
        return True
