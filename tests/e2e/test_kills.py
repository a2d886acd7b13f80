"""Bridge, clients and homeserver are killed at random moments under load, and everybody looks at what they saw.

Streams run all the time through two clients, one of which is never killed, and trees of files go to an inbox and come
from a share. Each stream says first what will come on it, so both of its ends know at any byte whether it is right, and
at its end whether that was all. Files are called by what is in them.

- An end in order is an end of all, at services and at programs; anything else is a reset. Only a unix socket has none:
  its service may see an end in the middle, and is left out there.
- A stream is reset only if the bridge or its own client was killed meanwhile.
- What is visible in an inbox and below the output of ``get`` is whole at any moment.
- After each death the database is whole, the audit can be verified, the bridge serves a call within 10 s of its start,
  and the clients that live connect again by themselves.

The moments come from a seed, which is printed with what happened; ``MXRTC_SEED`` gives the same again, as far as a real
machine does anything again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import secrets
import shutil
import sqlite3
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.e2e.files import MIB, STATE, digests, objects
from tests.e2e.world import BIN, World
from tests.long import LONG

pytestmark = [pytest.mark.real, pytest.mark.alone, pytest.mark.timeout(7000)]

VICTIMS = ("bridge", "bridge", "bridge", "client", "client", "homeserver", "sender", "getter")
ROUNDS = 25 if LONG else 1
"""In each of which every victim dies once."""
LATEST_S = 1.5
"""After everything has been well."""
SERVES_S = 10.0
"""From the start of the bridge to a call that was answered; longer where the very first start was slow already."""
RECOVERS_S = 60.0
HANGS_S = 60.0
WORKERS = 2
"""Streams at a time through each client."""
SIZES = (1, 1000, 70_000, 300_000, MIB)
SERVICES = ("echo", "digest", "download", "echo-unix", "digest-unix", "download-unix")
HEADER = struct.Struct(">QQ")
SMALL_FILES = 30


class WrongBytesError(AssertionError):
    """A byte that nobody has sent."""


def content(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


class Incoming:
    """What should come: a header, and then what it promises."""

    def __init__(self, expected: bytes | None = None) -> None:
        self.received = 0
        self.header: tuple[int, int] | None = None
        self._head = b""
        self._expected = expected

    @property
    def is_whole(self) -> bool:
        return self._expected is not None and self.received == len(self._expected)

    def feed(self, data: bytes) -> None:
        """Compare what has come.

        Raises:
            WrongBytesError: it is not what was promised.
        """
        if self._expected is None:
            self._head += data
            if len(self._head) < HEADER.size:
                return
            self.header = HEADER.unpack_from(self._head)
            self._expected = self._head[: HEADER.size] + content(*self.header)
            data, self._head = self._head, b""
        if self._expected[self.received : self.received + len(data)] != data:
            raise WrongBytesError(f"{len(data)} bytes after {self.received} of {len(self._expected)}")
        self.received += len(data)


@dataclass
class Seen:
    """What services and programs have seen, and what they should not have."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Services:
    """The services, each of which answers only what has come whole."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen

    def handler(self, name: str) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        kind, _, family = name.partition("-")

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            incoming = Incoming(expected=None)
            asked = b""
            try:
                while data := await reader.read(65536):
                    if kind == "download":
                        asked += data
                        continue
                    incoming.feed(data)
                    if kind == "echo":
                        writer.write(data)
                        await writer.drain()
            except WrongBytesError as error:
                self._seen.wrong.append(f"service {name}: {error}")
                writer.transport.abort()
                return
            except OSError:
                self._seen.counts["service: reset"] += 1
                return
            if not (len(asked) == HEADER.size if kind == "download" else incoming.is_whole):
                self._seen.counts[f"service: cut {family}"] += 1
                if not family:
                    self._seen.wrong.append(
                        f"service {name}: an end in order after {incoming.received or len(asked)} bytes"
                    )
                writer.transport.abort()
                return
            self._seen.counts["service: end"] += 1
            with suppress(OSError):
                if kind == "digest":
                    writer.write(answer(*incoming.header or (0, 0)))
                elif kind == "download":
                    writer.write(content(*HEADER.unpack(asked)))
                await writer.drain()
                writer.write_eof()
                await writer.drain()

        return serve


def answer(seed: int, size: int) -> bytes:
    return hashlib.sha256(content(seed, size)).hexdigest().encode()


@dataclass
class Client:
    """One ``mxrtc connect`` after the other, of one user."""

    world: World
    user: str
    process: ManagedProcess | None = None
    ports: dict[str, int] = field(default_factory=dict)
    troubles: list[list[float]] = field(default_factory=list)
    """From when to when streams may be reset."""

    async def start(self) -> None:
        options = [word for name in SERVICES for word in ("-L", f"0={name}")]
        self.process, _ = await self.world.connect(self.user, "build", *options)
        for name in SERVICES:
            found = await self.process.wait_for_line(rf"listening on 127\.0\.0\.1:(\d+) for build/{name}$", 20)
            self.ports[name] = int(found[1])

    def trouble(self) -> None:
        self.troubles.append([time.monotonic(), float("inf")])

    def may_reset(self, since: float) -> bool:
        return any(since <= end for _, end in self.troubles)


async def stream(client: Client, name: str, seed: int, size: int) -> str:
    """One stream: what its program saw, which is ``end`` only if all of it was there.

    Raises:
        OSError: nobody listens.
    """
    kind = name.partition("-")[0]
    head, data = HEADER.pack(seed, size), content(seed, size)
    expected = {"echo": head + data, "digest": answer(seed, size), "download": data}[kind]
    reader, writer = await asyncio.open_connection("127.0.0.1", client.ports[name])
    incoming = Incoming(expected)

    async def send() -> None:
        with suppress(OSError):
            for start in range(0, 0 if kind == "download" else size, 65536):
                writer.write(head * (not start) + data[start : start + 65536])
                await writer.drain()
            if kind == "download":
                writer.write(head)
            writer.write_eof()

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(HANGS_S):
            while got := await reader.read(65536):
                incoming.feed(got)
    except WrongBytesError as error:
        return f"wrong: {error}"
    except TimeoutError:
        return f"hangs after {incoming.received} bytes"
    except OSError:
        return "reset"
    finally:
        sending.cancel()
        with suppress(asyncio.CancelledError):
            await sending
        writer.close()
    return "end" if incoming.is_whole else f"an end in order after {incoming.received} of {len(expected)} bytes"


class Streams:
    """The load of streams through one client."""

    def __init__(self, client: Client, seen: Seen, rng: random.Random) -> None:
        self._client = client
        self._seen = seen
        self._rng = rng

    async def run(self) -> None:
        while True:
            name, size = self._rng.choice(SERVICES), self._rng.choice(SIZES)
            await self.one(name, size)

    async def one(self, name: str, size: int) -> bool:
        """Run one stream; returns whether it was whole."""
        began = time.monotonic()
        try:
            saw = await stream(self._client, name, self._rng.getrandbits(64), size)
        except OSError:
            saw = "refused"
            await asyncio.sleep(0.05)
        self._seen.counts[f"program: {saw if len(saw) < 9 else 'wrong'}"] += 1
        if saw != "end" and not (saw in ("reset", "refused") and self._client.may_reset(began)):
            self._seen.wrong.append(f"{self._client.user}, {name}, {size} bytes: {saw}")
        return saw == "end"

    async def until_well(self) -> None:
        """Wait until all services are reached again, after which nothing is reset any more."""
        async with asyncio.timeout(RECOVERS_S):
            for name in SERVICES:
                while not await self.one(name, 1000):
                    pass
        for trouble in self._client.troubles:
            trouble[1] = min(trouble[1], time.monotonic())


def make_tree(folder: Path, rng: random.Random) -> dict[str, str]:
    """Many small files and a larger one, each called by what is in it."""
    for number in range(SMALL_FILES + 1):
        size = rng.randint(0, 40_000) if number else 9 * MIB + 77
        seed = rng.getrandbits(32)
        path = folder / f"d{number % 4}" / f"{seed}-{size}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content(seed, size))
    return digests(folder)


def partial_files(folder: Path) -> list[str]:
    """What is visible below a folder and is not what its name says."""
    found = []
    for parent, folders, names in os.walk(folder):
        # Whoever is at work there may take it away meanwhile.
        folders[:] = [each for each in folders if each != STATE]
        for path in (Path(parent, name) for name in names if ".bin" in name):
            seed, _, size = path.stem.partition("-")
            if not size.isdigit() or path.read_bytes() != content(int(seed), int(size)):
                found.append(str(path))
    return found


class Files:
    """Trees that go to the inbox, or come from the share, one after the other; the command is begun again if killed."""

    def __init__(self, world: World, seen: Seen, rng: random.Random, *, send: bool) -> None:
        self.process: ManagedProcess | None = None
        self._world = world
        self._seen = seen
        self._rng = rng
        self._send = send
        self._done = 0
        self.kills = 0

    @property
    def target(self) -> Path:
        return self._world.folder / ("inbox" if self._send else "fetched")

    async def run(self) -> None:
        while True:
            name = f"tree-{self._done}"
            source = self._world.folder / ("outgoing" if self._send else "share") / name
            sent = make_tree(source, self._rng)
            command: tuple[str | Path, ...] = ("send", source, "build/inbox")
            if not self._send:
                command = ("get", f"build/share:{name}", "-o", self.target)
            verb = command[0]
            while True:
                killed = self.kills
                async with self._world.mxrtc("carol" if self._send else "dan", "--json", *command) as self.process:
                    # Of a bridge that comes back, of a homeserver that comes back, or of a hand that kills it.
                    code = await self.process.wait(4 * RECOVERS_S)
                    # Once it is said to be done, it is: the same command then is another job.
                    if code == 0 or objects(self.process.output(), "transferred"):
                        break
                    if self.kills == killed and code not in (1, 4):
                        self._seen.wrong.append(f"{verb} has ended with {code}: {self.process.tail(5)}")
                        return
            self.process = None
            if digests(self.target / name) != sent:
                self._seen.wrong.append(f"{verb} is done, and the tree is another: {digests(self.target)}")
            self._seen.counts[f"{verb}: done"] += 1
            self._done += 1
            shutil.rmtree(source)
            shutil.rmtree(self.target / name)

    async def until_killed(self) -> None:
        """Kill the command that runs, or the next one."""
        async with asyncio.timeout(RECOVERS_S):
            while self.process is None or self.process.returncode is not None:
                await asyncio.sleep(0.02)
        self.kills += 1
        self.process.kill()


def check_database(folder: Path, into: Path) -> None:
    """Look at a copy of what a dead bridge has left, as looking changes it."""
    for path in folder.glob("bridge.db*"):
        shutil.copy(path, into)
    with closing(sqlite3.connect(into / "bridge.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


class Story:
    """The load, and whoever dies in it."""

    def __init__(self, world: World, scratch: Path, seed: str) -> None:
        self.world = world
        self.seen = Seen()
        self.rng = random.Random(seed)
        self.events: list[str] = []
        self._serves_s = SERVES_S
        self._scratch = scratch
        self.victim, self.other = Client(world, "alice"), Client(world, "bob")
        self._loads = {client.user: Streams(client, self.seen, self.rng) for client in (self.victim, self.other)}
        self._files = {side: Files(world, self.seen, self.rng, send=side == "sender") for side in ("sender", "getter")}

    async def run(self) -> None:
        self._serves_s = max(SERVES_S, 3 * await self._start_bridge())
        for client in (self.victim, self.other):
            await client.start()
        async with asyncio.TaskGroup() as tasks:
            load = [tasks.create_task(each.run()) for each in self._loads.values() for _ in range(WORKERS)]
            load += [tasks.create_task(each.run()) for each in self._files.values()]
            for number in range(ROUNDS):
                for victim in self.rng.sample(VICTIMS, len(VICTIMS)):
                    # Real time: where in its work a process dies is what is tried out here.
                    await asyncio.sleep(self.rng.uniform(0.0, LATEST_S))
                    await self._round(victim)
                if number % 5 == 0 or number == ROUNDS - 1:
                    await self._verify_audit()
            for each in load:
                each.cancel()

    async def _round(self, victim: str) -> None:
        began = time.monotonic()
        match victim:
            case "bridge":
                await self._kill_bridge()
            case "client":
                self.victim.trouble()
                assert self.victim.process is not None
                self.victim.process.kill()
                await self.victim.start()
                await self._loads["alice"].until_well()
            case "homeserver":
                await self._kill_homeserver()
            case _:
                await self._files[victim].until_killed()
        for each in self._files.values():
            assert not partial_files(each.target), victim
        assert not self.seen.wrong, self.seen.wrong
        assert self.other.process is not None
        assert self.other.process.returncode is None, self.other.process.tail()
        self._note(f"{victim} {time.monotonic() - began:.1f} s")

    def _note(self, event: str) -> None:
        self.events.append(event)
        print(event, flush=True)

    async def _kill_bridge(self) -> None:
        for client in (self.victim, self.other):
            client.trouble()
        assert self.world.bridge is not None
        assert self.world.bridge.kill() == -9
        for each in self._files.values():
            assert not partial_files(each.target)
        check_database(self.world.folder, self._scratch)
        serves_s = await self._start_bridge()
        self._note(f"serves after {serves_s:.1f} s")
        assert serves_s < self._serves_s, f"the bridge has taken {serves_s:.1f} s"
        for load in self._loads.values():
            await load.until_well()

    async def _start_bridge(self) -> float:
        """Start the bridge; returns how long it took until a call was answered, in seconds."""
        began = time.monotonic()
        await self.world.start_bridge()
        await self._is_answered()
        return time.monotonic() - began

    async def _kill_homeserver(self) -> None:
        self.world.homeserver.kill()
        for load in self._loads.values():
            await load.until_well()
        await self.world.homeserver.start()
        await self._is_answered()

    async def _is_answered(self) -> None:
        code, _, said = await self.world.run_mxrtc("erin", "ping", "build", "-c", "1", timeout_s=RECOVERS_S)
        assert code == 0, said

    async def _verify_audit(self) -> None:
        command = [BIN / "mxrtc-bridge", "audit", "verify", "-c", self.world.folder / "config.yaml"]
        async with ManagedProcess("verify", command, folder=self.world.folder) as process:
            assert await process.wait(RECOVERS_S) == 0, process.tail()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        for name in ("inbox", "share", "outgoing", "fetched", "scratch"):
            (tmp_path / name).mkdir()
        world.services["inbox"] = {"files": {"dir": str(tmp_path / "inbox"), "direction": "receive"}}
        world.services["share"] = {"files": {"dir": str(tmp_path / "share"), "direction": "send"}}
        world.settings["audit"] = {"file": str(tmp_path / "audit.jsonl")}
        for user in ("alice", "bob", "carol", "dan", "erin"):
            world.grant(user, "build")
            await world.add_user(user)
        yield world


async def serve(world: World, seen: Seen, stack: AsyncExitStack) -> None:
    services = Services(seen)
    for name in SERVICES:
        if not name.endswith("-unix"):
            await world.serve(name, services.handler(name))
            continue
        path = world.folder / f"{name}.sock"
        server = await asyncio.start_unix_server(world.connections.guarded(services.handler(name)), path)
        stack.callback(server.close)
        world.services[name] = {"target": f"unix:{path}"}


async def test_nothing_is_cut_quietly_and_nothing_is_half_whoever_is_killed(world: World) -> None:
    seed = os.environ.get("MXRTC_SEED") or secrets.token_hex(4)
    story = Story(world, world.folder / "scratch", seed)
    async with AsyncExitStack() as stack:
        await serve(world, story.seen, stack)
        try:
            await story.run()
        finally:
            print(f"MXRTC_SEED={seed}:", len(story.events), dict(sorted(story.seen.counts.items())))
            print(*story.seen.wrong, sep="\n")
        assert world.bridge is not None
        assert await world.bridge.terminate(40) == 0, world.bridge.tail()
    # Otherwise nothing was tried.
    counts = story.seen.counts
    for what in ("program: end", "program: reset", "service: end", "service: reset", "send: done", "get: done"):
        assert counts[what], counts
    assert counts["program: wrong"] == 0
    assert "Traceback" not in world.log_text()
