"""Glare: both sides place a call to each other at the same time, and one of the two calls must give way.

The specification lets the call with the lexicographically lesser ``call_id`` win. That works only if both sides
resolve glare, and those we meet do not: Element sends no ``invitee``, so its own rule never matches, and while it has
a call in the room it drops ours without a word. Keeping our call against it would leave two calls that nobody
answers. So the side decides, not the id, and our two kinds of ends never decide the same:

* the service side (a virtual user) answers the user's call and drops its own with the hangup reason ``replaced``;
* the user's side keeps its own call and leaves that of the service unanswered.
"""

from __future__ import annotations

from enum import Enum

from mxrtc_bridge.core.events import Invite

REPLACED = "replaced"
"""The hangup reason of a call that gave way; js-sdk uses the same word."""


class GlareWinner(Enum):
    """Which of two crossing calls goes on."""

    OURS = "ours"
    THEIRS = "theirs"


def resolve_glare(ours: Invite, theirs: Invite, *, local_is_service: bool) -> GlareWinner:
    """Decide between our pending call and one that came in meanwhile, between the same two users in the same room.

    Args:
        ours: our invite, not yet answered. Once it is answered there is no glare any more.
        theirs: the invite that came in.
        local_is_service: whether our side is a virtual user of the bridge rather than a person's client.

    Returns:
        the winner. An invite that takes our own ``call_id`` never wins: an honest client draws its own.
    """
    if ours.call_id == theirs.call_id:
        return GlareWinner.OURS
    return GlareWinner.THEIRS if local_is_service else GlareWinner.OURS
