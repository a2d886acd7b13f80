"""The user's side without what Windows does not have: nothing of it imports or calls that."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_architecture import ROOT

pytestmark = pytest.mark.programs

AS_WINDOWS = {**os.environ, "MXRTC_PORTABLE": "windows"}


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, env=AS_WINDOWS, capture_output=True, text=True, timeout=170, check=False)


def test_all_of_it_is_imported() -> None:
    program = (
        "from tests import lacking_windows, user_side_types\n"
        "lacking_windows.begin(); print(len(user_side_types.loaded_modules()) > 200)"
    )
    done = run("-c", program)
    assert done.stdout.strip() == "True", done.stderr


@pytest.mark.parametrize(
    ("program", "failure"),
    [
        ("import fcntl", "ModuleNotFoundError"),
        ("import os; os.geteuid()", "AttributeError"),
        ("import os; os.stat('.', dir_fd=0)", "NotImplementedError"),
        ("import os; os.scandir(0)", "NotImplementedError"),
        ("import socket; socket.AF_UNIX", "AttributeError"),
        ("import socket; socket.socket().sendmsg([b''])", "NotImplementedError"),
        ("import asyncio; asyncio.SelectorEventLoop().add_signal_handler(2, print)", "NotImplementedError"),
        ("import os; print(os.stat('.').st_mode)", ""),
    ],
)
def test_what_windows_lacks_is_not_there_for_modules_of_ours(program: str, failure: str) -> None:
    """The test of what this file rests on."""
    done = run(
        "-c", f"from tests import lacking_windows as l; l.begin(); exec({program!r}, dict(__name__='mxrtc_bridge.x'))"
    )
    assert failure in done.stderr if failure else (done.returncode, done.stderr) == (0, "")


def test_files_are_handled_by_their_paths(tmp_path: Path) -> None:
    """The tests of these modules, by what Windows has."""
    places = ("tests/system/test_files.py", "tests/system/test_descriptors.py", "tests/sinks/files/test_whole_input.py")
    done = run("-m", "tests.lacking_windows", "pytest", "-q", "-o", f"cache_dir={tmp_path}", *places)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


def test_files_that_are_fetched_get_names_that_windows_can_hold(tmp_path: Path) -> None:
    program = f"""
from tests import lacking_windows
lacking_windows.begin()
import asyncio
from pathlib import Path
from mxrtc_bridge.sinks.files.user_paths import UserDestination
from tests.sinks.files.receive.senders import send

async def fetch():
    destination = UserDestination(Path({str(tmp_path)!r}))
    await destination.open()
    for path in ("CON", "a:b/x", "Name", "name"):
        print((await send(destination, path, b"data")).name)
    await destination.close(tidy=True)

asyncio.run(fetch())
"""
    done = run("-c", program)
    assert done.stdout.splitlines() == ["_CON", "a_b/x", "Name", "name (2)"], done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Name", "_CON", "a_b", "name (2)"]
