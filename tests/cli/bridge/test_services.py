"""``mxrtc-bridge add``, ``remove`` and ``list``."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bridge_command import Run, run_in_process
from tests.cli.bridge.test_running_bridge import bridge
from tests.other_user import OTHER_UID, needs_root, public_directory

NOBODY = 0xFFFFFFFF
"""In an access list: of the owner, the group, or everybody else (``acl_entry`` of Linux)."""
ALICE, BOB = "@alice:example.org", "@bob:example.org"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return run_in_process(capsys)


@pytest.fixture
def config(tmp_path: Path, run: Run) -> Path:
    return made(tmp_path, run)


def made(folder: Path, run: Run) -> Path:
    options = ["--domain", "example.org", "--peer", "build", "--service", "ssh=tcp:127.0.0.1:22"]
    assert run("init", *options, "--allow", ALICE, "--output", folder)[0] == 0
    return folder / "config.yaml"


def listed(run: Run, config: Path) -> dict[str, tuple[str, list[str]]]:
    code, out, err = run("list", "--json", "-c", config)
    assert code == 0, err
    rows = map(json.loads, out.splitlines())
    return {row["service"]: (row["target"], row["who"]) for row in rows}


def test_add_list_and_remove(config: Path, run: Run) -> None:
    before = config.read_text()
    code, out, err = run("add", "web", "tcp:127.0.0.1:80", "--allow", "server:example.org", "-c", config)
    assert (code, out) == (0, f"Added build/web. Who may use it: {ALICE}, server:example.org.\n")
    assert err.endswith("The change counts from its next start on.\n")
    assert run("add", "lab/inbox", "inbox:/srv/inbox", "--allow", BOB, "-c", config)[0] == 0
    code, out, err = run("add", "lab/share", "share:/srv/share", "-c", config)
    assert (code, out) == (0, "Added lab/share. Who may use it: nobody.\n")
    assert listed(run, config) == {
        "build/ssh": ("tcp:127.0.0.1:22", [ALICE]),
        "build/web": ("tcp:127.0.0.1:80", [ALICE, "server:example.org"]),
        "lab/inbox": ("files:/srv/inbox (receive)", [BOB]),
        "lab/share": ("files:/srv/share (send)", []),
    }
    assert f"lab/inbox  files:/srv/inbox (receive)  {BOB}" in run("list", "-c", config)[1]
    for name, said in (("web", "build/web"), ("lab/share", "lab/share"), ("inbox", "lab/inbox and the peer lab, ")):
        code, out, err = run("remove", name, "-c", config)
        assert (code, out.startswith(f"Removed {said}")) == (0, True), err
    assert config.read_text() == before


def test_the_running_bridge_reloads_and_its_answer_is_passed_on(config: Path, run: Run) -> None:
    said = "In force. A change of database takes effect after a restart only; until then the old value is used."
    answer: dict[str, object] = {"said": said}
    with bridge(config.parent / "control.sock", lambda _words: answer) as asked:
        code, out, err = run("add", "web", "tcp:127.0.0.1:80", "-c", config)
        assert (code, out.splitlines()[1]) == (0, said), err
        assert [words for _, words in asked] == [("reload",)]
        answer.update(said="Not all.", done=False)
        code, _, err = run("remove", "web", "-c", config)
        assert (code, err) == (1, "Not all.\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["add", "ssh", "tcp:127.0.0.1:22"], 2, "build/ssh is there already"),
        (["add", "web", "127.0.0.1:80"], 2, "is not a target"),
        (["add", "web", "ftp:/srv"], 2, "share:/directory"),
        (["add", "web", "inbox:/etc"], 2, "belongs to the system"),
        (["add", "web", "tcp:127.0.0.1:80", "--allow", "alice"], 2, "is not a subject"),
        (["add", "web", "tcp:127.0.0.1:80", "--allow", "*"], 2, "the whole world"),
        (["add", "web", "tcp:127.0.0.1:80", "--allow", "group:ops"], 78, "nothing was written"),
        (["add", "We b", "tcp:127.0.0.1:80"], 78, "nothing was written"),
        (["add", "web", "tcp:127.0.0.1:80", "--allow", "@nobody:elsewhere.invalid"], 78, "nothing was written"),
        (["add", "web", "unix:/run/docker.sock"], 78, "i_know_this_is_root"),
        (["remove", "shh"], 2, "did you mean 'ssh'?"),
        (["remove", "nothing-like-it"], 2, "mxrtc-bridge list"),
    ],
)
def test_what_would_be_a_mistake_changes_nothing(
    config: Path, run: Run, words: list[str], code: int, said: str
) -> None:
    before = config.read_bytes(), config.stat()
    with bridge(config.parent / "control.sock", lambda _words: {"said": "Done."}) as asked:
        found, out, err = run(*words, "-c", config)
    assert (found, out, asked) == (code, "", []), err
    assert said in err
    assert (config.read_bytes(), config.stat()) == before
    assert [path.name for path in config.parent.iterdir() if ".new" in path.name] == []


def test_which_peer_and_which_service_is_asked_where_it_is_not_clear(config: Path, run: Run) -> None:
    assert run("add", "lab/ssh", "tcp:127.0.0.1:23", "-c", config)[0] == 0
    code, _, err = run("remove", "ssh", "-c", config)
    assert (code, "Say which: build/ssh, lab/ssh." in err) == (2, True), err
    code, _, err = run("add", "web", "tcp:127.0.0.1:80", "-c", config)
    assert (code, "Say which peer, as in build/web: the peers are build, lab." in err) == (2, True), err


def test_a_file_with_mistakes_is_left_alone(config: Path, run: Run) -> None:
    config.write_text(config.read_text().replace("domain:", "domian:"))
    before = config.read_text()
    code, out, err = run("add", "web", "tcp:127.0.0.1:80", "-c", config)
    assert (code, out, "domian" in err, config.read_text()) == (78, "", True, before)


def test_mode_and_links_are_kept(config: Path, run: Run, tmp_path: Path) -> None:
    config.chmod(0o640)
    link = tmp_path / "link.yaml"
    link.symlink_to(config)
    assert run("add", "web", "tcp:127.0.0.1:80", "-c", link)[0] == 0
    assert link.is_symlink()
    assert config.stat().st_mode & 0o777 == 0o640
    assert "build/web" in listed(run, config)


@needs_root
@pytest.mark.parametrize(("folder_owner", "file_owner"), [(OTHER_UID, OTHER_UID), (0, OTHER_UID), (0, 0)])
def test_owner_and_group_are_kept(run: Run, folder_owner: int, file_owner: int) -> None:
    with public_directory() as above:
        above.chmod(0o755)
        config = made(above / "mxrtc", run)
        config.parent.chmod(0o755)
        config.chmod(0o640)
        os.chown(config, file_owner, OTHER_UID)
        os.chown(config.parent, folder_owner, folder_owner)
        code, _, err = run("add", "web", "tcp:127.0.0.1:80", "-c", config)
        assert code == 0, err
        status = config.stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (file_owner, OTHER_UID, 0o640)
        assert "build/web" in listed(run, config)


def test_an_access_list_is_kept(config: Path, run: Run) -> None:
    """By which the bridge's user reads a file of root, say: without it the bridge would not start any more."""
    entries = [(1, 6, NOBODY), (2, 4, OTHER_UID), (4, 0, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)]
    written = struct.pack("<L", 2) + b"".join(struct.pack("<HHL", *entry) for entry in entries)
    os.setxattr(config, "system.posix_acl_access", written)
    mode = config.stat().st_mode
    assert run("add", "web", "tcp:127.0.0.1:80", "-c", config)[0] == 0
    assert (os.getxattr(config, "system.posix_acl_access"), config.stat().st_mode) == (written, mode)
    assert "build/web" in listed(run, config)


@needs_root
def test_an_owner_that_cannot_be_kept_is_said_and_nothing_is_written(run: Run) -> None:
    with public_directory() as above:
        above.chmod(0o755)
        config = made(above / "mxrtc", run)
        config.chmod(0o640)
        os.chown(config, 0, OTHER_UID)
        os.chown(config.parent, OTHER_UID, OTHER_UID)
        before = config.read_text()
        code, _, err = run("add", "web", "tcp:127.0.0.1:80", "-c", config)
        assert (code, "belongs to user 0" in err, config.read_text()) == (78, True, before), err


@needs_root
@pytest.mark.programs
def test_a_file_that_is_mounted_by_itself_stays_and_the_reason_is_said(config: Path) -> None:
    before = config.read_text()
    add = [str(Path(sys.executable).parent / "mxrtc-bridge"), "add", "web", "tcp:127.0.0.1:80", "-c", str(config)]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", 'mount --bind "$0" "$0" && exec "$@"', str(config), *add],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, "it is mounted by itself" in done.stderr) == (78, True), done.stderr
    assert [each.name for each in config.parent.iterdir() if each.name.startswith("config")] == ["config.yaml"]
    assert config.read_text() == before
