"""What a service manager is told, by a socket of the test's own, on the loop that the bridge uses."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import uvloop

from mxrtc_bridge.bridge.service_manager import MAX_PATH_BYTES, ServiceManager


class Manager:
    """The other end."""

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)
        self._kept: list[str] = []

    def keep(self) -> None:
        """Read whatever comes as soon as it comes: the kernel keeps ten messages, and drops the others."""
        asyncio.get_running_loop().add_reader(self._socket, lambda: self._kept.extend(self._read()))

    def told(self) -> list[str]:
        """All messages that have come since."""
        found, self._kept = [*self._kept, *self._read()], []
        return found

    def _read(self) -> list[str]:
        found = []
        try:
            while True:
                found.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return found

    async def until(self, text: str) -> list[str]:
        """All messages up to one that begins so."""
        found: list[str] = []
        async with asyncio.timeout(10):
            while not any(each.startswith(text) for each in found):
                found += self.told()
                await asyncio.sleep(0.005)
        return found

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


@contextmanager
def manager(address: str) -> Iterator[Manager]:
    with closing(Manager(address)) as made:
        yield made


def on_uvloop(work: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        await work()

    uvloop.run(run())


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """As in the environment, and as it is bound."""
    if request.param == "path":
        return (str(tmp_path / "notify"),) * 2
    name = f"mxrtc-test-{secrets.token_hex(8)}"
    return f"@{name}", f"\0{name}"


def test_the_whole_life_is_told(address: tuple[str, str]) -> None:
    environ = {"NOTIFY_SOCKET": address[0], "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid()), "OTHER": "x"}

    async def live() -> None:
        serving = asyncio.Event()
        told = ServiceManager(environ, monotonic_ns=lambda: 7_654_321)
        with manager(address[1]) as other, closing(told):
            told.reload(begins=True)  # nothing before it is ready
            told.reload(begins=False)
            running = asyncio.create_task(told.run(serving))
            assert await other.until("WATCHDOG=1") == ["WATCHDOG=1"]
            serving.set()
            assert "READY=1\nSTATUS=serving" in await other.until("READY=1")
            for trouble in ("no calls for a peer", "no calls for a peer", ""):
                told.note(trouble)
            said = await other.until("STATUS=serving")
            assert [each for each in said if each != "WATCHDOG=1"] == [
                "STATUS=serving; no calls for a peer",
                "STATUS=serving",
            ]
            await other.until("WATCHDOG=1")
            told.reload(begins=True)
            told.reload(begins=False)
            said = await other.until("READY=1")
            assert [each for each in said if each != "WATCHDOG=1"] == ["RELOADING=1\nMONOTONIC_USEC=7654", "READY=1"]
            told.stopping()
            told.reload(begins=False)  # it is not ready again after that
            assert [each for each in await other.until("STOPPING=1") if each != "WATCHDOG=1"] == [
                "STOPPING=1\nSTATUS=stopping"
            ]
            running.cancel()
            await asyncio.wait([running])
            other.told()
            told.close()
            told.stopping()
            assert other.told() == []

    on_uvloop(live)
    assert environ == {"OTHER": "x"}, "what a child would inherit"


def test_a_loop_that_hangs_gives_no_sign_of_life(tmp_path: Path) -> None:
    async def live() -> None:
        with (
            manager(str(tmp_path / "notify")) as other,
            closing(ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "20000"})) as told,
        ):
            running = asyncio.create_task(told.run(asyncio.Event()))
            await other.until("WATCHDOG=1")
            await other.until("WATCHDOG=1")
            time.sleep(0.1)  # what a defect would do to the loop
            assert len(other.told()) <= 1
            await other.until("WATCHDOG=1")
            running.cancel()
            await asyncio.wait([running])

    on_uvloop(live)


def test_a_bridge_that_waits_for_its_homeserver_holds_up_nobody(tmp_path: Path) -> None:
    async def live() -> None:
        serving = asyncio.Event()
        with (
            manager(str(tmp_path / "notify")) as other,
            closing(ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")}, ready_after_s=0.05)) as told,
        ):
            running = asyncio.create_task(told.run(serving))
            assert await other.until("READY=1") == [
                "READY=1\nSTATUS=waiting: it does not serve yet, and its log says why"
            ]
            told.note("no calls for a peer")  # which is said once it serves at all
            serving.set()
            assert await other.until("READY=1") == ["READY=1\nSTATUS=serving; no calls for a peer"]
            running.cancel()
            await asyncio.wait([running])

    on_uvloop(live)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"NOTIFY_SOCKET": ""},
        {"NOTIFY_SOCKET": "@"},
        {"NOTIFY_SOCKET": "/"},
        {"NOTIFY_SOCKET": "relative/path"},
        {"NOTIFY_SOCKET": "vsock:2:1234"},
        {"NOTIFY_SOCKET": "/does/not/exist"},
        {"NOTIFY_SOCKET": "/dev/null"},
        {"NOTIFY_SOCKET": "/" + "x" * MAX_PATH_BYTES},
        {"NOTIFY_SOCKET": "@" + "x" * 4000},
        {"NOTIFY_SOCKET": "@nobody-has-this-name"},
        {"NOTIFY_SOCKET": "/tmp/\udcff"},
        {"NOTIFY_SOCKET": "/a\0b"},
    ],
)
def test_an_address_that_leads_nowhere_costs_one_line_of_the_log(
    environ: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with closing(ServiceManager(dict(environ))) as told:
        for _ in range(3):
            told.stopping()
    assert len(caplog.records) <= 1


def test_a_manager_that_does_not_read_holds_up_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        manager(str(tmp_path / "notify")),
        closing(ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "notify")})) as told,
    ):
        begun = time.monotonic()
        for _ in range(5000):
            told.stopping()
        assert time.monotonic() - begun < 5
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    ("usec", "pid"),
    [
        ("20000", "1"), ("0", ""), ("-5", ""), ("soon", ""), ("", ""), ("²", ""), ("9" * 30, ""), ("1.5", ""),
    ],
)  # fmt: skip
def test_a_watchdog_that_is_not_ours_is_not_fed(tmp_path: Path, usec: str, pid: str) -> None:
    environ = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": usec, "WATCHDOG_PID": pid}

    async def live() -> None:
        serving = asyncio.Event()
        serving.set()
        with manager(str(tmp_path / "notify")) as other, closing(ServiceManager(environ)) as told:
            running = asyncio.create_task(told.run(serving))
            assert await other.until("READY=1") == ["READY=1\nSTATUS=serving"]
            await running
            assert other.told() == []

    on_uvloop(live)
