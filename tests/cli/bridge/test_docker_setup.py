"""``init --docker``: a compose file for the bridge alone, and the files that it mounts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mxrtc_bridge.cli.bridge.docker_setup import IMAGE, USER_ID
from tests.bridge_command import Run, run_in_process
from tests.compose_files import ComposeError, as_compose_reads
from tests.other_user import OTHER_UID, needs_root, public_directory

ROOT = Path(__file__).parents[3]
INIT = ["--domain", "example.org", "--peer", "build", "--service", "ssh=tcp:127.0.0.1:22"]
FILES = ["--inbox", "/srv/inbox", "--share", "/srv/a $hare: 1"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return run_in_process(capsys)


def composed(folder: Path) -> dict[str, Any]:
    (service,) = YAML(typ="safe", pure=True).load(folder / "compose.yaml")["services"].values()
    found: dict[str, Any] = service
    return found


@needs_root
def test_the_container_runs_as_the_owner_of_the_folder_and_sees_it_and_the_directories_of_services(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "mxrtc"
    code, out, err = run("init", "--docker", *INIT, *FILES, "--listen", "127.0.0.1:29399", "--output", folder)
    assert code == 0, err
    service = composed(folder)
    assert {path.stat().st_uid for path in (folder, *folder.iterdir())} == {USER_ID}
    assert {f"{path.stat().st_mode & 0o777:o}" for path in folder.iterdir()} == {"600"}
    assert service["user"] == f"{USER_ID}:{USER_ID}"
    assert service["volumes"] == [
        ".:/data",
        {"type": "bind", "source": "/srv/inbox", "target": "/srv/inbox", "read_only": False},
        {"type": "bind", "source": "/srv/a $$hare: 1", "target": "/srv/a $$hare: 1", "read_only": True},
    ]
    assert service["environment"] == {"MXRTC_LISTEN": "127.0.0.1:29399"}
    assert f"docker compose --project-directory {folder} up --detach" in err
    assert "app_service_config_files" in out


@needs_root
def test_what_root_makes_in_a_folder_of_somebody_belongs_to_them(run: Run) -> None:
    with public_directory() as above:
        os.chown(above, OTHER_UID, OTHER_UID)
        folder = above / "x" / "mxrtc"
        code, _, err = run("init", "--docker", *INIT, "--output", folder)
        assert code == 0, err
        assert {path.stat().st_uid for path in (folder.parent, folder, *folder.iterdir())} == {OTHER_UID}
        assert composed(folder)["user"] == f"{OTHER_UID}:{OTHER_UID}"


@needs_root
@pytest.mark.programs
def test_compose_reads_in_the_file_what_was_meant(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "a $folder: #1"
    odd = "/srv/it's ${HOME} 100% \u00fc: - {x}"
    files = ["--inbox", odd, "--share", "/srv/share", "--service", "web=tcp:127.0.0.1:80"]
    code, _, err = run("init", "--docker", *INIT, *files, "--listen", "[::1]:29399", "--output", folder)
    assert code == 0, err
    (service,) = as_compose_reads(folder / "compose.yaml", {"HOME": "/root"})["services"].values()
    mounts = {each["target"]: (each["source"], each.get("read_only", False)) for each in service["volumes"]}
    assert mounts == {"/data": (str(folder), False), odd: (odd, False), "/srv/share": ("/srv/share", True)}
    assert service["environment"] == {"MXRTC_LISTEN": "[::1]:29399"}
    assert (service["user"], service["network_mode"]) == (f"{USER_ID}:{USER_ID}", "host")
    assert (service["mem_limit"], service["stop_grace_period"]) == (str(1 << 30), "40s")
    file = folder / "compose.yaml"
    file.write_text(file.read_text().replace("cap_drop:", "cap_dorp:"))
    with pytest.raises(ComposeError, match="cap_dorp"):
        as_compose_reads(file)


def test_what_is_hardened_in_the_compose_file_of_all_three_is_so_here(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mxrtc"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, OTHER_UID, OTHER_UID)
    assert run("init", "--docker", *INIT, "--output", folder)[0] == 0
    ours = composed(folder)
    theirs = YAML(typ="safe", pure=True).load(ROOT / "docker-compose.yml")
    for key in ("network_mode", "read_only", "cap_drop", "security_opt", "tmpfs", "restart"):
        assert ours[key] == theirs["x-hardened"][key]
    for key in ("command", "mem_limit", "pids_limit", "stop_grace_period"):
        assert ours[key] == theirs["services"]["bridge"][key]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"useradd --uid {USER_ID} " in dockerfile
    assert (ours["image"], re.findall("^VOLUME (.*)$", dockerfile, re.MULTILINE)) == (IMAGE, ["/data"])


def test_given_again_it_changes_nothing_and_leaves_what_is_another_one(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "mxrtc"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, OTHER_UID, OTHER_UID)
    assert run("init", "--docker", *INIT, "--output", folder)[0] == 0
    before = {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    code, _, err = run("init", "--docker", "--output", folder)
    assert (code, f"{folder}/compose.yaml is there already." in err) == (0, True), err
    assert {path.name: (path.read_text(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    (folder / "compose.yaml").write_text("services: {}\n")
    code, _, err = run("init", "--docker", "--output", folder)
    assert (code, "was left as it is" in err, (folder / "compose.yaml").read_text()) == (0, True, "services: {}\n"), err


@needs_root
def test_a_folder_of_root_is_refused_with_what_to_do(run: Run, tmp_path: Path) -> None:
    code, _, err = run("init", "--docker", *INIT, "--output", tmp_path)
    assert (code, f"chown -R {USER_ID} {tmp_path}" in err) == (78, True), err
    assert not (tmp_path / "compose.yaml").exists()


@pytest.mark.parametrize(("answer", "code"), [(0, 0), (1, 1)])
def test_docker_is_asked_about_the_file_where_it_is_there(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: int, code: int
) -> None:
    """This machine has no compose: a program of its name answers."""
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n[ "$2" = version ] || {{ echo no such key >&2; exit {answer}; }}\n'
    )
    docker.chmod(0o755)
    tmp_path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    folder = tmp_path / "mxrtc"
    folder.mkdir()
    (tmp_path / "asked").touch()
    (tmp_path / "asked").chmod(0o666)
    if os.geteuid() == 0:
        os.chown(folder, OTHER_UID, OTHER_UID)
    found, _, err = run("init", "--docker", *INIT, "--output", folder)
    assert (found, "ocker compose does not take" in err) == (code, bool(answer)), err


def test_it_is_not_both(run: Run, tmp_path: Path) -> None:
    code, _, err = run("init", "--docker", "--systemd", *INIT, "--output", tmp_path / "x")
    assert (code, "either --systemd or --docker" in err) == (2, True), err
