"""The terminal that a program is started from."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest

PROGRAM = """
import sys, termios
from mxrtc_bridge.system import terminal
terminal.may_be_set_by_this_thread()
before = terminal.modes()
changed = termios.tcgetattr(0)
changed[3] &= ~termios.ECHO
termios.tcsetattr(0, termios.TCSANOW, changed)
print(before is not None, terminal.restore(before))
"""


@pytest.mark.parametrize(("portable", "said"), [("", "True True"), ("windows", "False False")])
def test_modes_are_put_back_where_there_are_any(portable: str, said: str) -> None:
    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-c", f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n{PROGRAM}"],
        env={**os.environ, "MXRTC_PORTABLE": portable},
        stdin=follower,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    assert done.stdout.strip() == said, done.stderr
    assert bool(termios.tcgetattr(follower)[3] & termios.ECHO) is (portable == "")
    os.close(leader)
    os.close(follower)


def test_without_a_terminal_there_are_no_modes() -> None:
    program = "from mxrtc_bridge.system import terminal; print(terminal.modes(), terminal.restore(None))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )
    assert done.stdout.strip() == "None False", done.stderr
