"""Where the configuration is if nobody says so: commands find what `init` has written, or say where they looked.

The programs run with a /var/lib of their own.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.other_user import OTHER_UID, needs_root, public_directory

pytestmark = [needs_root, pytest.mark.programs]

BIN = Path(sys.executable).parent
INIT = "mxrtc-bridge init --domain example.org --service ssh=tcp:127.0.0.1:22 --peer"
SERVICE = "mkdir -m 700 /var/lib/mxrtc"


def ends(folder: Path, *lines: str, path: str = f"{BIN}:/usr/bin:/bin") -> tuple[int, str, str]:
    """Run commands in a folder until one fails; returns exit code, output and messages."""
    script = "\n".join(["mount -t tmpfs none /var/lib", *lines])
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script],
        cwd=folder, env={"PATH": path}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def test_init_writes_where_the_service_looks_and_no_command_needs_to_be_told(tmp_path: Path) -> None:
    commands = (f"{INIT} build", "mxrtc-bridge add web tcp:127.0.0.1:80", "mxrtc-bridge check --offline")
    code, out, err = ends(tmp_path, SERVICE, *commands, "mxrtc-bridge list", "ls /var/lib/mxrtc")
    assert code == 0, err
    assert "build/web" in out
    assert out.endswith("\nconfig.yaml\nregistration.yaml\n")
    assert list(tmp_path.iterdir()) == []
    assert "\n  mxrtc-bridge check\n" in err
    assert "\n  mxrtc-bridge run\n" in err


def test_without_that_place_it_is_here(tmp_path: Path) -> None:
    code, out, err = ends(tmp_path, f"{INIT} build", "mxrtc-bridge list")
    assert (code, (tmp_path / "config.yaml").is_file()) == (0, True), err
    assert "build/ssh" in out


def test_what_is_here_or_named_comes_first(tmp_path: Path) -> None:
    made = (SERVICE, f"{INIT} standard", f"{INIT} local --output .", f"{INIT} named --output other")
    code, out, err = ends(
        tmp_path, *made,
        "mxrtc-bridge list",
        "MXRTC_CONFIG=other/config.yaml mxrtc-bridge list",
        "MXRTC_CONFIG=other/config.yaml mxrtc-bridge list -c /var/lib/mxrtc/config.yaml",
    )  # fmt: skip
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines() if "/ssh" in line] == [
        "local/ssh",
        "named/ssh",
        "standard/ssh",
    ]


def test_whoever_may_not_look_there_is_told_that() -> None:
    program = "from mxrtc_bridge.cli.bridge import entry, main; "
    as_other = f"import os; os.setgroups([]); os.setgid({OTHER_UID}); os.setuid({OTHER_UID}); "
    ask = f"{sys.executable} -c '{program}{as_other}raise SystemExit(main.invoke([\"list\"]))'"
    with public_directory() as folder:
        code, _, err = ends(folder, SERVICE, f"{INIT} build", ask)
    assert (code, "/var/lib/mxrtc/config.yaml cannot be read: Permission denied" in err) == (78, True), err


@pytest.mark.parametrize("made", [True, False])
def test_in_a_folder_that_is_closed_to_us_it_is_where_it_is_elsewhere(made: bool) -> None:
    """As for whoever becomes the bridge's user by sudo, in the home of root."""
    # What is loaded when it is first used is closed to the other user as well.
    program = "import encodings.utf_8_sig; from mxrtc_bridge.cli.bridge import entry, main; "
    as_other = f"import os; os.setgroups([]); os.setgid({OTHER_UID}); os.setuid({OTHER_UID}); "
    ask = f"{sys.executable} -c '{program}{as_other}raise SystemExit(main.invoke([\"list\"]))'"
    give = (SERVICE, f"{INIT} build", f"chown -R {OTHER_UID} /var/lib/mxrtc") if made else ()
    with public_directory() as folder:
        folder.chmod(0o700)
        code, out, err = ends(folder, *give, ask)
    if made:
        assert (code, "build/ssh" in out) == (0, True), err
    else:
        assert (code, "config.yaml cannot be read: Permission denied" in err) == (78, True), err
