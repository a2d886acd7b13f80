"""The command line of mxrtc where nobody sits before it."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = "from mxrtc_bridge.cli.client.main import ask_password; print(ask_password('@alice:example.test'))"


@pytest.mark.programs
@pytest.mark.parametrize(("typed", "read"), [(b"", b"\n"), (b"secret word \nmore\n", b"secret word \n")])
def test_password_is_the_first_line_of_the_input_where_there_is_no_terminal(typed: bytes, read: bytes) -> None:
    """And no library warns of an echo, with a path of this machine, which there is not."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=typed, capture_output=True, start_new_session=True, check=True
    )
    assert (done.stdout, done.stderr) == (read, b"")
