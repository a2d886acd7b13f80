"""The bridge as the unit runs it: as a user of its own, with that user's umask and environment, and a service manager.

Root starts it, as systemd does; what the manager is told goes to a socket of the test.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import pytest

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.bridge.homeserver import FakeHomeserver
from tests.bridge.test_service_manager import Manager
from tests.other_user import OTHER_UID, needs_root, public_directory
from tests.waiting import until

pytestmark = [pytest.mark.real, needs_root]

# All modules are there before it is somebody else, who may not be able to reach where they are installed.
PROGRAM = """
import importlib, os, pkgutil, sys
import mxrtc_bridge
for each in pkgutil.walk_packages(mxrtc_bridge.__path__, "mxrtc_bridge."):
    if not each.name.endswith("__main__") and ".demo" not in each.name:
        importlib.import_module(each.name)
"".encode("utf-8-sig"), "x".encode("idna")
import asyncio.base_events, concurrent.futures.thread, multiprocessing.util, rich.console, uvloop
from rich.table import Table
os.setgroups([])
os.setresgid(UID, UID, UID)
os.setresuid(UID, UID, UID)
os.umask(0o077)
os.chdir(os.environ["STATE_DIRECTORY"])
from mxrtc_bridge.cli.bridge.main import main
main()
""".replace("UID", str(OTHER_UID))


class Service:
    """What the unit does."""

    def __init__(self, folder: Path, homeserver: FakeHomeserver, manager: Manager, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.homeserver = homeserver
        self.manager = manager
        self._stack = stack
        self._runs = 0

    def process(self, *words: str, root: bool = False) -> ManagedProcess:
        """``mxrtc-bridge`` as its user, or as root, not started yet."""
        self._runs += 1
        program = "from mxrtc_bridge.cli.bridge.main import main; main()" if root else PROGRAM
        state = self.folder / "mxrtc"
        env = {
            "STATE_DIRECTORY": str(state), "NOTIFY_SOCKET": str(self.folder / "notify"), "WATCHDOG_USEC": "400000",
            "HOME": str(state), "USER": "mxrtc", "LOGNAME": "mxrtc", "SHELL": "/usr/sbin/nologin",
            "INVOCATION_ID": "0" * 32, "JOURNAL_STREAM": "8:1", "LANG": "C.UTF-8", "PATH": "/usr/bin:/bin",
        }  # fmt: skip
        argv = [sys.executable, "-c", program, *words, "-c", str(state / "config.yaml")]
        return ManagedProcess(f"{words[0]}-{self._runs}", argv, folder=self.folder, env={} if root else env)

    async def run(self, *words: str, root: bool = False) -> tuple[int, str]:
        async with self.process(*words, root=root) as process:
            code = await process.wait(60)
            return code, (process.output("stdout") + process.output("stderr")).decode()

    def configure(self, **changes: object) -> None:
        path = self.folder / "mxrtc" / "config.yaml"
        path.touch(mode=0o600)
        os.chown(path, 0, 0)  # it is read once as it is written
        self.homeserver.config(**changes)
        os.chown(path, OTHER_UID, OTHER_UID)


@pytest.fixture
async def service(tmp_path: Path) -> AsyncIterator[Service]:
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(public_directory())
        (folder / "mxrtc").mkdir(mode=0o700)
        manager = stack.enter_context(closing(Manager(str(folder / "notify"))))
        (folder / "notify").chmod(0o777)
        manager.keep()
        homeserver = await stack.enter_async_context(FakeHomeserver(folder / "mxrtc"))
        made = Service(folder, homeserver, manager, stack)
        made.configure()
        (folder / "mxrtc/bridge.db").unlink()  # the service makes its own
        os.chown(folder / "mxrtc", OTHER_UID, OTHER_UID)
        yield made
        asyncio.get_running_loop().remove_reader(manager.fileno())


async def test_a_life_under_a_service_manager(service: Service) -> None:
    manager = service.manager
    async with service.process("run") as bridge:
        await bridge.wait_for_line("bridge ready", 40)
        said = await manager.until("READY=1")
        assert "READY=1\nSTATUS=serving" in said
        assert "bridge ready" in bridge.output("stderr").decode()
        await manager.until("WATCHDOG=1")

        # A reload by the unit's command, and by a signal; one that is refused ends as well.
        service.configure(metrics={"listen": f"127.0.0.1:{service.homeserver.reserved.port}"})
        code, out = await service.run("reload")
        assert (code, "A change of metrics.listen takes effect after a restart only" in out) == (0, True), out
        begin, end = [each for each in await manager.until("READY=1") if each != "WATCHDOG=1"]
        assert (begin.startswith("RELOADING=1\nMONOTONIC_USEC="), end) == (True, "READY=1")
        config = service.folder / "mxrtc" / "config.yaml"
        good = config.read_text()
        config.write_text(good.replace('"domain"', '"domian"'))
        code, out = await service.run("reload")
        assert (code, "homeserver.domian: unknown key" in out) == (78, True), out
        said = [each.partition("\n")[0] for each in await manager.until("READY=1") if each != "WATCHDOG=1"]
        assert said == ["RELOADING=1", "READY=1"]
        bridge.send_signal(signal.SIGHUP)
        await manager.until("RELOADING=1")
        # Root, beside it, with the file as it is.
        code, out = await service.run("who", root=True)
        assert code == 0, out
        code, out = await service.run("log", "--json", root=True)
        assert code == 0, out
        assert "local:root" not in out, "nothing was changed by root yet"
        assert (await service.run("pause", root=True))[0] == 0
        _, out = await service.run("log", "--json", root=True)
        assert "local:root" in out
        config.write_text(good)
        code, out = await service.run("audit", "verify", root=True)
        assert (code, "whole" in out) == (0, True), out

        # A loop that stands still gives no sign of life, and a stop is told.
        os.kill(bridge.pid, signal.SIGSTOP)
        await until(lambda: Path(f"/proc/{bridge.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        manager.told()
        await asyncio.sleep(1)
        assert manager.told() == []
        os.kill(bridge.pid, signal.SIGCONT)
        await manager.until("WATCHDOG=1")
        bridge.send_signal(signal.SIGTERM)
        assert await bridge.wait(30) == 0
        assert "STOPPING=1\nSTATUS=stopping" in manager.told()
        assert "Traceback" not in bridge.output("stderr").decode()
    state = service.folder / "mxrtc"
    assert {path.lstat().st_uid for path in (state, *state.rglob("*"))} == {OTHER_UID}
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()}
    assert modes.pop("config.yaml") == 0o600
    assert set(modes.values()) == {0o600}, modes


async def test_a_bridge_that_root_starts_by_hand_leaves_nothing_of_roots(service: Service) -> None:
    async with service.process("run", root=True) as bridge:
        await bridge.wait_for_line("bridge ready", 40)
        uids = Path(f"/proc/{bridge.pid}/status").read_text().split("\nUid:\t")[1].split("\n")[0].split("\t")
        assert uids[1] == str(OTHER_UID)
        assert (await service.run("who", root=True))[0] == 0
        bridge.send_signal(signal.SIGINT)
        assert await bridge.wait(30) == 0
    state = service.folder / "mxrtc"
    assert {path.lstat().st_uid for path in (state, *state.rglob("*"))} == {OTHER_UID}
    # And the service goes on with what it has left.
    async with service.process("run") as bridge:
        await bridge.wait_for_line("bridge ready", 40)
