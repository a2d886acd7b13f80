"""A name that no resolver answers for, or a disk that hangs, keeps its own target waiting and nothing else."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxrtc_bridge.core.access.targets import Target, TcpTarget, UnixTarget
from mxrtc_bridge.core.errors import TargetError, TargetFailure
from mxrtc_bridge.rtc.happy_eyeballs import resolve
from mxrtc_bridge.sinks.connector import TargetConnector

MANY = 100
WAYS = 3
"""A name is asked for with both families of addresses, and then with each."""


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What hangs when it is asked for: the names of a domain, and the paths below a folder."""
    over, asked = threading.Event(), list[str]()
    getaddrinfo, stat = socket.getaddrinfo, os.stat

    def wait(what: object) -> None:
        if str(what) in ("hangs.test", "/hangs/socket"):
            asked.append(str(what))
            over.wait(30)

    def resolves(host: object, *more: object, **options: object) -> object:
        wait(host)
        return getaddrinfo(host, *more, **options)  # type: ignore[arg-type]

    def looks(path: object, *more: object, **options: object) -> object:
        wait(path)
        return stat(path, *more, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolves)
    monkeypatch.setattr(os, "stat", looks)
    yield asked
    over.set()


@pytest.mark.parametrize(
    "target", [TcpTarget("hangs.test", 22, connect_timeout_s=0.2), UnixTarget("/hangs/socket", connect_timeout_s=0.2)]
)
async def test_target_that_hangs_keeps_no_transaction_and_no_other_target_waiting(
    target: Target, hanging: list[str], tmp_path: Path
) -> None:
    connector = TargetConnector()
    dialling = [asyncio.create_task(connector.connect(target)) for _ in range(MANY)]
    while not hanging:
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        # As a transaction is read, and the homeserver's name is resolved.
        assert await asyncio.to_thread(lambda: 1) == 1
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "other"))
            server.listen()
            (await connector.connect(UnixTarget(str(tmp_path / "other")))).reset()
        failures = await asyncio.gather(*dialling, return_exceptions=True)
    assert {error.failure for error in failures if isinstance(error, TargetError)} == {TargetFailure.TIMEOUT}
    assert len(hanging) <= WAYS, "asked for once, however many wait"


async def test_stun_server_whose_name_hangs_keeps_no_transaction_waiting(hanging: list[str]) -> None:
    resolving = [asyncio.create_task(resolve("hangs.test", 3478)) for _ in range(MANY)]
    while not hanging:
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        assert await asyncio.to_thread(lambda: 1) == 1
    assert len(hanging) <= WAYS
    for task in resolving:
        task.cancel()
    await asyncio.gather(*resolving, return_exceptions=True)
