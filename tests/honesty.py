"""How fakes that stand for somebody else's truth can lie: homeservers, databases.

Such a fake has an attribute ``honesty``. A test says by it what it needs; who says nothing gets the truth.
"""

from __future__ import annotations

from enum import Enum

from mxrtc_bridge.core.errors import HomeserverError


class Honesty(Enum):
    """What whoever asks gets to hear.

    A right is given by no answer but a true one, silence ends no live session, and what was taken away stays away
    whatever is said then.
    """

    TRUE = "true"
    """What is so now."""
    STALE = "stale"
    """What was so when the fake was told to lie, whatever has happened since. A database loses what is written."""
    SILENT = "silent"
    """Nothing: the question fails, or hangs with a database. Who asked knows no more than before."""
    WRONG = "wrong"
    """Something that is no answer, of another shape; a database refuses. To be taken for silence."""


LIES = (Honesty.STALE, Honesty.SILENT, Honesty.WRONG)
NO_ANSWERS = (Honesty.SILENT, Honesty.WRONG)


def failure(honesty: Honesty) -> HomeserverError | None:
    """What the border makes of it for whoever asks through it; None for an answer."""
    match honesty:
        case Honesty.SILENT:
            return HomeserverError("away", 502)
        case Honesty.WRONG:
            return HomeserverError("the answer holds no list", 200)
    return None
