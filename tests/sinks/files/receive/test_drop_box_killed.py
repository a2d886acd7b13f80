"""A receiving process that is killed at any moment leaves whole files, or none, and goes on."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mxrtc_bridge.sinks.files.receive.drop_box import read_box
from tests.long import LONG
from tests.sinks.files.receive.killed_writer import SIZES, data_of, path_of
from tests.sinks.files.receive.senders import files_in, partials_in

KILLS = 60 if LONG else 6


def check_visible(box: Path, expected: dict[str, bytes]) -> int:
    seen = files_in(box)
    for name, data in seen.items():
        assert expected[name] == data, name
    return len(seen)


def start(box: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.sinks.files.receive.killed_writer", str(box)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process


@pytest.mark.real
@pytest.mark.timeout(900)
def test_a_killed_receiver_leaves_no_half_file_and_goes_on(tmp_path: Path) -> None:
    """Every round starts with an empty box or with what the killed one left; in the end all is there, once."""
    expected = {path_of(number): data_of(number) for number in range(len(SIZES))}
    rng = random.Random(7)
    killed = rounds = 0
    while killed < KILLS:
        box = tmp_path / str(rounds)
        rounds += 1
        finished = False
        while not finished:
            process = start(box)
            assert process.stdout is not None
            # Real time: where in its work the process dies is what is tried out here.
            time.sleep(rng.uniform(0.0, 0.5) if killed < KILLS else 60.0)
            finished = process.poll() is not None
            process.kill()
            process.wait()
            process.stdout.close()
            assert process.returncode in {0, -9}
            killed += process.returncode == -9
            check_visible(box, expected)
            if killed >= KILLS:
                break
        process = start(box)
        assert process.stdout is not None
        assert process.wait(120) == 0
        process.stdout.close()
        assert check_visible(box, expected) == len(expected)
        assert partials_in(box) == []
        present = [entry.receipt for entry in read_box(box) if entry.present and not entry.receipt.is_directory]
        assert {receipt.name for receipt in present} == set(expected)
