"""What ``init`` does for the homeserver: its copy of the registration, and the lines for its configuration."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxrtc_bridge.cli.bridge import homeserver_setup
from mxrtc_bridge.cli.bridge.homeserver_setup import (
    KINDS,
    HomeserverKind,
    find_homeserver,
    give_copy,
    lines_for,
    what_to_do,
)
from mxrtc_bridge.core.errors import ConfigError
from tests.bridge_command import Run, run_in_process
from tests.config.samples import GOOD, changed, load
from tests.other_user import OTHER_UID, as_other, needs_root, public_directory

OURS = Path("/var/lib/mxrtc/registration.yaml")
INIT = ["--domain", "example.org", "--peer", "build", "--service", "ssh=tcp:127.0.0.1:22"]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return run_in_process(capsys)


@pytest.fixture
def folder() -> Iterator[Path]:
    """That of a homeserver, which its user can enter."""
    with public_directory() as folder:
        folder.chmod(0o755)
        yield folder


def written(folder: Path, text: str = "server_name: example.org\n", name: str = "homeserver.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_without_its_configuration_the_lines_name_the_registration_itself() -> None:
    found = find_homeserver(None, None, {})
    assert lines_for(found, OURS, as_difference=False) == f"app_service_config_files:\n  - {OURS}\n"
    said = what_to_do(found, load(GOOD), OURS, copied=False)
    assert f"    install -o matrix-synapse -m 0600 {OURS} /etc/matrix-synapse/mxrtc.yaml" in said
    assert said[-1] == "Restart it: systemctl restart matrix-synapse"


def test_a_homeserver_in_its_usual_place_is_found_with_the_registrations_that_it_has(folder: Path) -> None:
    file = written(folder, "server_name: example.org\napp_service_config_files: [/one.yaml]\n")
    found = find_homeserver(None, None, {"synapse": HomeserverKind("Synapse", "restart it", file, "matrix-synapse")})
    assert (found.file, found.copy) == (file, folder / "mxrtc.yaml")
    assert lines_for(found, OURS, as_difference=False) == (
        f"app_service_config_files:\n  - /one.yaml\n  - {folder}/mxrtc.yaml\n"
    )
    assert find_homeserver("dendrite", None).file is None, "what was said counts"


def test_of_several_files_the_last_one_with_the_list_counts(folder: Path) -> None:
    file = written(folder, "app_service_config_files: [/one.yaml]\n")
    written(folder, "server_name: example.org\n", "conf.d/server_name.yaml")
    written(folder, "app_service_config_files: [/two.yaml]\n", "conf.d/bridges.yaml")
    found = find_homeserver("synapse", file)
    assert lines_for(found, OURS, as_difference=False) == (
        f"app_service_config_files:\n  - /two.yaml\n  - {folder}/mxrtc.yaml\n"
    )


def test_one_that_names_it_already_needs_nothing(folder: Path) -> None:
    file = written(folder, f"app_service_config_files: ['{folder}/mxrtc.yaml']\n")
    found = find_homeserver(None, file)
    assert [lines_for(found, OURS, as_difference=each) for each in (False, True)] == ["", ""]
    assert f"{file} names the registration already." in what_to_do(found, load(GOOD), OURS, copied=True)


@pytest.mark.parametrize(
    ("text", "name", "line", "said"),
    [
        ("signing_key_path: /data/x.key\n", "synapse-docker", "  - /data/mxrtc.yaml", "docker restart synapse"),
        ("global:\n  server_name: example.org\n", "dendrite", "    - {folder}/mxrtc.yaml", "restart dendrite"),
        ("server_name: example.org\n", "synapse", "  - {folder}/mxrtc.yaml", "restart matrix-synapse"),
    ],
)
def test_how_it_is_installed_is_told_by_its_configuration(
    folder: Path, text: str, name: str, line: str, said: str
) -> None:
    found = find_homeserver(None, written(folder, text))
    assert found.name == name
    assert lines_for(found, OURS, as_difference=False).splitlines()[-1] == line.format(folder=folder)
    assert what_to_do(found, load(GOOD), OURS, copied=True)[-1].endswith(said)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("copied", [False, True])
def test_each_kind_says_what_to_do_and_shows_no_token(name: str, copied: bool) -> None:
    found = find_homeserver(name, None, {name: KINDS[name]})
    config = load(GOOD)
    said = "\n".join((lines_for(found, OURS, as_difference=False), *what_to_do(found, config, OURS, copied=copied)))
    assert config.appservice.as_token not in said
    wanted = {
        "playbook": "matrix_synapse_app_service_config_files:\n  - /data/mxrtc.yaml",
        "conduit": "!admin appservices register",
        "dendrite": "app_service_api:\n  config_files:\n    - ",
        "synapse-docker": "app_service_config_files:\n  - /data/mxrtc.yaml",
        "synapse": "app_service_config_files:\n  - ",
    }
    assert wanted[name] in said
    assert ("is the container itself" in said) == KINDS[name].container
    listens = load(changed("appservice", "listen", to="172.17.0.1:29350"))
    assert "is the container itself" not in "\n".join(what_to_do(found, listens, OURS, copied=copied))


@needs_root
def test_the_copy_is_for_the_user_of_the_homeserver_alone(folder: Path) -> None:
    file = written(folder)
    os.chown(file, OTHER_UID, OTHER_UID)
    found = find_homeserver(None, file)
    said = give_copy(found, "as_token: secret\n")
    copy = folder / "mxrtc.yaml"
    assert said == f"Wrote {copy}, which user {OTHER_UID} can read and nobody else (mode 0600)."
    assert (copy.stat().st_uid, stat.S_IMODE(copy.stat().st_mode)) == (OTHER_UID, 0o600)
    assert sorted(os.listdir(folder)) == ["homeserver.yaml", "mxrtc.yaml"]
    as_other(copy.read_text)
    assert give_copy(found, "as_token: secret\n") == f"{copy} is there already, with the same content."
    with pytest.raises(ConfigError, match="is another registration and was left as it is"):
        give_copy(found, "as_token: another\n")
    assert copy.read_text() == "as_token: secret\n"


@needs_root
@pytest.mark.parametrize(
    ("user", "owner", "mode"),
    [("games", "root:games", 0o640), ("nobody", "nobody:root", 0o600), (None, None, None), ("root", None, None)],
)
def test_a_group_of_its_own_may_read_it_and_one_that_others_are_in_may_not(
    folder: Path, user: str | None, owner: str | None, mode: int | None
) -> None:
    """Debian's package gives Synapse the group nogroup."""
    found = find_homeserver("synapse-docker", written(folder))  # for which no user is known, and root has the file
    said = give_copy(found, "as_token: secret\n", user)
    copy = folder / "mxrtc.yaml"
    if owner is None:
        assert (said, copy.exists()) == (None, False)
        return
    assert said is not None
    assert f"(mode {mode:04o})" in said
    assert (f"{copy.owner()}:{copy.group()}", stat.S_IMODE(copy.stat().st_mode)) == (owner, mode)


@needs_root
def test_init_shows_the_change_of_the_file_and_leaves_that_alone(folder: Path, run: Run, tmp_path: Path) -> None:
    file = written(folder, "server_name: example.org\nform_secret: hidden\napp_service_config_files:\n  - /one.yaml\n")
    os.chown(file, OTHER_UID, OTHER_UID)
    before = file.read_text()
    code, out, err = run("init", *INIT, "--output", tmp_path / "new", "--homeserver-config", file)
    assert code == 0, err
    assert out == f'--- {file}\n+++ {file}\n@@ -4,0 +5 @@\n+  - "{folder}/mxrtc.yaml"\n'
    assert file.read_text() == before
    assert (folder / "mxrtc.yaml").read_text() == (tmp_path / "new/registration.yaml").read_text()
    assert "Restart it: systemctl restart matrix-synapse" in err
    assert "hidden" not in out + err


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("server_name: example.com\n", 2, "is of the server 'example.com', and not of example.org"),
        ("- a\n", 78, "no configuration of Synapse or Dendrite"),
    ],
)
def test_the_file_of_another_server_is_refused_before_anything_is_written(
    folder: Path, run: Run, tmp_path: Path, text: str, code: int, said: str
) -> None:
    file = written(folder, text)
    found, out, err = run("init", *INIT, "--output", tmp_path / "new", "--homeserver-config", file)
    assert (found, out, said in err) == (code, "", True), err
    assert not (tmp_path / "new").exists()
    assert os.listdir(folder) == ["homeserver.yaml"]


def test_a_folder_that_cannot_be_written_is_said(folder: Path) -> None:
    found = find_homeserver(None, written(folder))
    gone = homeserver_setup.Found("synapse-docker", found.file, found.content)
    (folder / "mxrtc.yaml").mkdir()
    with pytest.raises(ConfigError):
        give_copy(gone, "x", "nobody")
