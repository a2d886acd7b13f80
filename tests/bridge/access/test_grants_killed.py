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

from tests.bridge.access.grants_world import World, closed_worlds, grants_by_audit
from tests.long import LONG

__all__ = ["closed_worlds"]

ROUNDS = 200 if LONG else 15
"""On each of the two databases."""


class Killed:
    """What gives and takes grants in another process, again and again."""

    def __init__(self, folder: Path, url: str) -> None:
        command = [sys.executable, "-m", "tests.bridge.access.killed_grants", str(folder), url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, seed: int, seconds: float) -> dict[str, set[int]]:
        """Let it work for a while, kill it, and return what it has told people."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{seed}\n")
        self._process.stdin.flush()
        what, process = self._said()
        assert what == "open"
        # Real time: where in its work the process dies is what is tried out here.
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
        told: dict[str, set[int]] = {"given": set(), "ending": set(), "ended": set()}
        while (line := self._said())[0] != "dead":
            told[line[0]].add(line[1])
        return told

    def _said(self) -> tuple[str, int]:
        assert self._process.stdout is not None
        what, number = self._process.stdout.readline().split()
        return what, int(number)

    def close(self) -> None:
        self._process.communicate()


@pytest.mark.real
@pytest.mark.timeout(1800)
async def test_grants_in_force_after_each_kill_are_those_that_the_audit_says(tmp_path: Path, url: str) -> None:
    rng = random.Random(11)
    folder = tmp_path / "bridge"
    killed = Killed(folder, url)
    given, ended, seen = 0, 0, 0
    try:
        before: set[int] = set()
        for number in range(ROUNDS):
            told = killed.run(number, rng.uniform(0.0, 0.4))
            world = await World.start(folder, url)
            world.now_ms += number
            await world.settled()
            in_force = world.in_force()
            lasting = {grant.number for grant in world.given.table if not grant.once}
            assert in_force == await world.in_database(), number
            assert in_force == world.by_audit(), number
            # The audit knew of an end first: that is said, and nothing else.
            assert not [each for each in world.told if "had ended by the audit" not in each], number
            # What people were told is so.
            assert (before | told["given"]) - told["ending"] <= in_force, number
            assert not told["ended"] & in_force, number
            await world.stop()
            assert in_force == grants_by_audit(folder / "audit.jsonl", world.now_ms), number
            before = lasting
            given, ended, seen = given + len(told["given"]), ended + len(told["ended"]), seen + len(in_force)
    finally:
        killed.close()
    print(f"{ROUNDS} kills: {given} grants told as given, {ended} as ended, {seen} found in force")
    assert given
    assert ended
    assert seen
