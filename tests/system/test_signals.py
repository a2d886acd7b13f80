"""Signals that a thread waits for; in processes of their own, as they set what those have as a whole."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

SIDES = pytest.mark.parametrize("portable", ["", "windows"])
# The main thread does something that no handler of Python interrupts.
PROGRAM = """
import os, signal, sys, threading, time
from mxrtc_bridge.system.signals import Signals
taken = Signals()
came = []
def wait():
    came.append(taken.wait())
    came.append(taken.came_within(0.05))
    os.kill(os.getpid(), signal.SIGTERM)
    came.append(taken.came_within(20))
thread = threading.Thread(target=wait)
thread.start()
os.kill(os.getpid(), signal.SIGINT)
thread.join(30)
print(*came)
"""


@SIDES
def test_signals_come_one_after_the_other_to_the_thread_that_waits(portable: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "MXRTC_PORTABLE": portable},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.stdout.split(), done.returncode) == ([str(int(signal.SIGINT)), "False", "True"], 0), done.stderr


@SIDES
def test_a_main_thread_that_hangs_does_not_keep_signals_from_the_other(portable: str) -> None:
    program = """
import os, threading
from mxrtc_bridge.system.signals import Signals
taken = Signals()
def wait():
    taken.wait()
    os._exit(7)
threading.Thread(target=wait, daemon=True).start()
print("ready", flush=True)
lock = threading.Lock(); lock.acquire(); lock.acquire(timeout=60)
"""
    env = {**os.environ, "MXRTC_PORTABLE": portable}
    with subprocess.Popen([sys.executable, "-c", program], env=env, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 7
