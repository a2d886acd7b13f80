"""Files in memory where there is room: thousands of tests would wait for a disk, which is no part of what they test.

A database and an audit file ask the disk to confirm each thing that they write. What a test looks at, such as modes,
locks and what a killed process leaves behind, is the same there; what a power failure leaves behind is not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.synapse_forks import databases_folder


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Take the place of pytest's own in a folder of tests whose ``conftest.py`` imports it."""
    with tempfile.TemporaryDirectory(prefix="mxrtc-", dir=databases_folder()) as folder:
        yield Path(folder)
