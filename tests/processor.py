"""What stands in a test for one kind of processor only."""

from __future__ import annotations

import platform

import pytest

OTHER_PROCESSOR = "is written for x86-64, and this is another processor"

needs_x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason=OTHER_PROCESSOR)
"""For tests with numbers of system calls, which each processor has others of."""
