"""The process ends when it is told to, whatever hangs, and at once when it is told twice."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from mxrtc_bridge.bridge.runner import STOP_S, LastBound, run
from mxrtc_bridge.cli.bridge.command_line import ExitCode
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.virtual_users import AdminConsent
from tests.bridge.homeserver import DOMAIN, FakeHomeserver
from tests.config.samples import GOOD, load

PROGRAM = """
import os, sys, time
sync = os.fdatasync

def hangs(descriptor):
    while os.path.exists({flag!r}):
        time.sleep(0.02)
    sync(descriptor)

os.fdatasync = hangs
sys.argv = ["mxrtc-bridge", "run", "--config", {config!r}]
from mxrtc_bridge.cli.bridge.main import main
sys.exit(main())
"""

PROGRAM_WITH_HANGING_PATH = """
import os, sys, time
real = os.open

def hangs(path, *args, **options):
    while str(path) == {path!r} and os.path.exists({flag!r}):
        time.sleep(0.02)
    return real(path, *args, **options)

os.open = hangs
sys.argv = ["mxrtc-bridge", "run", "--config", {config!r}]
from mxrtc_bridge.cli.bridge.main import main
sys.exit(main())
"""


@dataclass
class Process:
    """A bridge as a process, whose audit hangs while there is a file of this name."""

    process: asyncio.subprocess.Process
    hangs: Path
    lines: list[str] = field(default_factory=list)

    async def read(self) -> None:
        assert self.process.stderr is not None
        while line := await self.process.stderr.readline():
            self.lines.append(line.decode())

    async def until(self, words: str) -> None:
        async with asyncio.timeout(30):
            while not any(words in line for line in self.lines):
                assert self.process.returncode is None, self.lines
                await asyncio.sleep(0.02)

    async def ended(self, limit_s: float) -> tuple[int, float]:
        """Exit code, and how long it took."""
        began = time.monotonic()
        async with asyncio.timeout(limit_s):
            code = await self.process.wait()
        return code, time.monotonic() - began


@contextlib.asynccontextmanager
async def running(text: str, flag: Path, **environ: str) -> AsyncIterator[Process]:
    """A program of Python, which is not left behind; it hangs while ``flag`` is there."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", text),
        stderr=asyncio.subprocess.PIPE,
        stdin=asyncio.subprocess.DEVNULL,
        env={**os.environ, **environ},
    )
    made = Process(process, flag)
    reading = asyncio.create_task(made.read())
    try:
        yield made
    finally:
        flag.unlink(missing_ok=True)
        if process.returncode is None:
            process.kill()
            await process.wait()
        await reading


@contextlib.asynccontextmanager
async def started(folder: Path) -> AsyncIterator[Process]:
    async with FakeHomeserver(folder) as homeserver:
        config, flag = homeserver.config(), folder / "hangs"
        async with running(PROGRAM.format(flag=str(flag), config=str(config.path)), flag) as made:
            await made.until("bridge ready")
            yield made


@pytest.mark.programs
async def test_stop_ends_in_order_and_soon(tmp_path: Path) -> None:
    async with started(tmp_path) as bridge:
        bridge.process.send_signal(signal.SIGTERM)
        code, took_s = await bridge.ended(20)
        assert code == 0
        assert took_s < 5
        assert not any(" ! " in line for line in bridge.lines), bridge.lines
        assert sum("bridge ready" in line for line in bridge.lines) == 1


@pytest.mark.programs
async def test_second_signal_ends_a_stop_that_hangs_at_once(tmp_path: Path) -> None:
    async with started(tmp_path) as bridge:
        bridge.hangs.touch()
        bridge.process.send_signal(signal.SIGINT)
        await bridge.until("stopping")
        bridge.process.send_signal(signal.SIGTERM)
        code, took_s = await bridge.ended(20)
        assert code == -signal.SIGTERM
        assert took_s < 2


@pytest.mark.programs
async def test_stop_with_a_disk_that_hangs_under_the_audit_ends_within_its_bound(tmp_path: Path) -> None:
    async with started(tmp_path) as bridge:
        bridge.hangs.touch()
        bridge.process.send_signal(signal.SIGTERM)
        code, took_s = await bridge.ended(STOP_S + 4)
        assert code == 0
        assert took_s < 20
        text = "".join(bridge.lines)
        assert "the audit does not answer" in text
        assert "Traceback" not in text


@contextlib.asynccontextmanager
async def hanging_at(path: Path, config: Path, **environ: str) -> AsyncIterator[Process]:
    """A bridge that hangs where it opens ``path``."""
    flag = config.with_name("hangs")
    flag.touch()
    text = PROGRAM_WITH_HANGING_PATH.format(path=str(path), flag=str(flag), config=str(config))
    async with running(text, flag, **environ) as made:
        yield made


@pytest.mark.programs
async def test_bridge_that_cannot_go_on_says_so_and_ends_although_a_disk_hangs(tmp_path: Path) -> None:
    box = tmp_path / "box"
    box.mkdir()
    async with FakeHomeserver(tmp_path, as_token="another" * 7) as homeserver:
        services = {"inbox": {"files": {"dir": str(box), "direction": "receive"}}}
        config = homeserver.config(peers={"build": {"services": services}}, grants=[])
        async with hanging_at(box, config.path) as bridge:
            code, _ = await bridge.ended(30)
            text = "".join(bridge.lines)
            assert code == ExitCode.CONFIG, text
            assert "does not know the bridge's token" in text
            assert "1 things hang" in text
            assert "Traceback" not in text


@pytest.mark.programs
async def test_service_manager_hears_of_a_bridge_whose_database_takes_its_time(tmp_path: Path) -> None:
    """To write a large file anew takes longer than a service manager waits for a start."""
    notify = tmp_path / "notify"
    async with FakeHomeserver(tmp_path) as homeserver:
        config = homeserver.config()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(notify))
            manager.setblocking(False)
            environ = {"NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": "200000"}
            async with hanging_at(tmp_path / "bridge.db", config.path, **environ) as bridge, asyncio.timeout(30):
                told = await asyncio.get_running_loop().sock_recv(manager, 1000)
                assert told == b"WATCHDOG=1"
                assert bridge.hangs.exists()
                bridge.hangs.unlink()
                while not told.startswith(b"READY=1"):
                    told = await asyncio.get_running_loop().sock_recv(manager, 1000)
                assert told == b"READY=1\nSTATUS=serving"
                bridge.process.send_signal(signal.SIGTERM)
                assert (await bridge.ended(20))[0] == 0


@pytest.mark.programs
async def test_stop_while_the_database_is_opened_ends_soon(tmp_path: Path) -> None:
    async with FakeHomeserver(tmp_path) as homeserver:
        notify = tmp_path / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(notify))
            manager.setblocking(False)
            environ = {"NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": "200000"}
            config = homeserver.config()
            async with hanging_at(tmp_path / "bridge.db", config.path, **environ) as bridge:
                async with asyncio.timeout(30):
                    await asyncio.get_running_loop().sock_recv(manager, 1000)
                bridge.process.send_signal(signal.SIGTERM)
                code, took_s = await bridge.ended(20)
                assert code == 0, bridge.lines
                assert took_s < 5
                assert bridge.hangs.exists()
                assert not any("Traceback" in line for line in bridge.lines), bridge.lines


@pytest.mark.programs
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount, and have port 53")
@pytest.mark.parametrize(
    ("settings", "hangs"),
    [
        ({"homeserver": {"address": "http://matrix.example.test:8008", "domain": DOMAIN}}, False),
        # Asked for by the loop itself, whose threads are waited for.
        ({"database": "postgres://bridge@database.example.test/bridge"}, True),
    ],
    ids=["homeserver", "database"],
)
async def test_stop_beside_a_name_server_that_hangs_ends_soon(
    tmp_path: Path, settings: dict[str, Any], hangs: bool
) -> None:
    resolver = tmp_path / "resolv.conf"
    resolver.write_text("nameserver 127.0.0.154\noptions timeout:30 attempts:5\n")
    mounted = f'mount --bind {resolver} "$(readlink -f /etc/resolv.conf)" && exec "$@"'
    async with FakeHomeserver(tmp_path) as homeserver:
        config = homeserver.config(**settings)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(("127.0.0.154", 53))
            server.setblocking(False)
            command = [str(Path(sys.executable).with_name("mxrtc-bridge")), "run", "--config", str(config.path)]
            process = await asyncio.create_subprocess_exec(
                *("unshare", "-m", "sh", "-c", mounted, "sh", *command), stderr=asyncio.subprocess.PIPE
            )
            bridge = Process(process, tmp_path / "hangs")
            reading = asyncio.create_task(bridge.read())
            try:
                async with asyncio.timeout(30):
                    await asyncio.get_running_loop().sock_recv(server, 512)
                process.send_signal(signal.SIGTERM)
                code, took_s = await bridge.ended(20)
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
                await reading
            assert code == 0, bridge.lines
            assert took_s < 5
            assert any("a name server or a disk does not answer" in line for line in bridge.lines) == hangs, (
                bridge.lines
            )


def test_last_bound_ends_the_process_by_a_thread_of_its_own() -> None:
    codes, left = list[int](), threading.Event()

    def leave(code: int) -> None:
        codes.append(code)
        left.set()

    bound = LastBound(leave, limit_s=0.02)
    bound.begin()
    bound.begin()
    assert left.wait(5)
    assert codes == [1]


def test_last_bound_does_nothing_to_a_stop_that_ends_in_time() -> None:
    codes, others = list[int](), set(threading.enumerate())
    bound = LastBound(codes.append, limit_s=60)
    bound.begin()
    (watching,) = set(threading.enumerate()) - others
    bound.end()
    watching.join(10)
    assert not watching.is_alive()
    assert codes == []


EARLY_RELOAD = """
import os, signal, sys
from mxrtc_bridge.config import loader
real = loader.load_config

def load(path):
    os.kill(os.getpid(), signal.SIGHUP)
    return real(path)

loader.load_config = load
sys.argv = ["mxrtc-bridge", "run", "--config", {config!r}]
from mxrtc_bridge.cli.bridge.entry import main
main()
"""


@pytest.mark.programs
async def test_reload_that_is_asked_for_while_the_bridge_starts_is_done_when_it_has(tmp_path: Path) -> None:
    async with FakeHomeserver(tmp_path) as homeserver:
        config = homeserver.config()
        async with running(EARLY_RELOAD.format(config=str(config.path)), tmp_path / "hangs") as bridge:
            await bridge.until("configuration reloaded")
            await bridge.until("bridge ready")


@pytest.mark.parametrize("version", [1, 2])
async def test_a_start_says_when_the_configuration_is_of_an_earlier_version(
    caplog: pytest.LogCaptureFixture, version: int
) -> None:
    strange = AdminConsent(frozenset({UserId("@strange:example.org")}))
    with pytest.raises(ConfigError, match="there is no such user"):
        await run(load(GOOD | {"version": version}), strange)
    said = "the configuration is written in version 1 and is read as it was meant then; to have it in version 2: "
    found = [text for record in caplog.records if "config upgrade" in (text := record.getMessage())]
    assert found == [said + "mxrtc-bridge config upgrade"] * (version == 1)
