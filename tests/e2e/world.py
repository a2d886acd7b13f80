"""A small real world for the end-to-end tests: Synapse, the bridge as a process, users, and services behind a peer."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Self

from mxrtc_bridge.client import account
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.config.registration import random_sender, render_registration
from mxrtc_bridge.demo.processes import ManagedProcess, PortReservation
from tests.connections import Handler, OwnedConnections
from tests.synapse import Synapse

DOMAIN = "example.test"
PASSWORD = "correct horse"
BIN = Path(sys.executable).parent


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back; end when the other side ends."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def digest(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read to the end, and only then answer with the SHA-256: works only if half-close does."""
    hasher = hashlib.sha256()
    while data := await reader.read(65536):
        hasher.update(data)
    writer.write(hasher.hexdigest().encode() + b"\n")


async def stall(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Accept and never read."""
    await asyncio.Event().wait()


class World:
    """Everything that runs; made by :meth:`start`, ended in reverse order by the exit stack."""

    def __init__(self, folder: Path, stack: AsyncExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self._as_port = PortReservation()
        stack.callback(self._as_port.close)
        self.homeserver: Synapse
        self.bridge: ManagedProcess | None = None
        # One that nobody is granted, so that the configuration is complete from the start.
        self.services: dict[str, dict[str, Any]] = {"unused": {"target": "tcp:127.0.0.1:1"}}
        self.grants: list[dict[str, Any]] = []
        self.settings: dict[str, Any] = {}
        self.signal = "auto"
        """How the client calls."""
        self.own_calls = True
        """Whether each command of the client makes a call of its own, as most tests are about calls; else a command
        uses the connection of another one that runs."""
        self.program: list[str | Path] = [BIN / "mxrtc-bridge"]
        """What runs the bridge."""
        self.client: list[str | Path] = [BIN / "mxrtc"]
        """What runs ``mxrtc``."""
        self._runs = 0
        self.connections = OwnedConnections()
        """Those to services of this process."""
        stack.push_async_callback(self.connections.close)

    @classmethod
    async def start(
        cls,
        folder: Path,
        stack: AsyncExitStack,
        *,
        settings: dict[str, Any] | None = None,
        exclusive: bool = True,
        make_homeserver: Callable[..., Synapse] = Synapse,
        **homeserver: Any,
    ) -> Self:
        """Start the homeserver with the registration for a bridge with ``settings``; the test starts the bridge.

        Without ``exclusive``, people can register names of peers, as they could before the registration was read.
        What ``make_homeserver`` makes may have another name than the one that is asked for.
        """
        world = cls(folder, stack)
        world.settings.update(settings or {})
        home = folder / "synapse"
        home.mkdir()
        registration = folder / "registration.yaml"
        world.homeserver = make_homeserver(home, server_name=DOMAIN, app_services=[registration], **homeserver)
        stack.push_async_callback(world.homeserver.stop)
        text = render_registration(load_config(world.write_config()), random_sender())
        registration.write_text(text if exclusive else text.replace("exclusive: true", "exclusive: false"))
        await world.homeserver.start()
        return world

    # Services

    async def serve(self, name: str, handler: Handler, **options: Any) -> int:
        """Run a TCP service of this process behind the peer ``build``; returns its port."""
        server = await asyncio.start_server(self.connections.guarded(handler), "127.0.0.1", 0)
        self._stack.callback(server.close)
        port: int = server.sockets[0].getsockname()[1]
        self.services[name] = {"target": f"tcp:127.0.0.1:{port}", **options}
        return port

    def grant(self, user: str, *services: str) -> None:
        subject = self.homeserver.user_id(user)
        self.grants.append({"id": f"grant-{len(self.grants)}", "from": [subject], "to": list(services)})

    # Bridge

    def write_config(self) -> Path:
        import json

        config = {
            "version": 2,
            "homeserver": {"address": self.homeserver.url, "domain": self.homeserver.server_name},
            "appservice": {
                "listen": f"127.0.0.1:{self._as_port.port}",
                "as_token": "as" * 24,
                "hs_token": "hs" * 24,
            },
            "database": f"sqlite:{self.folder / 'bridge.db'}",
            "peers": {"build": {"services": self.services}},
            "grants": self.grants,
            "ice": {"interfaces": ["lo"], "remote": {"loopback": True, "private": True}},
            **self.settings,
        }
        path = self.folder / "config.yaml"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))
        return path

    async def start_bridge(self, *options: str) -> ManagedProcess:
        """Run ``mxrtc-bridge run`` and wait until it is ready and its devices are up."""
        self.bridge = self.admin("run", *options)
        await self._stack.enter_async_context(self.bridge)
        await self.bridge.wait_for_line("bridge ready", 40)
        await self.bridge.wait_for_line("encryption is o(n|ff): ", 40)
        return self.bridge

    def admin(self, command: str, *options: str) -> ManagedProcess:
        """An ``mxrtc-bridge`` command with the configuration as it is now, not started yet."""
        self._runs += 1
        argv = [*self.program, command, "-c", self.write_config(), *options]
        return ManagedProcess(f"{'bridge' if command == 'run' else command}-{self._runs}", argv, folder=self.folder)

    async def run_admin(self, command: str, *options: str, timeout_s: float = 60) -> tuple[int, str]:
        """Run ``mxrtc-bridge`` to its end; returns exit code and all that it said."""
        async with self.admin(command, *options) as process:
            code = await process.wait(timeout_s)
            return code, (process.output("stdout") + process.output("stderr")).decode()

    def reload(self) -> None:
        """Write the configuration anew and tell the bridge."""
        import signal

        self.write_config()
        assert self.bridge is not None
        self.bridge.send_signal(signal.SIGHUP)

    async def reload_and_wait(self) -> None:
        """Write the configuration anew, and return when it is in force: its rooms may be invited to then."""
        self.write_config()
        code, said = await self.run_admin("reload")
        assert code == 0, said

    # Users

    def env(self, user: str) -> dict[str, str]:
        return {
            "MXRTC_STATE": str(self.folder / f"state-{user}"),
            "MXRTC_INTERFACES": "lo",
            "MXRTC_SIGNAL": self.signal,
            # Of silence: on a machine with much else to do, what is there may be slow.
            "MXRTC_TIMEOUT": "40",
            "MXRTC_OWN_CALL": "1" if self.own_calls else "",
        }

    async def add_user(self, name: str, *, by_program: bool = False) -> None:
        """Register a user and log in as ``mxrtc login`` does: ``by_program``, or faster in this process."""
        await self.homeserver.register_user(name, PASSWORD)
        user, url = self.homeserver.user_id(name), self.homeserver.url
        if not by_program:
            state = StateFolder(Path(self.env(name)["MXRTC_STATE"]))
            options = account.LoginOptions(user, url)
            await account.login_by_password(Context(state, Report(quiet=True)), options, PASSWORD)
            return
        options = ("--homeserver", url, "--password-file", "-")
        async with self.mxrtc(name, "login", user, *options, stdin=PASSWORD.encode() + b"\n") as process:
            assert await process.wait(30) == 0, process.tail()

    def mxrtc(self, user: str, *args: str | Path, stdin: bytes = b"") -> ManagedProcess:
        """An ``mxrtc`` command of ``user``, not started yet."""
        self._runs += 1
        return ManagedProcess(
            f"mxrtc-{self._runs}-{args[0]}",
            [*self.client, *args],
            folder=self.folder,
            env=self.env(user),
            stdin=stdin,
        )

    async def run_mxrtc(
        self, user: str, *args: str | Path, stdin: bytes = b"", timeout_s: float = 60
    ) -> tuple[int, bytes, str]:
        """Run ``mxrtc`` to its end; returns exit code, standard output and standard error."""
        async with self.mxrtc(user, *args, stdin=stdin) as process:
            code = await process.wait(timeout_s)
            return code, process.output("stdout"), process.output("stderr").decode()

    async def connect(self, user: str, *args: str) -> tuple[ManagedProcess, int]:
        """Run ``mxrtc connect`` on a free port; returns the process and the port, once it listens."""
        process = self.mxrtc(user, "connect", *args)
        await self._stack.enter_async_context(process)
        found = await process.wait_for_line(r"listening on 127\.0\.0\.1:(\d+)", 40)
        return process, int(found[1])

    def log_text(self) -> str:
        """Everything that all bridges of this world have logged."""
        return "".join(p.read_text(errors="replace") for p in sorted(self.folder.glob("bridge-*.std*")))


async def pump(port: int, payload: bytes, *, chunk: int = 65536) -> bytes:
    """Send ``payload`` to a port, half-close, and return everything that comes back; both ways at once."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        for start in range(0, len(payload), chunk):
            writer.write(payload[start : start + chunk])
            await writer.drain()
        writer.write_eof()

    try:
        _, received = await asyncio.gather(send(), reader.read())
        return received
    finally:
        writer.close()


def payload(size: int) -> bytes:
    """Bytes that no shift, loss or repetition leaves unnoticed."""
    return os.urandom(size)
