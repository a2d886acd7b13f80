"""Fixtures that give a test one peer of another implementation; import them by name."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack
from typing import Protocol

import pytest
import pytest_asyncio

from tests.rtc.implementations import BROWSERS, FOLDER, Browser, OtherPeer, process_peer
from tests.rtc.peers import RecordingPeer, make_peer


class Start(Protocol):
    def __call__(self, name: str, *arguments: str) -> AbstractAsyncContextManager[OtherPeer]: ...


@pytest.fixture(scope="session")
def node() -> str:
    """The program ``node`` with the packages of the lock file installed, from npm's cache if that has them."""
    node, npm = shutil.which("node"), shutil.which("npm")
    assert node is not None
    assert npm is not None, "node and npm are not installed; .ci/packages test installs them"
    installed = FOLDER / "node_modules" / ".package-lock.json"
    if not installed.exists() or installed.stat().st_mtime < (FOLDER / "package-lock.json").stat().st_mtime:
        options = ["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
        done = subprocess.run([npm, *options], cwd=FOLDER, capture_output=True, text=True, timeout=150, check=False)
        assert done.returncode == 0, f"npm could not install the implementations: {done.stderr}"
    return node


@pytest.fixture(scope="session")
def start(node: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start a peer of the implementation named, a program with arguments; browsers stay for the next test."""
    with ExitStack() as stack:
        browsers: dict[str, Browser] = {}

        def start(name: str, *arguments: str) -> AbstractAsyncContextManager[OtherPeer]:
            if name not in BROWSERS:
                return process_peer(name, *arguments)
            if name not in browsers:
                browsers[name] = stack.enter_context(Browser(name, tmp_path_factory.mktemp(name)).running())
            return browsers[name].peer()

        yield start


@pytest_asyncio.fixture
async def other(start: Start, implementation: str) -> AsyncIterator[OtherPeer]:
    """A peer of the implementation that the test is parametrised with."""
    async with start(implementation) as other:
        yield other


@pytest_asyncio.fixture
async def ours() -> AsyncIterator[RecordingPeer]:
    recorder = RecordingPeer(make_peer())
    yield recorder
    await recorder.peer.close()
