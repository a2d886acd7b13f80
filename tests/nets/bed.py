"""The programs of one bed: Synapse, coturn, bridge and ``mxrtc``, each in its namespace. See :mod:`tests.nets`.

Synapse and the bridge are started once for many tests; what another network needs of them (TURN servers that the
homeserver names, keys of the bridge's configuration) restarts them, and only where it differs. Services and users of
local ports are this process, with sockets of the namespaces.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

from mxrtc_bridge.demo.processes import POLL_INTERVAL_S, ManagedProcess
from tests.certificates import make_certificate
from tests.connections import Handler
from tests.e2e.world import BIN, DOMAIN, PASSWORD, World, digest, echo
from tests.links import Quality
from tests.nets.streams import Fetching, sha256_of_source, source, tick
from tests.nets.topology import APPSERVICE_PORT, Host, Internet, Nat
from tests.synapse import Synapse

SECRET = "a secret of homeserver and TURN server"
HOMESERVER = f"hs.{DOMAIN}"
TURN_NAME = f"turn.{DOMAIN}"
ADDRESSES = {HOMESERVER: "4.0.0.10", TURN_NAME: "4.0.1.10"}

OTHERS = ("bob", "carol", "dave")
"""Who may use all services as well, once a test has registered them."""

LIMITS = {"calls_per_user": 50, "invites_per_minute": 600}
"""Of the bridge's configuration: tests call often."""

TURN_UDP, TURN_TCP = (f"turn:{TURN_NAME}:3478?transport={transport}" for transport in ("udp", "tcp"))
STUN = f"stun:{TURN_NAME}:3478"
TURNS = f"turns:{TURN_NAME}:443?transport=tcp"

Note = Callable[[str, float], None]
"""Notes down for the page what a person waited for, and how long, in seconds."""


class NamespacedSynapse(Synapse):
    """Synapse that listens in a namespace: by HTTP for the bridge, and by HTTPS at port 443 for everybody else."""

    def __init__(self, folder: Path, host: Host, certificate: Path, **options: Any) -> None:
        super().__init__(folder, **options)
        assert self.forks is not None
        self._host = host
        self._spawn = partial(self.forks.spawn, namespace=host.namespace)
        client = {"type": "http", "bind_addresses": ["::"], "resources": [{"names": ["client"]}]}
        self.extra_config |= {
            "listeners": [{"port": self.port, **client}, {"port": 443, "tls": True, **client}],
            "tls_certificate_path": str(certificate),
            "tls_private_key_path": str(certificate),
            "turn_shared_secret": SECRET,
            "turn_uris": [],
        }

    @property
    def url(self) -> str:
        return f"http://{ADDRESSES[HOMESERVER]}:{self.port}"

    def _request(self, method: str, path: str, token: str | None, body: Mapping[str, Any] | None) -> object:
        with self._host.inside():  # the thread of this one request
            return super()._request(method, path, token, body)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a person saw of a command."""

    code: int
    out: bytes
    said: str
    seconds: float
    """From the start of the program to its end."""

    @property
    def way(self) -> str:
        """How the two sides were connected, ``direct`` or ``relayed``."""
        return self._connected()[1]

    @property
    def set_up_s(self) -> float:
        """How long it took until they were, without the start of the program."""
        return int(self._connected()[2]) / 1000

    def _connected(self) -> re.Match[str]:
        found = re.search(r"^connected to build\S*: (\w+) \(.*\), (\d+) ms", self.said, re.M)
        assert self.code == 0, self.said
        assert found is not None, self.said
        return found


@dataclass(slots=True)
class Tunnel:
    """A running ``mxrtc connect``, and its local ports by service."""

    process: ManagedProcess
    ports: dict[str, int] = field(default_factory=dict)


class Bed(World):
    """A world in namespaces; made by :meth:`up`."""

    net: Internet
    usual_settings: dict[str, Any]
    _test: AsyncExitStack
    """Ends what a test has started."""

    @classmethod
    async def up(cls, folder: Path, stack: AsyncExitStack) -> Self:
        """Make the networks and start all programs, with a user ``alice`` who may use all services."""
        net = await stack.enter_async_context(Internet(folder))
        certificate = folder / "servers.pem"
        make_certificate(certificate, addresses=tuple(ADDRESSES.values()), names=tuple(ADDRESSES))
        trusting = ["env", f"SSL_CERT_FILE={certificate}"]
        settings = {
            "appservice": {
                "listen": f"0.0.0.0:{APPSERVICE_PORT}",
                "url": f"http://{net.bridge_router.public}:{APPSERVICE_PORT}",
                "as_token": "as" * 24,
                "hs_token": "hs" * 24,
            },
            "limits": LIMITS,
            "ice": {},
        }
        make = partial(NamespacedSynapse, host=net.homeserver, certificate=certificate)
        bed = await cls.start(folder, stack, settings=settings, make_homeserver=make)
        bed.net, bed.usual_settings = net, settings
        bed.program = net.bridge.command(*trusting, BIN / "mxrtc-bridge")
        bed.client = net.client.command(*trusting, BIN / "mxrtc")
        bed.usual_network()
        for name, handler in {"echo": echo, "digest": digest, "source": source, "tick": tick}.items():
            await bed.serve(name, handler)
        bed.inbox.mkdir()
        bed.services["inbox"] = {"files": {"dir": str(bed.inbox), "direction": "receive"}}
        for name in ("alice", *OTHERS):
            bed.grant(name, "build")
        await bed.start_bridge()
        await bed.add_user("alice")
        return bed

    @property
    def inbox(self) -> Path:
        """Where files arrive that are sent to the service ``inbox``."""
        return self.folder / "inbox"

    async def add_user(self, name: str, *, by_program: bool = True) -> None:
        """Register a user, who logs in from the client's machine by HTTPS."""
        await self.homeserver.register_user(name, PASSWORD)
        login = ("login", self.homeserver.user_id(name), "--password-file", "-")
        at = ("--homeserver", f"https://{HOMESERVER}")
        async with self.mxrtc(name, *login, *at, stdin=PASSWORD.encode() + b"\n") as process:
            assert await process.wait(30) == 0, process.tail()

    @asynccontextmanager
    async def test(self) -> AsyncIterator[None]:
        """The networks and settings of a test, and the end of what it starts."""
        await self.line(Quality())
        self.usual_network()
        if self.bridge is None or self.bridge.returncode is not None:
            await self.start_bridge()  # a test that has failed left it so
        async with AsyncExitStack() as self._test:
            yield

    # Networks

    def names(self, *more: str) -> None:
        """Have bridge and client know the servers by name; ``more`` are lines of ``/etc/hosts`` that come first."""
        lines = ["127.0.0.1 localhost", *more, *(f"{value} {key}" for key, value in ADDRESSES.items())]
        for host in (self.net.bridge, self.net.client):
            host.write_etc("hosts", "\n".join(lines) + "\n")

    def usual_network(self) -> None:
        """Both sides behind routers as homes have them; the bridge's lets the homeserver through to it."""
        self.net.usual_lans()
        self.names()
        self.bridge_nat()
        for router in (self.net.client_router, self.net.mobile):
            router.rules(Nat.PORT_RESTRICTED)

    def bridge_nat(
        self, nat: Nat = Nat.PORT_RESTRICTED, *, drop: Sequence[str] = (), forward: Sequence[str] = ()
    ) -> None:
        """Have the bridge's router do ``nat``; see :meth:`Router.rules`."""
        appservice = f"tcp dport {APPSERVICE_PORT}"
        self.net.bridge_router.rules(nat, drop=drop, forward=(appservice, *forward))

    @asynccontextmanager
    async def public_bridge(self, *, drop: Sequence[str] = ()) -> AsyncIterator[None]:
        """The bridge at a public address, behind a router that only drops what a rule fits."""
        assert self.bridge is not None
        await self.bridge.terminate()
        self.net.open_bridge()
        self.bridge_nat(Nat.NONE, drop=drop)
        await self.start_bridge()
        try:
            yield
        finally:
            await self.bridge.terminate()
            self.usual_network()
            await self.start_bridge()

    async def line(self, there: Quality, back: Quality | None = None) -> None:
        """Give the client's line a quality, ``there`` from the internet to it."""
        await self.net.line.change(there, back)

    # Programs

    def env(self, user: str) -> dict[str, str]:
        # Each command is to find its own way, whatever others of this user have open.
        return {"MXRTC_STATE": str(self.folder / f"state-{user}"), "MXRTC_OWN_CALL": "1"}

    async def serve(self, name: str, handler: Handler, **options: Any) -> int:
        with self.net.bridge.inside():
            listening = socket.create_server(("127.0.0.1", 0))
        server = await asyncio.start_server(self.connections.guarded(handler), sock=listening)
        self._stack.callback(server.close)
        port: int = listening.getsockname()[1]
        self.services[name] = {"target": f"tcp:127.0.0.1:{port}", **options}
        return port

    async def set_up(self, *turn_uris: str, **settings: Any) -> None:
        """Have the homeserver name these servers, and the bridge these settings."""
        settings = {**self.usual_settings, **settings}
        config = self.homeserver.extra_config
        if [config["turn_uris"], self.settings] == [list(turn_uris), settings]:
            return
        assert self.bridge is not None
        await self.bridge.terminate()
        if config["turn_uris"] != list(turn_uris):
            config["turn_uris"] = list(turn_uris)
            await self.homeserver.restart()
        self.settings = settings
        await self.start_bridge()

    async def start_turn(
        self, *options: str, secret: str = SECRET, address: str = ADDRESSES[TURN_NAME]
    ) -> ManagedProcess:
        """Run coturn, at 3478 by UDP and TCP and at 443 by TLS, until the test ends or the server is ended."""
        self._runs += 1
        certificate = self.folder / "servers.pem"
        argv = self.net.turn.command(
            "turnserver", "-n", "--no-cli", "--simple-log", "--log-file=stdout", f"--realm={DOMAIN}",
            f"--listening-ip={address}", f"--relay-ip={address}", "--listening-port=3478", "--tls-listening-port=443",
            "--min-port=50000", "--max-port=50400", "--use-auth-secret", f"--static-auth-secret={secret}",
            f"--cert={certificate}", f"--pkey={certificate}", f"--pidfile={self.folder / f'turn-{address}.pid'}",
            f"--db={self.folder / f'turn-{address}.db'}", *options,
        )  # fmt: skip
        server = ManagedProcess(f"turn-{self._runs}", argv, folder=self.folder)
        await self._test.enter_async_context(server)
        async with asyncio.timeout(10):
            while not await self._listens(self.net.turn, address, 443):
                await asyncio.sleep(POLL_INTERVAL_S)
        return server

    async def see(self, *args: str | Path, user: str = "alice", stdin: bytes = b"", timeout_s: float = 120) -> Seen:
        """Run ``mxrtc`` to its end."""
        began = time.monotonic()
        code, out, said = await self.run_mxrtc(user, *args, stdin=stdin, timeout_s=timeout_s)
        assert "Traceback" not in said, said
        return Seen(code, out, said, time.monotonic() - began)

    async def fetch(self, size: int, *options: str) -> Seen:
        """Fetch so many bytes of the service ``source``, which must be right if the command says so."""
        seen = await self.see(*options, "nc", "build/source", stdin=b"%d\n" % size)
        assert seen.code or hashlib.sha256(seen.out).hexdigest() == sha256_of_source(size)
        return seen

    async def give(self, size: int, *options: str) -> Seen:
        """Give so many bytes to the service ``digest``, which must have them as they were if the command says so."""
        data = random.Random(size).randbytes(size)
        seen = await self.see(*options, "nc", "build/digest", stdin=data)
        assert seen.code or seen.out.decode().strip() == hashlib.sha256(data).hexdigest()
        return seen

    async def tunnel(self, *services: str, options: Sequence[str] = ()) -> Tunnel:
        """Run ``mxrtc connect`` with a free port for each service, until the test ends."""
        listen = [word for service in services for word in ("-L", f"0={service}")]
        process = self.mxrtc("alice", *options, "connect", "build", *listen)
        await self._test.enter_async_context(process)
        tunnel = Tunnel(process)
        for service in services:
            found = await process.wait_for_line(rf"listening on 127\.0\.0\.1:(\d+).*{service}", 60)
            tunnel.ports[service] = int(found[1])
        return tunnel

    @staticmethod
    async def _listens(host: Host, address: str, port: int) -> bool:
        with host.inside():
            sock = socket.socket()
        with sock, suppress(OSError):
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
            return True
        return False

    async def open(self, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to a local port of the client's machine."""
        with self.net.client.inside():
            sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
        return await asyncio.open_connection(sock=sock)

    @asynccontextmanager
    async def fetching(self, tunnel: Tunnel, size: int) -> AsyncIterator[Fetching]:
        """Fetch so many bytes of the service ``source`` by a tunnel."""
        reader, writer = await self.open(tunnel.ports["source"])
        writer.write(b"%d\n" % size)
        try:
            yield Fetching(reader, size)
        finally:
            writer.close()

    async def until_works(self, tunnel: Tunnel, timeout_s: float = 60) -> float:
        """Open streams to ``echo`` until one answers; returns how long that took."""
        began = time.monotonic()
        async with asyncio.timeout(timeout_s):
            while not await self._answers(tunnel.ports["echo"]):
                await asyncio.sleep(POLL_INTERVAL_S)
        return time.monotonic() - began

    async def _answers(self, port: int) -> bool:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(10):
                reader, writer = await self.open(port)
                try:
                    writer.write(b"?")
                    return await reader.read(1) == b"?"
                finally:
                    writer.close()
        return False
