"""Root's commands on the files of somebody else: they work, follow nobody's links, and leave nothing of root's."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest
import uvloop

from mxrtc_bridge.cli.bridge.acting import acting_as_owner, decider, load_as_owner, owner_of_bridge
from mxrtc_bridge.cli.bridge.main import cli, invoke
from mxrtc_bridge.core.errors import ConfigError, TargetError
from mxrtc_bridge.core.files.messages import FileError
from mxrtc_bridge.sinks.files.stream_targets import open_read
from mxrtc_bridge.sinks.files.threads import FileThreads
from mxrtc_bridge.storage.database import Database
from tests.other_user import OTHER_UID, in_child, needs_root, public_directory

pytestmark = needs_root

THIRD_UID = OTHER_UID - 1
SECRET = "a secret that only root may read, 32 characters"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def invoked(*arguments: object) -> tuple[int, str, str]:
        code = invoke([str(each) for each in arguments])
        assert (os.getresuid(), os.getegid()) == ((0, 0, 0), 0), "root is root again"
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return invoked


@pytest.fixture(params=["open", "closed"])
def folder(request: pytest.FixtureRequest, run: Run) -> Iterator[Path]:
    """The folder of a bridge that another user runs; ``closed``: below one that only root may enter."""
    with public_directory() as above:
        above.chmod(0o755)
        parent = above / "parent"
        parent.mkdir(mode=0o700 if request.param == "closed" else 0o755)
        folder = parent / "mxrtc"
        folder.mkdir(mode=0o700)
        os.chown(folder, OTHER_UID, OTHER_UID)
        options = ["--domain", "example.org", "--peer", "build", "--service", "ssh=tcp:127.0.0.1:22"]
        code, _, err = run("init", *options, "--allow", "@alice:example.org", "--output", folder)
        assert code == 0, err
        for name, text in (("encryption.key", "k" * 40), ("audit.jsonl", "")):
            (folder / name).write_text(text)
            os.chown(folder / name, OTHER_UID, OTHER_UID)
            (folder / name).chmod(0o600)
        yield folder


def make_database(path: Path, uid: int) -> None:
    """As the bridge of a user makes it at its first start."""

    async def make() -> None:
        await (await Database.open(f"sqlite://{path}")).close()

    asyncio.run(make())
    os.chown(path, uid, uid)


def owners(folder: Path) -> set[int]:
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


def test_what_init_writes_belongs_to_the_owner_of_the_folder(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == [
        "audit.jsonl", "config.yaml", "encryption.key", "registration.yaml",
    ]  # fmt: skip
    assert owners(folder) == {OTHER_UID}


def test_every_command_on_files_works_and_leaves_nothing_of_roots(folder: Path, run: Run) -> None:
    config = folder / "config.yaml"
    for words in (
        ["check", "--offline"],
        ["identity"],
        ["list"],
        ["add", "web", "tcp:127.0.0.1:80"],
        ["remove", "web"],
        ["registration"],
        ["explain", "@alice:example.org", "build/ssh"],
        ["audit", "verify", "--offline"],
        ["audit", "verify"],
    ):
        code, out, err = run(*words, "-c", config)
        assert (code, bool(out)) == (0, True), (words, err)
    code, _, err = run("audit", "key", "-c", config)
    assert (code, "There is no key yet" in err) == (1, True)
    assert not (folder / "mxrtc-bridge.db").exists(), "nothing but the bridge makes it"
    assert owners(folder) == {OTHER_UID}


@pytest.mark.parametrize("name", ["as_token", "hs_token"])
def test_a_link_in_the_place_of_a_token_is_followed_no_further_than_its_owner_could(
    folder: Path, run: Run, name: str
) -> None:
    secret = folder.parent / "roots-secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    (folder / "token").symlink_to(secret)
    os.chown(folder / "token", OTHER_UID, OTHER_UID, follow_symlinks=False)
    config = folder / "config.yaml"
    lines = config.read_text().splitlines()
    config.write_text("\n".join(f"  {name}_file: token" if f" {name}:" in line else line for line in lines))
    code, out, err = run("check", "--offline", "-c", config)
    assert (code, out) == (78, "")
    assert "roots-secret" not in err or "belongs to root" in err
    assert SECRET not in err
    assert "Permission denied" in err or "cannot read it" in err


def test_a_file_of_a_third_user_is_refused(folder: Path, run: Run) -> None:
    os.chown(folder / "encryption.key", THIRD_UID, THIRD_UID)
    code, _, err = run("identity", "-c", folder / "config.yaml")
    assert (code, f"user {THIRD_UID}" in err or "Permission denied" in err) == (78, True), err
    os.chown(folder, THIRD_UID, THIRD_UID)
    (folder / "link.yaml").symlink_to("config.yaml")
    os.chown(folder / "link.yaml", THIRD_UID, THIRD_UID, follow_symlinks=False)
    code, _, err = run("check", "--offline", "-c", folder / "link.yaml")
    assert (code, f"is a link of user {THIRD_UID} to a file of user {OTHER_UID}" in err) == (78, True), err


def test_a_link_of_somebody_to_a_file_of_roots_is_followed_as_that_user(folder: Path, run: Run) -> None:
    roots = folder.parent / "roots.yaml"
    roots.write_bytes((folder / "config.yaml").read_bytes())
    roots.chmod(0o600)
    (folder / "config.yaml").unlink()
    (folder / "config.yaml").symlink_to(roots)
    os.chown(folder / "config.yaml", OTHER_UID, OTHER_UID, follow_symlinks=False)
    assert owner_of_bridge(folder / "config.yaml") == OTHER_UID
    for words in (["check", "--offline"], ["registration"], ["identity"]):
        code, out, err = run(*words, "-c", folder / "config.yaml")
        assert (code, out) == (78, ""), (words, err)
        assert "as_token" not in err.replace("appservice.as_token", "")


def test_the_database_of_another_is_used_as_its_owner_where_root_has_written_the_configuration(
    folder: Path, run: Run
) -> None:
    etc = folder.parent / "etc"
    etc.mkdir(mode=0o755)
    config = etc / "config.yaml"
    text = (folder / "config.yaml").read_text()
    database = folder / "mxrtc-bridge.db"
    make_database(database, OTHER_UID)
    config.write_text(
        f"database: sqlite:{database}\n"
        + "\n".join(line for line in text.splitlines() if not line.startswith("database:"))
    )
    config.chmod(0o640)
    os.chown(config, 0, OTHER_UID)
    assert owner_of_bridge(config) == OTHER_UID
    code, _, err = run("audit", "verify", "-c", config)
    assert code == 0, err
    assert owners(folder) == {OTHER_UID}
    # A configuration that the bridge's user cannot read would stop the bridge, and nothing says otherwise here.
    config.chmod(0o600)
    code, _, err = run("check", "--offline", "-c", config)
    assert code == 78
    assert "Permission denied" in err or "cannot read it" in err


def test_a_bridge_of_roots_stays_one(tmp_path: Path, run: Run) -> None:
    code, _, err = run("init", "--domain", "example.org", "--output", tmp_path / "new")
    assert code == 0, err
    config = tmp_path / "new" / "config.yaml"
    (tmp_path / "new" / "audit.jsonl").touch()
    make_database(tmp_path / "new" / "mxrtc-bridge.db", 0)
    assert owner_of_bridge(config) == 0
    assert run("audit", "verify", "-c", config)[0] == 0
    assert owners(tmp_path / "new") == {0}
    # Also where the folder is a volume of somebody who could not run it by this file.
    os.chown(tmp_path / "new", OTHER_UID, OTHER_UID)
    assert owner_of_bridge(config) == 0
    (tmp_path / "new" / "mxrtc-bridge.db").unlink()
    assert owner_of_bridge(config) == 0


def test_who_decides_is_found_along_links_and_where_nothing_is(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", OTHER_UID, OTHER_UID)
    (tmp_path / "link").symlink_to("theirs/../theirs")
    (tmp_path / "loop").symlink_to("loop")
    for path, owner in (("link", OTHER_UID), ("link/new/file", OTHER_UID), ("new", 0), ("theirs/..", 0)):
        assert decider(tmp_path / path) == owner, path
    with pytest.raises(ConfigError, match="Too many levels"):
        decider(tmp_path / "loop")


def test_a_bridge_that_root_starts_is_its_owner_for_good(folder: Path) -> None:
    def start() -> None:
        with click.Context(cli):
            config = load_as_owner(folder / "config.yaml", for_good=True, program=())
            assert config.path == folder / "config.yaml"
            assert os.geteuid() == OTHER_UID
        if folder.parent.stat().st_mode & 0o055 == 0:
            assert os.getresuid() == (0, 0, 0), "it was the owner, by root's right to read, until the command ended"
            return
        assert os.getresuid() == (OTHER_UID,) * 3
        assert os.getresgid() == (OTHER_UID,) * 3
        with pytest.raises(PermissionError):
            os.seteuid(0)

    in_child(start)


@pytest.mark.parametrize("by_owner", [False, True])
def test_services_read_nothing_by_the_right_that_root_keeps_for_a_closed_folder(folder: Path, by_owner: bool) -> None:
    secret = folder.parent.parent / "roots-secret"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    if by_owner:
        folder.chmod(0)

    async def serve() -> None:
        files = FileThreads()
        with pytest.raises(FileError):
            await files.run(secret.read_bytes)
        with pytest.raises(TargetError):
            await open_read(str(secret))
        assert await files.run(Path(folder.parent.parent / "open").read_text) == "for all"

    def start() -> None:
        (folder.parent.parent / "open").write_text("for all")
        with click.Context(cli):
            load_as_owner(folder / "config.yaml", for_good=True, program=())
            assert os.geteuid() == OTHER_UID
            uvloop.run(serve())
            uvloop.run(serve())  # in new threads

    in_child(start)


def test_nothing_can_be_written_that_the_owner_could_not(folder: Path) -> None:
    (folder.parent / "roots").mkdir(mode=0o755)
    with acting_as_owner(folder / "config.yaml"):
        assert os.geteuid() == OTHER_UID
        (folder / "written").touch()
        with pytest.raises(PermissionError):
            (folder.parent / "roots" / "written").touch()
    assert os.geteuid() == 0
    assert owners(folder) == {OTHER_UID}


def test_a_link_in_the_place_of_the_database_is_not_written_through(folder: Path, run: Run) -> None:
    victim = folder.parent / "victim.db"
    sqlite3.connect(victim).close()
    victim.write_bytes(b"")
    (folder / "mxrtc-bridge.db").symlink_to(victim)
    os.chown(folder / "mxrtc-bridge.db", OTHER_UID, OTHER_UID, follow_symlinks=False)
    code, _, err = run("audit", "key", "-c", folder / "config.yaml")
    assert code == 1, err
    assert victim.read_bytes() == b""
