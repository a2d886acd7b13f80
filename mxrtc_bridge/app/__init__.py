"""The bridge put together: the one place that knows every edge."""

from __future__ import annotations

from mxrtc_bridge.app.bridge import run
from mxrtc_bridge.app.check import check

__all__ = ["check", "run"]
