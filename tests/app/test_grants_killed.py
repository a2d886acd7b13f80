"""A bridge that is killed at any moment: after each restart the grants in force are those that the audit says."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.app.grants_world import World, grants_by_audit
from tests.long import LONG

ROUNDS = 100 if LONG else 8
"""On each of the two databases."""


@pytest.mark.timeout(1800)
async def test_grants_in_force_after_each_kill_are_those_that_the_audit_says(tmp_path: Path, url: str) -> None:
    rng = random.Random(11)
    folder, seen = tmp_path / "bridge", 0
    command = [sys.executable, "-m", "tests.app.killed_grants", str(folder), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as processes:
        assert processes.stdin is not None
        assert processes.stdout is not None
        for number in range(ROUNDS):
            print(number, file=processes.stdin, flush=True)
            said, _, pid = processes.stdout.readline().partition(" ")
            assert said == "open", number
            # Real time: where in its work the process dies is what is tried out here.
            time.sleep(rng.uniform(0.0, 0.4))
            os.kill(int(pid), signal.SIGKILL)
            assert processes.stdout.readline() == f"dead {-signal.SIGKILL}\n", "it goes on until it is killed"
            world = await World.start(folder, url)
            world.now_ms += number
            await world.settled()
            in_force = world.in_force()
            seen += len(in_force)
            assert in_force == await world.in_database(), number
            assert in_force == world.by_audit(), number
            assert not [told for told in world.told if "does not know" in told], number
            await world.stop()
            assert in_force == grants_by_audit(folder / "audit.jsonl", world.now_ms), number
        processes.stdin.close()
    assert seen, "grants were in force in some of the rounds"
