"""Whether the tests take the time to look long: more kills, larger files.

``make test-long`` says so with ``MXRTC_LONG_TESTS=1``; an ordinary run does the same things a few times.
"""

from __future__ import annotations

import os

LONG = os.environ.get("MXRTC_LONG_TESTS", "") not in {"", "0"}
