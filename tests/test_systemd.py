"""The unit of systemd, its user, and the way there from one with a dynamic user, as far as that goes without systemd.

The real service manager is not there in a test. Its own programs judge the files, and the bridge itself is run as the
unit runs it: another user, its umask, its environment, and a notify socket (tests/e2e/test_service.py).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bridge_command import Run, run_in_process
from tests.other_user import OTHER_UID, needs_root, public_directory

ROOT = Path(__file__).parent.parent
HOW_TO = ROOT / "docs/how-to"
UNIT = HOW_TO / "mxrtc-bridge.service"
BIN = Path(sys.executable).parent
DYNAMIC_UIDS = [61_234, 65_534]
"""One of the range for dynamic users, and "nobody", whom newer versions of systemd let own their folders."""


def settings(unit: Path = UNIT) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/mxrtc/bin", str(BIN)))
    done = subprocess.run(
        ["systemd-analyze", "verify", unit],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", unit], capture_output=True, text=True, check=True
    )
    (level,) = re.findall(r"exposure level for \S+: (\d+\.\d)", judged.stdout)
    assert float(level) <= 1.5
    assert f"rates its exposure as {level} " in (HOW_TO / "systemd.md").read_text()


def test_the_unit_is_told_when_the_bridge_is_ready_and_reloads_by_a_command_that_can_fail() -> None:
    found = settings()
    assert found["Type"] == ["notify"]
    assert float(found["WatchdogSec"][0]) >= 30
    # The database is upgraded before the bridge can say anything, and one that was cut off in it begins anew.
    assert found["TimeoutStartSec"] == ["15min"]
    assert found["RestartPreventExitStatus"] == ["78"]
    (start,), (reload,) = found["ExecStart"], found["ExecReload"]
    program, command, *options = start.split()
    assert (command, options) == ("run", ["-c", "${STATE_DIRECTORY}/config.yaml"])
    assert reload.split() == [program, "reload", *options]


def test_the_user_of_the_unit_is_made_by_the_file_beside_it(tmp_path: Path) -> None:
    found = settings()
    assert "DynamicUser" not in found
    folder = tmp_path / "etc/sysusers.d"
    folder.mkdir(parents=True)
    shutil.copy(HOW_TO / "mxrtc-bridge.sysusers.conf", folder / "mxrtc-bridge.conf")
    subprocess.run(["systemd-sysusers", f"--root={tmp_path}"], check=True, capture_output=True)
    users = [line.split(":") for line in (tmp_path / "etc/passwd").read_text().splitlines()]
    assert [(user[0], user[5], user[6]) for user in users] == [
        (found["User"][0], f"/var/lib/{found['StateDirectory'][0]}", "/usr/sbin/nologin")
    ]
    assert [line.split(":")[0] for line in (tmp_path / "etc/group").read_text().splitlines()] == found["Group"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return run_in_process(capsys)


@pytest.fixture(params=DYNAMIC_UIDS)
def lib(request: pytest.FixtureRequest, run: Run) -> Iterator[Path]:
    """``/var/lib`` as a unit with ``DynamicUser=yes`` has left it after its bridge was killed."""
    with public_directory() as lib:
        lib.chmod(0o755)
        folder = lib / "private" / "mxrtc"
        folder.parent.mkdir(mode=0o700)
        folder.mkdir(mode=0o700)
        (lib / "mxrtc").symlink_to("private/mxrtc")
        options = ["--domain", "example.org", "--peer", "build", "--service", "ssh=tcp:127.0.0.1:22"]
        assert run("init", *options, "--allow", "@alice:example.org", "--output", folder)[0] == 0
        for name, text in (("encryption.key", "k" * 40), ("audit.jsonl", ""), ("mxrtc-bridge.db.lock", "")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o600)
        assert run("audit", "key", "-c", folder / "config.yaml")[0] == 1, "there is a database now, without a key"
        for path in (folder, *folder.iterdir()):
            os.chown(path, request.param, request.param)
        yield lib


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


COMMANDS = [["check", "--offline"], ["identity"], ["audit", "verify"], ["explain", "@alice:example.org", "build/ssh"]]


@needs_root
def test_roots_commands_work_on_what_a_dynamic_user_owns(lib: Path, run: Run) -> None:
    before = owners(lib / "mxrtc")
    for words in COMMANDS:
        code, _, err = run(*words, "-c", lib / "mxrtc" / "config.yaml")
        assert code == 0, (words, err)
    assert owners(lib / "mxrtc") == before


@needs_root
def test_the_commands_of_the_page_lead_from_the_old_unit_to_the_new_user(lib: Path, run: Run) -> None:
    (_, block) = (HOW_TO / "systemd.md").read_text().split("## From a unit with `DynamicUser=yes`")
    (commands,) = re.findall(r"```sh\n(.*?)```", block, re.DOTALL)
    shell = "\n".join(line for line in commands.splitlines() if line.split()[0] in ("rm", "mv", "chown"))
    assert shell.count("\n") == 2
    shell = shell.replace("/var/lib", str(lib)).replace("mxrtc:mxrtc", f"{OTHER_UID}:{OTHER_UID}")
    keep = {path.name: path.read_bytes() for path in (lib / "private/mxrtc").iterdir()}
    subprocess.run(["/bin/sh", "-eu", "-c", shell], check=True)
    folder = lib / "mxrtc"
    assert (folder.is_symlink(), owners(folder)) == (False, {OTHER_UID})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == keep
    for words in COMMANDS:
        code, _, err = run(*words, "-c", folder / "config.yaml")
        assert code == 0, (words, err)
    assert owners(folder) == {OTHER_UID}
