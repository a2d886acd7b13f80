"""Commands load what they need: help answers at once, and what asks a socket loads no library of calls."""

from __future__ import annotations

import ast
import asyncio
import gc
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

import mxrtc_bridge
from mxrtc_bridge.cli.loading import loading
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import UserId
from tests.catch_all import answering
from tests.config.samples import GOOD

PACKAGE = Path(mxrtc_bridge.__file__).parent
WITHOUT = Path(__file__).parent.parent / "without.py"

HTTP = {"aiohttp"}
DEVICES = {"cryptography", "mautrix", "aiosqlite", "vodozemac"}
CALLS = {"aioice"}
MEDIA = {"aiortc", "av", "pylibsrtp"}
"""What the bridge alone has: its sessions are aiortc's."""
CONFIGURATION = {"pydantic", "ruamel"}
METRICS = {"prometheus_client"}
LIBRARIES = HTTP | DEVICES | CALLS | MEDIA | CONFIGURATION | METRICS

PROGRAM = """
import atexit, sys
from mxrtc_bridge.cli.{program}.main import main
loaded = sys.argv.pop(1)
atexit.register(lambda: open(loaded, "w").write("\\n".join(sys.modules)))
main()
"""

COUNTING = """
import atexit, gc, sys
from mxrtc_bridge.cli.bridge.main import main
counted = sys.argv.pop(1)
atexit.register(lambda: open(counted, "w").write(f"{len(gc.get_objects())} {gc.get_freeze_count()}"))
main()
"""


def test_nothing_is_collected_while_modules_are_loaded() -> None:
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_stays_off_where_it_was_off_and_comes_back_after_a_failure() -> None:
    with pytest.raises(ImportError), loading():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


@pytest_asyncio.fixture
async def refusing() -> AsyncIterator[str]:
    """A homeserver that has ended every login; a command ends there, with all loaded that it needs."""

    async def refuse(_: web.Request) -> web.Response:
        return web.json_response({"errcode": "M_UNKNOWN_TOKEN", "error": "Unrecognised access token"}, status=401)

    async with answering(refuse) as address:
        yield address


@pytest.mark.programs
async def test_running_bridge_never_waits_until_the_collector_has_gone_through_all_modules(tmp_path: Path) -> None:
    """A full collection halts the loop, in whatever thread it begins."""
    config, counted = tmp_path / "config.yaml", tmp_path / "counted"
    config.touch(mode=0o600)
    config.write_text(json.dumps({**GOOD, "database": f"sqlite:{tmp_path / 'bridge.db'}"}))
    stranger = ("run", "-c", str(config), "--adopt", "@stranger:example.org")  # ends it before it asks anybody
    command = [sys.executable, "-c", COUNTING, str(counted), *stranger]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    out, err = await process.communicate()
    assert b"there is no such user" in err, (out, err)
    looked_at, frozen = map(int, counted.read_text().split())
    assert looked_at * 20 < frozen


async def loaded_by(program: str, folder: Path, *arguments: str, code: int) -> set[str]:
    found = folder / "loaded"
    command = [sys.executable, "-c", PROGRAM.format(program=program), str(found), *arguments]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    out, err = await process.communicate()
    assert process.returncode == code, (out, err)
    return LIBRARIES & set(found.read_text().splitlines())


@pytest.mark.programs
@pytest.mark.parametrize(
    ("arguments", "code", "libraries"),
    [
        (["--help"], 0, set()),
        (["status"], 2, HTTP),
        (["devices"], 2, HTTP | DEVICES),
        (["ping", "build"], 2, HTTP | DEVICES),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
async def test_a_command_of_a_user_loads_no_more(
    tmp_path: Path, refusing: str, arguments: list[str], code: int, libraries: set[str]
) -> None:
    StateFolder(tmp_path).save_login(Login(refusing, UserId("@alice:example.org"), "DEVICE", "token"))
    loaded = await loaded_by("client", tmp_path, "--state", str(tmp_path), *arguments, code=code)
    assert loaded == libraries


@pytest.mark.programs
@pytest.mark.parametrize(
    ("arguments", "code", "libraries"),
    [
        (["example-config"], 0, CONFIGURATION),
        (["who", "-c", "config.yaml"], 1, CONFIGURATION | HTTP),
        (["audit", "verify", "-c", "config.yaml"], 0, CONFIGURATION | {"mautrix", "aiosqlite"}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
async def test_a_command_of_an_admin_loads_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, libraries: set[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    config = tmp_path / "config.yaml"
    (tmp_path / "audit.jsonl").touch(mode=0o600)
    config.touch(mode=0o600)
    audit = {"file": str(tmp_path / "audit.jsonl")}
    config.write_text(json.dumps({**GOOD, "database": f"sqlite:{tmp_path / 'bridge.db'}", "audit": audit}))
    assert await loaded_by("bridge", tmp_path, *arguments, code=code) == libraries


def imports_of(module: str) -> set[str]:
    """Return which of ours a module imports, in its functions as well, or names in a string."""
    file = PACKAGE.parent / module.replace(".", "/")
    file = file / "__init__.py" if file.is_dir() else file.with_suffix(".py")
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Import(names=names):
                found |= {each.name for each in names}
            case ast.ImportFrom(module=str(name), names=names):
                found |= {name, *(f"{name}.{each.name}" for each in names)}
            case ast.Constant(value=str(text)) if re.fullmatch(r"mxrtc_bridge(\.\w+)+", text):
                found.add(text)
    return {each for each in found if each.startswith("mxrtc_bridge") and is_module(each)}


def is_module(name: str) -> bool:
    file = PACKAGE.parent / name.replace(".", "/")
    return file.with_suffix(".py").exists() or (file / "__init__.py").exists()


def reached_by_the_client() -> set[str]:
    """Return the modules of ours that a command of ``mxrtc`` may load."""
    left = [
        ".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for folder in ("client", "cli/client")
        for file in (PACKAGE / folder).rglob("*.py")
    ]
    seen = set(left)
    while left:
        found = imports_of(left.pop()) - seen
        seen |= found
        left += found
    return seen


@pytest.mark.programs
async def test_all_commands_of_a_user_load_without_libraries_of_media() -> None:
    """Not by way of another library either, and neither at the start nor later."""
    modules = reached_by_the_client()
    assert {"mxrtc_bridge.rtc.openssl_dtls", "mxrtc_bridge.client.netcheck"} <= modules, "the search goes far enough"
    command = [sys.executable, str(WITHOUT), ",".join(MEDIA), "--import", ",".join(sorted(modules))]
    process = await asyncio.create_subprocess_exec(*command, stdout=-1, stderr=-1)
    out, err = await process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")
