"""What is installed from the wheel works, and has no more than it says: in environments of its own.

``make dist`` builds what is to be published and has it tried here (``MXRTC_DIST`` names its folder); the tests alone
build their own.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import AsyncIterator, Iterator
from email.parser import HeaderParser
from pathlib import Path

import click
import pytest
import pytest_asyncio
from aiohttp import web
from packaging.specifiers import SpecifierSet

from mxrtc_bridge.cli.bridge.packages import MODULES, how_to_install
from mxrtc_bridge.cli.client.main import main as client_commands
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.demo.synapse import find_synapse_python
from tests.catch_all import answering
from tests.clean_environment import ROOT, make_environment
from tests.cli.test_loading import reached_by_the_client

pytestmark = pytest.mark.real

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = PYPROJECT["project"]
SHARED = PYPROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
"""Folders of the tree whose files are put beside the package: where manual pages and completions are looked for."""


def build(source: Path, folder: Path, *kinds: str) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", *kinds, "--outdir", folder, source]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the sdist of the tree, and the wheel that is built from that."""
    if "MXRTC_DIST" in os.environ:
        return Path(os.environ["MXRTC_DIST"])
    folder = tmp_path_factory.mktemp("dist")
    build(ROOT, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(distributions: Path) -> Path:
    (wheel,) = distributions.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def client(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment for users."""
    return make_environment(tmp_path_factory.mktemp("client"), wheel)


@pytest.fixture(scope="module")
def bridge(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The programs of an environment for admins."""
    return make_environment(tmp_path_factory.mktemp("bridge"), wheel, "bridge")


def run(program: Path, *arguments: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments], cwd=folder, env={"PATH": os.environ["PATH"], "HOME": str(folder), **env},
        capture_output=True, text=True, check=False, timeout=150,
    )  # fmt: skip


def kept() -> set[str]:
    """Return the names of all files of the tree that are, or might be, committed."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    return set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


# The files


def test_the_index_would_take_them(distributions: Path) -> None:
    files = sorted(distributions.iterdir())
    assert [file.suffix for file in files] == [".whl", ".gz"]
    command = [sys.executable, "-m", "twine", "check", "--strict", *files]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert (result.returncode, result.stdout.count("PASSED")) == (0, 2), result.stdout


def test_the_tree_builds_the_same_wheel_as_the_sdist(wheel: Path, tmp_path: Path) -> None:
    """Every file, in the same order and with the same time: a build can be repeated by whoever has the sources."""
    build(ROOT, tmp_path, "--wheel")
    assert (tmp_path / wheel.name).read_bytes() == wheel.read_bytes()


def test_the_wheel_holds_the_package_what_is_put_beside_it_and_nothing_else(wheel: Path) -> None:
    version = PROJECT["name"].replace("-", "_") + "-" + wheel.name.split("-")[1]
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.partition("/")[0] for name in archive.namelist()}
        shared = {name for name in archive.namelist() if ".data/" in name}
        modules = {name for name in archive.namelist() if name.startswith("mxrtc_bridge/")}
        metadata = HeaderParser().parsestr(archive.read(f"{version}.dist-info/METADATA").decode())
    assert tops == {"mxrtc_bridge", f"{version}.dist-info", f"{version}.data"}
    assert shared == {
        f"{version}.data/data/{to}/{file.name}" for place, to in SHARED.items() for file in (ROOT / place).iterdir()
    }
    assert modules == {name for name in kept() if name.startswith("mxrtc_bridge/")}
    assert {"bridge", "postgres", "demo"} <= set(metadata.get_all("Provides-Extra", []))


def test_the_sdist_has_no_file_that_is_not_kept(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names - kept() == {"PKG-INFO"}
    assert {"LICENSE", "README.md", "CHANGELOG.md", "mxrtc_bridge/py.typed", "docs/man/mxrtc.1"} <= names


def test_installers_take_the_pythons_that_are_named(wheel: Path) -> None:
    wanted = SpecifierSet(PROJECT["requires-python"])
    named = [name.rpartition(" ")[2] for name in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", name)]
    assert named == [f"3.{minor}" for minor in range(30) if wanted.contains(f"3.{minor}.1")]


# The client


def commands(group: click.Group, *before: str) -> Iterator[tuple[str, ...]]:
    """Yield each command with its words, and arguments that could be meant."""
    examples = {"peer": "build", "target": "build/x", "service": "build/x", "user": "@alice:example.org"}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
            continue
        arguments = [each for each in command.params if isinstance(each, click.Argument) and each.required]
        yield (*before, name, *(examples.get(str(each.name), "build/x") for each in arguments))


@pytest_asyncio.fixture
async def refusing() -> AsyncIterator[str]:
    """A homeserver that has ended every login; a command ends there, with all loaded that it needs."""

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"errcode": "M_UNKNOWN_TOKEN", "error": "Unrecognised access token"}, status=401)

    async with answering(refuse) as address:
        yield address


async def test_every_command_of_a_user_runs_with_nothing_but_the_client(
    client: Path, tmp_path: Path, refusing: str
) -> None:
    """Whatever it says of its arguments and of the login: no module is missing, and nothing is a defect."""
    StateFolder(tmp_path / "state").save_login(Login(refusing, UserId("@alice:example.org"), "DEVICE", "token"))
    assert isinstance(client_commands, click.Group)
    tried = list(commands(client_commands))
    assert len(tried) > 8
    for words in tried:
        result = await asyncio.to_thread(
            run, client / "mxrtc", "--state", str(tmp_path / "state"), *words, folder=tmp_path
        )
        assert "Traceback" not in result.stderr, (words, result.stderr)
        assert "No module" not in result.stderr, (words, result.stderr)
        assert result.returncode in {0, 1, 2, 3, 5, 7}, (words, result.stdout, result.stderr)


def test_every_module_of_a_user_loads_with_nothing_but_the_client(client: Path, tmp_path: Path) -> None:
    """Also what commands load only when something happens."""
    modules = sorted(reached_by_the_client())
    assert len(modules) > 100
    program = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]; print(*sys.modules)"
    result = run(client / "python", "-c", program, *modules, folder=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    assert set(result.stdout.split()).isdisjoint(MODULES)


@pytest.mark.parametrize("arguments", [["--help"], ["run"], ["check", "--json"]], ids=lambda words: words[0])
def test_the_clients_mxrtc_bridge_says_what_it_lacks(client: Path, tmp_path: Path, arguments: list[str]) -> None:
    result = run(client / "mxrtc-bridge", *arguments, folder=tmp_path)
    assert (result.returncode, result.stdout) == (78, "")
    assert result.stderr == how_to_install(list(MODULES), str(client / "python")) + "\n"


# The bridge


def test_the_demonstration_works_from_the_wheel(bridge: Path, tmp_path: Path) -> None:
    result = run(
        bridge / "python", "-m", "mxrtc_bridge.demo", "--once", folder=tmp_path,
        MXRTC_SYNAPSE_PYTHON=str(find_synapse_python()), TMPDIR="/tmp", COLUMNS="80",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Everything works: direct" in result.stdout
