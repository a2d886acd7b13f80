"""How much something costs, counted in lines that run and not in time, so that it is the same everywhere."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

PACKAGE = "mxrtc_bridge"


def lines(work: Callable[[], object], where: str) -> int:
    """Run ``work``; return how many lines ran of the files of the product whose path begins with ``where``."""
    count = 0

    def line(_frame: FrameType, event: str, _arg: Any) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, _event: str, _arg: Any) -> Any:
        return line if f"{PACKAGE}/{where}" in frame.f_code.co_filename else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        work()
    finally:
        sys.settrace(before)
    return count
