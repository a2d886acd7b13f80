"""What an admin is told when something cannot be done."""

from __future__ import annotations

from mxrtc_bridge.core.errors import MxrtcError


class DeskError(MxrtcError):
    """What was asked for cannot be done; the sentence is for the admin who asked."""


CHANGED = "! %s shows another identity than before; on purpose? mxrtc-bridge trust %s"
"""What the log says when somebody is refused for it; twice the user."""
