"""What an admin is told when something cannot be done."""

from __future__ import annotations

from mxrtc_bridge.core.errors import MxrtcError


class DeskError(MxrtcError):
    """What was asked for cannot be done; the sentence is for the admin who asked."""
