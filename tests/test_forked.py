"""Tests that run in forks: each once, with what it would have elsewhere, and none gets lost."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_conftest import ROOT

pytestmark = pytest.mark.programs

FILE = """
import os, pathlib, signal, pytest

PARENT = os.getpid()

@pytest.fixture(scope="module")
def shared():
    with open("made", "a") as file:
        print(os.getpid(), file=file)

@pytest.mark.parametrize("number", range(30))
def test_ordinary(number, shared, tmp_path):
    with open("run", "a") as file:
        print(__name__, number, tmp_path, file=file)
    print(f"said {number} of {__name__}.")

def test_last(shared):
    LAST
"""


def run(folder: Path, last: str, *options: str, files: int = 4, forks: int = 3) -> subprocess.CompletedProcess[str]:
    """Run files of 31 tests each, of which the last does something."""
    for number in range(files):
        (folder / f"test_{number}.py").write_text(FILE.replace("LAST", last))
    (folder / "pytest.ini").write_text("[pytest]\nasyncio_default_fixture_loop_scope = function\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.forked", "--forks", str(forks), *options]
    return subprocess.run(
        command, cwd=folder, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=120, check=False
    )


def test_each_test_is_run_once_in_a_few_processes_with_a_folder_of_its_own(tmp_path: Path) -> None:
    result = run(tmp_path, "pass")
    assert (result.returncode, result.stderr) == (pytest.ExitCode.OK, ""), result.stdout
    assert "124 passed" in result.stdout
    rows = [line.split() for line in (tmp_path / "run").read_text().splitlines()]
    tests = {(module, number) for module, number, _ in rows}
    assert len(rows) == len(tests) == len({folder for _, _, folder in rows}) == 120
    # Consecutive tests of a file share what its fixtures make.
    made = (tmp_path / "made").read_text().split()
    assert len(made) == 4
    assert len(set(made)) <= 3


def test_a_failure_is_told_with_what_its_test_has_printed_and_no_other(tmp_path: Path) -> None:
    result = run(tmp_path, "assert [print(__name__ + '!') for _ in range(3000)] == 3")
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    assert "4 failed, 120 passed" in result.stdout
    told = [part.split("___\n")[0] for part in result.stdout.split("Captured stdout call")[1:]]
    said = [[line for line in part.splitlines() if line.endswith("!")] for part in told]
    assert sorted(said) == [[f"test_{number}!"] * 3000 for number in range(4)]
    assert "said " not in result.stdout


def test_a_test_that_takes_too_long_fails_and_the_others_go_on(tmp_path: Path) -> None:
    result = run(tmp_path, "signal.pause()", "--timeout=1")
    assert "4 failed, 120 passed" in result.stdout
    assert "Timeout (>1.0s)" in result.stdout


def test_a_test_whose_process_ends_has_failed_and_what_is_not_run_then_is_counted(tmp_path: Path) -> None:
    result = run(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)", files=2, forks=1)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    assert "the process of test_0.py::test_last ended with exit code -9" in result.stdout
    assert "31 tests were not run" in result.stdout
    assert "1 failed, 30 passed" in result.stdout


def test_forks_end_with_the_process_that_has_made_them(tmp_path: Path) -> None:
    """They have nobody to report to; one that waited for that would keep its output open, and this test waiting."""
    # Its ends of the pipes are closed before its forks get another parent.
    last = "if os.getppid() == PARENT: os.kill(PARENT, signal.SIGKILL)\n    while os.getppid() == PARENT: pass"
    result = run(tmp_path, last, files=20, forks=1)
    assert result.returncode == -signal.SIGKILL
    assert len((tmp_path / "run").read_text().splitlines()) == 30


def test_nothing_more_is_run_after_as_many_failures_as_are_wanted(tmp_path: Path) -> None:
    result = run(tmp_path, "assert False", "-x", files=3, forks=1)
    assert result.returncode == pytest.ExitCode.TESTS_FAILED
    assert "1 failed, 30 passed" in result.stdout


def test_what_cannot_be_collected_ends_it(tmp_path: Path) -> None:
    (tmp_path / "test_broken.py").write_text("import no_such_module")
    result = run(tmp_path, "pass")
    assert result.returncode == pytest.ExitCode.INTERRUPTED
    assert not (tmp_path / "run").exists()
