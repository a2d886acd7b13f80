"""How the cost of a running bridge grows with peers, people, sessions, streams and files: programs and real clients.

The tables have the form of those of :mod:`tests.bench.scale`, which calls this. Clients are the library of ``mxrtc`` in
this process, as two hundred programs do not fit. ``BENCH_PROGRAMS`` names the folder of another version's programs, so
that two versions can be measured in turns; ``BENCH_TABLES`` names tables, by commas.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import ClientSession

from mxrtc_bridge.client import commands
from mxrtc_bridge.client.options import CallOptions, Context, Forward
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.core.ids import ServiceName
from mxrtc_bridge.demo.processes import ManagedProcess
from tests.bench.files import resident_kib
from tests.bench.peers import counting
from tests.bench.pipe import cpu_seconds, cpu_seconds_of
from tests.e2e.people import Person
from tests.e2e.world import BIN, DOMAIN, World, echo

PROGRAMS = Path(os.environ.get("BENCH_PROGRAMS", BIN))
LONG_S = 120.0
READY_PEERS = (10, 50, 250)
SESSIONS = (10, 50, 160)
STREAMS = (1, 10, 100, 200)
ENTRIES = (10, 1000, 10_000)
RECEIVED = (1000, 100_000)
Columns = dict[str, list[float]]
Tables = dict[str, tuple[tuple[int, ...], Columns]]
_LIMITS = {"calls_per_server": 1000, "calls_total": 1000, "invites_per_minute": 6000}
_ENCRYPTION_IS_ON = "encryption is on: "


@asynccontextmanager
async def _world(folder: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        folder.mkdir()
        world = await World.start(folder, stack)
        world.program, world.client = [PROGRAMS / "mxrtc-bridge"], [PROGRAMS / "mxrtc"]
        world.settings["limits"] = _LIMITS
        await world.serve("echo", echo)
        yield world


@asynccontextmanager
async def _bridge(world: World) -> AsyncIterator[tuple[ManagedProcess, float, float]]:
    """Run the bridge; yields it, and after how many seconds it was ready, and had all its devices."""
    bridge = world.admin("run")
    began = time.perf_counter()
    async with bridge:
        await bridge.wait_for_line("bridge ready", LONG_S)
        ready = time.perf_counter() - began
        await bridge.wait_for_line(_ENCRYPTION_IS_ON, LONG_S)
        yield bridge, ready, time.perf_counter() - began
        await bridge.terminate(60)


class _Client(Report):
    """``mxrtc connect`` of one user, as a task."""

    def __init__(self, world: World, user: str) -> None:
        super().__init__(quiet=True)
        self.connections = 0
        self.port = 0
        state = StateFolder(Path(world.env(user)["MXRTC_STATE"]))
        context = Context(state, self, CallOptions(interfaces=("lo",), timeout_s=60.0))
        forward = Forward("127.0.0.1", 0, ServiceName("echo"))
        self.task = asyncio.create_task(commands.connect(context, "build", [forward], reconnect=True))

    def say(self, kind: str, sentence: str, **fields: object) -> None:
        super().say(kind, sentence, **fields)
        if kind == "connected":
            self.connections += 1
        elif kind == "listening":
            self.port = int(str(fields["port"]))

    async def end(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def _until(what: Callable[[], bool]) -> float:
    """Wait for something; returns the seconds."""
    began = time.perf_counter()
    async with asyncio.timeout(LONG_S):
        while not what():
            await asyncio.sleep(0.02)
    return time.perf_counter() - began


async def _connected(world: World, users: list[str]) -> list[_Client]:
    """Have these users connect, ten at a time."""
    clients: list[_Client] = []
    for start in range(0, len(users), 10):
        some = [_Client(world, user) for user in users[start : start + 10]]
        clients += some
        await _until(lambda some=some: all(each.port or each.task.done() for each in some))
        for each in some:
            if each.task.done():
                each.task.result()
    return clients


async def _starts(folder: Path) -> Tables:
    """Peers: the first start and the second one."""
    names = ("first: ready, s", "first: all devices, s", "first: requests a peer", "first: bridge CPU, s")
    again = ("again: ready, s", "again: all devices, s", "again: requests a peer")
    columns: Columns = {name: [] for name in (*names, *again)}
    async with _world(folder) as world, counting(world.homeserver.url) as (address, counter):
        world.settings["homeserver"] = {"address": address, "domain": DOMAIN}
        for size in READY_PEERS:
            peers = {f"s{size}p{n}": {"services": world.services} for n in range(size)}
            world.settings |= {"peers": peers, "database": f"sqlite:{folder}/peers{size}.db"}
            for which in (names, again):
                before = counter.requests
                async with _bridge(world) as (bridge, ready, all_devices):
                    for name, value in zip(
                        which,
                        (ready, all_devices, (counter.requests - before) / size, cpu_seconds(bridge)),
                        strict=False,
                    ):
                        columns[name].append(value)
    return {"peers": (READY_PEERS, columns)}


async def _compared(folder: Path) -> Tables:
    """Fifty peers, and people whose identity was compared: the second start."""
    sizes, columns = (10, 1000), {"ready, s": list[float](), "all devices, s": list[float]()}
    async with _world(folder) as world:
        world.settings["peers"] = {f"p{n}": {"services": world.services} for n in range(50)}
        async with _bridge(world):
            pass
        for size in sizes:
            with sqlite3.connect(folder / "bridge.db") as database:
                database.executemany(
                    "INSERT OR IGNORE INTO crypto_user VALUES (?, ?, '', 0, 1, 'm', 'm')",
                    [(f"@rtc_p0:{DOMAIN}", f"@u{number}:{DOMAIN}") for number in range(size)],
                )
            async with _bridge(world) as (_, ready, all_devices):
                columns["ready, s"].append(ready)
                columns["all devices, s"].append(all_devices)
    return {"compared people, 50 peers": (sizes, columns)}


async def _groups(folder: Path) -> Tables:
    """A thousand services for a group: the start, and joins of a named room while a byte goes to and fro."""
    sizes = (10, 1000)
    columns: Columns = {name: [] for name in ("ready, s", "MiB", "byte, longest ms", "byte while joined, longest ms")}
    async with _world(folder) as world, ClientSession() as http:
        for name in ("alice", "host", *(f"guest{n}" for n in range(10))):
            await world.add_user(name)
        world.grant("alice", "build/echo")
        host = await Person.log_in(world, "host", http)
        guests = [await Person.log_in(world, f"guest{n}", http) for n in range(10)]
        room = str((await host.ask("POST", "createRoom", {"preset": "public_chat"}))["room_id"])
        bot = f"@rtcbot:{DOMAIN}"
        await host.ask("POST", f"rooms/{quote(room)}/invite", {"user_id": bot})
        world.grants.append({"id": "room", "from": [f"room:{room}"], "to": ["build/echo"]})
        for size in sizes:
            service = {"target": "tcp:127.0.0.1:1", "grantable_to": ["group:crowd"]}
            world.settings |= {
                "groups": {"crowd": [f"@u{number}:{DOMAIN}" for number in range(size)]},
                "peers": {
                    "build": {"services": world.services},
                    **{f"p{peer}": {"services": {f"s{n}": service for n in range(100)}} for peer in range(10)},
                },
            }
            async with _bridge(world) as (bridge, ready, _):
                await host.until_member(room, bot)
                columns["ready, s"].append(ready)
                columns["MiB"].append(resident_kib(bridge.pid) / 1024)
                client = (await _connected(world, ["alice"]))[0]
                columns["byte, longest ms"].append(max(await _bytes(client.port, 1000)))
                told = asyncio.create_task(_bytes(client.port, 3000))
                for guest in guests:
                    await guest.ask("POST", f"join/{quote(room)}", {})
                    await guest.ask("POST", f"rooms/{quote(room)}/leave", {})
                columns["byte while joined, longest ms"].append(max(await told))
                await client.end()
    return {"members of a group of 1,000 services": (sizes, columns)}


async def _bytes(port: int, count: int) -> list[float]:
    """Send a byte to and fro; returns the milliseconds of each."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    times = []
    for _ in range(count):
        began = time.perf_counter()
        writer.write(b"x")
        await reader.readexactly(1)
        times.append((time.perf_counter() - began) * 1000)
    writer.close()
    return times


async def _sessions(folder: Path) -> Tables:
    """Live sessions, what a new call takes beside them, and all of them after a restart of the bridge."""
    names = ("MiB", "fds", "bridge idle, % of a core", "a new call, ms", "all back after a restart, s")
    spent_by = ("bridge CPU for it, s", "homeserver CPU for it, s", "clients CPU for it, s")
    columns: Columns = {name: [] for name in (*names, *spent_by)}
    async with _world(folder) as world:
        users = [f"u{number}" for number in range(SESSIONS[-1])]
        for name in ("caller", *users):
            await world.add_user(name)
        world.grants.append({"id": "all", "from": [f"server:{DOMAIN}"], "to": ["build/echo"]})
        clients: list[_Client] = []
        bridge = await world.start_bridge()
        try:
            await _call_ms(world)
            for size in SESSIONS:
                clients += await _connected(world, users[len(clients) : size])
                await asyncio.sleep(1)
                columns["MiB"].append(resident_kib(bridge.pid) / 1024)
                columns["fds"].append(len(os.listdir(f"/proc/{bridge.pid}/fd")))
                spent = cpu_seconds(bridge)
                await asyncio.sleep(10)
                columns["bridge idle, % of a core"].append((cpu_seconds(bridge) - spent) * 10)
                columns["a new call, ms"].append(sorted([await _call_ms(world) for _ in range(5)])[2])
                for each in clients:
                    each.connections = 0
                await bridge.terminate(60)
                bridge = await world.start_bridge()
                before = [cpu_seconds_of(world.homeserver.pid), time.process_time()]
                back = await _until(lambda some=tuple(clients): all(each.connections for each in some))
                columns["all back after a restart, s"].append(back)
                after = [cpu_seconds_of(world.homeserver.pid), time.process_time()]
                each_s = [cpu_seconds(bridge), *(last - first for first, last in zip(before, after, strict=True))]
                for name, value in zip(spent_by, each_s, strict=True):
                    columns[name].append(value)
        finally:
            await asyncio.gather(*(each.end() for each in clients))
    return {"sessions": (SESSIONS, columns)}


async def _call_ms(world: World) -> float:
    began = time.perf_counter()
    client = _Client(world, "caller")
    await _until(lambda: bool(client.connections) or client.task.done())
    took = (time.perf_counter() - began) * 1000
    await client.end()
    return took


async def _streams(folder: Path) -> Tables:
    """Streams of one session: memory, a byte beside them, and opening more."""
    names = ("bridge MiB more", "a byte, ms", "opened and closed in a second")
    columns: Columns = {name: [] for name in names}
    async with _world(folder) as world, _bridge_of_alice(world) as (bridge, client):
        await _bytes(client.port, 100)
        first = resident_kib(bridge.pid)
        held: list[asyncio.StreamWriter] = []
        for size in STREAMS:
            while len(held) < size:
                reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
                writer.write(b"x")
                await reader.readexactly(1)
                held.append(writer)
            columns["bridge MiB more"].append((resident_kib(bridge.pid) - first) / 1024)
            times = sorted(await _bytes(client.port, 200))
            columns["a byte, ms"].append(times[100])
            # As many come in as there is credit for, and then 25 a second: below that.
            await asyncio.sleep(4)
            began = time.perf_counter()
            for _ in range(25):
                await asyncio.gather(*(_bytes(client.port, 1) for _ in range(4)))
            columns["opened and closed in a second"].append(100 / (time.perf_counter() - began))
        for writer in held:
            writer.close()
    return {"streams of a session": (STREAMS, columns)}


@asynccontextmanager
async def _bridge_of_alice(world: World) -> AsyncIterator[tuple[ManagedProcess, _Client]]:
    await world.add_user("alice")
    world.grant("alice", "build")
    async with _bridge(world) as (bridge, _, _):
        client = (await _connected(world, ["alice"]))[0]
        try:
            yield bridge, client
        finally:
            await client.end()


async def _files(folder: Path) -> Tables:
    """Entries of a directory: listing, sending and fetching them."""
    columns: Columns = {name: [] for name in ("ls, s", "send, s", "get, s", "bridge MiB")}
    async with _world(folder) as world:
        for size in ENTRIES:
            (folder / f"box{size}").mkdir(mode=0o700)
            world.services[f"box{size}"] = {"files": {"dir": str(folder / f"box{size}"), "direction": "both"}}
            source = folder / f"files{size}"
            source.mkdir()
            for number in range(size):
                (source / f"{number:06}").write_bytes(b"x" * 200)
        world.grant("alice", "build")
        await world.add_user("alice")
        async with _bridge(world) as (bridge, _, _):
            for size in ENTRIES:
                columns["send, s"].append(await _run(world, "send", f"{folder}/files{size}", f"build/box{size}"))
                columns["ls, s"].append(await _run(world, "ls", f"build/box{size}"))
                wanted = f"build/box{size}:files{size}"
                columns["get, s"].append(await _run(world, "get", wanted, "-o", str(folder / f"got{size}")))
                columns["bridge MiB"].append(resident_kib(bridge.pid) / 1024)
    return {"entries of a directory": (ENTRIES, columns)}


async def _boxes(folder: Path) -> Tables:
    """Files that were received before: the start, and the first file after it."""
    columns: Columns = {name: [] for name in ("ready, s", "the first file, s", "one more, s")}
    async with _world(folder) as world:
        await world.add_user("alice")
        world.grant("alice", "build")
        one = folder / "one"
        one.write_bytes(b"x")
        for size in RECEIVED:
            box = folder / f"box{size}"
            await asyncio.to_thread(_fill, box, size)
            world.services["box"] = {"files": {"dir": str(box), "direction": "receive"}}
            async with _bridge(world) as (_, ready, _):
                columns["ready, s"].append(ready)
                columns["the first file, s"].append(await _run(world, "send", str(one), "build/box"))
                one.write_bytes(os.urandom(10))
                columns["one more, s"].append(await _run(world, "send", str(one), "build/box"))
    return {"received files of a drop box": (RECEIVED, columns)}


def _fill(box: Path, size: int) -> None:
    """Make a drop box of so many files, with their receipts."""
    state = box / ".mxrtc"
    state.mkdir(parents=True, mode=0o700)
    box.chmod(0o700)
    descriptor = os.open(state / "ledger.jsonl", os.O_CREAT | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as ledger:
        for number in range(size):
            inner = box / f"d{number // 1000}"
            inner.mkdir(exist_ok=True)
            path = inner / f"{number}"
            path.touch(mode=0o600)
            receipt: dict[str, Any] = {"t": 1, "u": f"@u{number % 50}:{DOMAIN}", "p": f"{number}", "s": 0}
            receipt |= {"n": f"{inner.name}/{number}", "h": "a" * 64, "v": f"{number}", "i": path.stat().st_ino}
            ledger.write(json.dumps(receipt) + "\n")


async def _run(world: World, *words: str) -> float:
    began = time.perf_counter()
    code, _, said = await world.run_mxrtc("alice", *words, timeout_s=LONG_S)
    assert code == 0, said
    return time.perf_counter() - began


PARTS: dict[str, Callable[[Path], Awaitable[Tables]]] = {
    "starts": _starts,
    "compared": _compared,
    "groups": _groups,
    "sessions": _sessions,
    "streams": _streams,
    "files": _files,
    "boxes": _boxes,
}


async def measure_growth(folder: Path) -> Tables:
    """Measure each table, or those that ``BENCH_TABLES`` names; some minutes in all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 16384), hard))
    found: Tables = {}
    for name in os.environ.get("BENCH_TABLES", ",".join(PARTS)).split(","):
        began = time.perf_counter()
        found |= await PARTS[name](folder / name)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return found
