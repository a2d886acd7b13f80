"""Commands that write files and are killed before any of their changes, or find the disk full: what is there then."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.cli.bridge.homeserver_setup import find_homeserver, give_copy
from mxrtc_bridge.cli.bridge.main import invoke
from mxrtc_bridge.cli.bridge.systemd_setup import install_unit
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.config.private_files import write_private
from mxrtc_bridge.config.registration import other_values
from mxrtc_bridge.core.errors import LocalError
from tests.cli.bridge.test_config_file import OLD
from tests.cut_off import before_each_change, fill_disk, kill
from tests.other_user import needs_root

FLAGS = ("--domain", "example.org", "--peer", "build", "--service", "ssh=tcp:127.0.0.1:22", "--allow", "@a:example.org")
Do = Callable[[str, tuple[Any, ...]], None]
both = pytest.mark.parametrize("do", [kill, fill_disk])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mxrtc"


def run(*arguments: object) -> int:
    return invoke([str(each) for each in arguments])


def pair_in(folder: Path) -> tuple[bool, bool]:
    """Which of both files are there; if both are, they belong together."""
    config, registration = folder / "config.yaml", folder / "registration.yaml"
    found = config.exists(), registration.exists()
    if config.exists():
        loaded = load_config(config, {})
        if registration.exists():
            assert other_values(registration.read_text(), loaded) == []
    return found


def assert_whole(folder: Path) -> None:
    assert pair_in(folder) == (True, True)
    assert sorted(os.listdir(folder)) == ["config.yaml", "registration.yaml"], "nothing is left behind"


@both
def test_a_first_init_that_was_cut_off_is_completed_by_the_same_command(folder: Path, do: Do) -> None:
    seen = set()
    for _ in before_each_change(lambda: run("init", *FLAGS, "--output", folder), do):
        seen.add(found := pair_in(folder))
        again = ("--force",) if found == (True, True) else ()
        assert run("init", *FLAGS, "--output", folder, *again) == 0
        assert_whole(folder)
        shutil.rmtree(folder)
    assert_whole(folder)
    expected = {(False, False), (True, False), (True, True)}
    assert seen == expected


@both
def test_init_that_replaces_leaves_no_registration_beside_the_configuration_of_another(folder: Path, do: Do) -> None:
    assert run("init", *FLAGS, "--output", folder) == 0
    seen, before = set(), (folder / "config.yaml").read_text()
    for _ in before_each_change(lambda: run("init", *FLAGS, "--output", folder, "--force"), do):
        is_new = (folder / "config.yaml").read_text() != before
        seen.add((is_new, pair_in(folder)))
        if pair_in(folder) == (True, False):
            assert run("init", "--output", folder) == 0
        else:
            assert run("init", *FLAGS, "--output", folder, "--force") == 0
        assert_whole(folder)
        before = (folder / "config.yaml").read_text()
    assert_whole(folder)
    whole, alone = (True, True), (True, False)
    assert seen == {(False, whole), (False, alone), (True, alone), (True, whole)}


@both
@pytest.mark.parametrize("words", [("config", "upgrade"), ("add", "build/tls", "tcp:127.0.0.1:80")])
def test_an_edit_is_there_whole_or_not_at_all_and_can_be_given_again(
    folder: Path, do: Do, words: tuple[str, ...]
) -> None:
    def begin() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        config.touch(mode=0o600)
        config.write_text(OLD)

    config = folder / "config.yaml"
    begin()
    before = config.read_text()
    # Of add the running bridge is asked then, which is not there.
    command = (*words, "-c", config)
    assert run(*command) == 0
    after = config.read_text()
    assert after != before
    begin()
    seen = set()
    for _ in before_each_change(lambda: run(*command), do):
        text = config.read_text()
        assert text in (before, after)
        seen.add(text)
        assert run(*command) == (2 if words[0] == "add" and text == after else 0)
        assert config.read_text() == after
        assert text == after or [name for name in os.listdir(folder) if name.endswith(".new")] == []
        begin()
    assert seen >= {before}


@both
def test_a_unit_is_there_whole_or_not_at_all(tmp_path: Path, do: Do) -> None:
    unit = tmp_path / "system" / "mxrtc-bridge.service"

    def install() -> None:
        try:
            install_unit("[Unit]\n", unit)
        except LocalError:
            assert do is fill_disk

    for _ in before_each_change(install, do):
        assert not unit.exists() or unit.read_text() == "[Unit]\n"
        install_unit("[Unit]\n", unit)
        assert (unit.read_text(), oct(unit.stat().st_mode)) == ("[Unit]\n", "0o100644")
        unit.unlink()
    assert unit.read_text() == "[Unit]\n"


@needs_root
def test_the_copy_of_the_homeserver_is_there_whole_and_theirs_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "homeserver.yaml"
    file.write_text("server_name: example.org\n")
    os.chown(file, 65_533, 65_533)
    found = find_homeserver("synapse", file)
    assert found.copy is not None
    for _ in before_each_change(lambda: give_copy(found, "id: x\n", "nobody"), kill):
        if found.copy.exists():
            status = found.copy.stat()
            assert (found.copy.read_text(), status.st_uid, oct(status.st_mode)) == ("id: x\n", 65_534, "0o100600")
            found.copy.unlink()
    assert found.copy.read_text() == "id: x\n"


def test_a_link_that_is_put_in_the_place_of_what_is_written_gives_no_name_to_what_it_leads_to(tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    victim.write_text("secret")
    folder.mkdir()

    def swap(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.link":
            (folder / arguments[0]).unlink()
            (folder / arguments[0]).symlink_to(victim)

    for _ in before_each_change(lambda: write_private(folder / "x", "text", replace=False), swap):
        assert victim.stat().st_nlink == 1
        (folder / "x").unlink()


def test_a_registration_of_another_configuration_is_not_given_to_the_homeserver(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("init", *FLAGS, "--output", folder) == 0
    other = (folder / "registration.yaml").read_text()
    assert run("init", *FLAGS, "--output", folder, "--force") == 0
    (folder / "registration.yaml").write_text(other)
    capsys.readouterr()
    os.chown(folder, 65_533, 65_533)
    for name in os.listdir(folder):
        os.chown(folder / name, 65_533, 65_533)
    assert run("init", "--docker", "--output", folder) == 78
    said = capsys.readouterr().err
    assert "is not that of" in said
    assert "another as_token and another hs_token" in said
    remedy = said.partition("to have the right one: mxrtc-bridge ")[2].split()
    assert run(*remedy) == 0
    assert run("init", "--docker", "--output", folder) == 0
