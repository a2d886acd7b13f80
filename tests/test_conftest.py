"""What all tests rely on, whoever starts them."""

from __future__ import annotations

import os
import platform
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import LONGEST_FIRST, REAL_FIXTURES, REAL_FOLDERS

ROOT = Path(__file__).parent.parent
HEARD = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE]


@pytest.mark.parametrize("number", HEARD)
def test_started_program_hears_signals(number: signal.Signals) -> None:
    said = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    (ignored,) = (int(line.split()[1], 16) for line in said.splitlines() if line.startswith("SigIgn:"))
    assert not ignored >> (number - 1) & 1


@pytest.mark.programs
def test_started_program_hears_signals_though_who_started_the_tests_ignores_them() -> None:
    names = " ".join(number.name.removeprefix("SIG") for number in HEARD)
    inner = f"{Path(__file__).relative_to(ROOT)}::{test_started_program_hears_signals.__name__}"
    command = ["sh", "-c", f"trap '' {names}; exec \"$@\"", "sh", sys.executable, "-m", "pytest", "-n", "1", inner]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert f"{len(HEARD)} passed" in result.stdout


@pytest.mark.programs
@pytest.mark.parametrize("other", [False, True])
def test_only_for_another_processor_a_test_is_skipped_for_root(tmp_path: Path, other: bool) -> None:
    """The system says that the processor is another one, as it does for programs of 32 bits."""
    test = tmp_path / "test_skips.py"
    test.write_text(
        "import pytest\n"
        "from tests.processor import needs_x86_64\n"
        "@needs_x86_64\ndef test_of_processor(): pass\n"
        "@pytest.mark.skipif(True, reason='needs something')\ndef test_of_something(): pass\n"
    )
    pretending = ["setarch", "linux32"] if other else []
    options = ["-p", "tests.conftest", "--rootdir", str(tmp_path), "-rA", "-o", "asyncio_mode=auto"]
    command = [*pretending, sys.executable, "-m", "pytest", *options, str(test)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False).stdout
    something = "ERROR" if os.geteuid() == 0 else "SKIPPED"
    assert re.search(rf"^{something} .*something", said, re.M), said
    of_processor = "PASSED" if not other and platform.machine() == "x86_64" else "SKIPPED"
    assert re.search(rf"^{of_processor} .*processor", said, re.M), said


def test_files_that_begin_first_are_there() -> None:
    assert [name for name in LONGEST_FIRST if not (Path(__file__).parent / name).exists()] == []


@pytest.mark.programs
def test_folders_that_a_quick_run_does_not_look_into_have_no_test_for_it() -> None:
    folders = [str(Path(__file__).parent / name) for name in REAL_FOLDERS]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-m", "not real and not alone", *folders]
    env = {**os.environ, "MXRTC_FAST_TESTS": "", "MXRTC_AFTER_FAST_TESTS": ""}
    result = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == pytest.ExitCode.NO_TESTS_COLLECTED, result.stdout


def test_no_fake_has_the_name_of_a_fixture_by_which_a_test_is_marked_as_real() -> None:
    """Its tests would be run beside those that need other programs, and not be measured."""
    texts = [file.read_text() for file in Path(__file__).parent.rglob("*.py") if "node_modules" not in file.parts]
    made = {
        name: sum(bool(re.search(rf"^(async )?def {name}\(", text, re.M)) for text in texts) for name in REAL_FIXTURES
    }
    assert made == dict.fromkeys(REAL_FIXTURES, 1)
