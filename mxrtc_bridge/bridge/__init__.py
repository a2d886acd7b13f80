"""The bridge put together: the one place that knows every edge."""

from __future__ import annotations

from mxrtc_bridge.bridge.check import check
from mxrtc_bridge.bridge.runner import run

__all__ = ["check", "run"]
