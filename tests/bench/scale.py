"""How the cost of the bridge's parts grows with peers, people, services, members, files and records.

Each table has the sizes, the milliseconds, and the exponent of growth from one size to the next: 0
means that the size does not matter, 1 that twice as much costs twice as much. What is below a millisecond has no
exponent that says anything.

What needs running programs and clients is in :mod:`tests.bench.growth`.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from mxrtc_bridge.bridge.access.configured_rooms import named_rooms
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.core.access.grants import GrantTable
from mxrtc_bridge.core.access.targets import FileLimits
from mxrtc_bridge.core.audit.chain import NO_LINES, AuditKind, AuditRecord, entry_after
from mxrtc_bridge.core.call.limits import CallLimits, LiveCalls, RateLimit
from mxrtc_bridge.core.crypto.records import Changes, UserRecord
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.inbox import ArrivedEvent
from mxrtc_bridge.sinks.files.receive.drop_box import DropBox
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.free_space import shrink
from mxrtc_bridge.storage.tables import Stores
from tests.bench.growth import measure_growth

DOMAIN = "example.org"
Row = dict[str, float]


def table(sizes: Sequence[int], columns: dict[str, list[float]]) -> dict[str, Row]:
    """Numbers by size, with the exponents between one size and the next."""
    rows: dict[str, Row] = {}
    for place, size in enumerate(sizes):
        rows[str(size)] = row = {}
        for name, values in columns.items():
            row[name] = round(values[place], 4)
            if place and min(values[place], values[place - 1]) > 0:
                growth = math.log(values[place] / values[place - 1]) / math.log(size / sizes[place - 1])
                row[f"{name}, exponent"] = round(growth, 2)
    return rows


async def _cost_ms(work: Callable[[], Awaitable[object]], times: int = 1) -> float:
    """Milliseconds of one of so many times."""
    began = time.perf_counter()
    for _ in range(times):
        await work()
    return (time.perf_counter() - began) * 1000 / times


def _write_config(folder: Path, *, peers: int, services: int, members: int, grants: int = 0) -> Path:
    service = {"target": "tcp:127.0.0.1:1", "grantable_to": ["group:crowd"]}
    content = {
        "version": 2,
        "homeserver": {"address": "http://127.0.0.1:1", "domain": DOMAIN},
        "appservice": {"listen": "127.0.0.1:2", "as_token": "a" * 40, "hs_token": "h" * 40},
        "groups": {"crowd": [f"@u{number}:{DOMAIN}" for number in range(members)]},
        "peers": {
            f"p{peer}": {"services": {f"s{number}": service for number in range(services)}} for peer in range(peers)
        },
        "grants": [{"id": f"g{number}", "from": ["group:crowd"], "to": ["p0/s0"]} for number in range(grants)],
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    return path


async def _configuration(folder: Path) -> dict[str, Any]:
    """Loading the file, and what each membership of a room asks of it."""

    async def measure(sizes: Sequence[int], **fixed: int | str) -> dict[str, Row]:
        columns: dict[str, list[float]] = {"load": [], "rooms that are named": []}
        for size in sizes:
            shape = {name: size if value == "size" else int(value) for name, value in fixed.items()}
            path = _write_config(folder, **shape)
            loaded: list[Config] = []

            async def load(path: Path = path, loaded: list[Config] = loaded) -> None:
                loaded.append(load_config(path))

            columns["load"].append(await _cost_ms(load))
            current, given = CurrentConfig(loaded[0]), GrantTable()

            async def name(current: CurrentConfig = current, given: GrantTable = given) -> None:
                named_rooms(current, given)

            columns["rooms that are named"].append(await _cost_ms(name, 100))
        return table(sizes, columns)

    return {
        "peers": await measure((10, 100, 250), peers="size", services=5, members=1),
        "members of a group of 1,000 services": await measure((10, 100, 1000), peers=10, services=100, members="size"),
        "grants to a group of 1,000": await measure((10, 100, 1000), peers=1, services=1, members=1000, grants="size"),
    }


async def _compared(folder: Path) -> dict[str, Row]:
    """What a start of 50 devices reads of the identities that were compared."""
    sizes, costs = (10, 100, 1000), []
    for size in sizes:
        async with await Database.open(f"sqlite:///{folder}/compared{size}.db") as database:
            store = Stores(database).crypto
            people = [
                UserRecord(UserId(f"@u{number}:{DOMAIN}"), "", 0, outdated=True, pinned_master="m", verified_master="m")
                for number in range(size)
            ]
            await store.of(UserId(f"@rtc_p0:{DOMAIN}")).save(Changes(users=people))
            costs.append(await _cost_ms(store.vouched))
    return table(sizes, {"read": costs})


async def _drop_boxes(folder: Path) -> dict[str, Row]:
    """Opening a drop box that holds files which others have put there; nobody waits for it at the start."""
    sizes = (1000, 10_000, 30_000)
    opened: list[float] = []
    for size in sizes:
        place = folder / f"box{size}"
        for start in range(0, size, 1000):
            inner = place / f"d{start}"
            inner.mkdir(parents=True)
            for number in range(1000):
                os.close(os.open(inner / str(number), os.O_CREAT | os.O_WRONLY))
        box = DropBox(place, FileLimits(free_floor_bytes=0))
        opened.append(await _cost_ms(box.open))
        await box.close()
    return table(sizes, {"open": opened})


async def _database(folder: Path) -> dict[str, Row]:
    """Writing, forgetting with nothing to do, and giving room back, with full tables."""
    sizes = (10_000, 100_000)
    names = ("a decision", "an event", "forgetting nothing", "giving room back")
    columns: dict[str, list[float]] = {name: [] for name in names}
    for size in sizes:
        async with await Database.open(f"sqlite:///{folder}/{size}.db") as database:
            stores, head, now_ms = Stores(database), NO_LINES, time.time_ns() // 1_000_000
            for start in range(0, size, 1000):
                entries = []
                for number in range(start, start + 1000):
                    user = f"@u{number % 500}:{DOMAIN}"
                    entries.append(entry_after(head, AuditRecord(AuditKind.CALL, now_ms, user=user, allowed=True)))
                    head = entries[-1].head
                await stores.audit.add(entries)
                await stores.inbox.store(
                    [ArrivedEvent(f"${number}", "!r:x", "{}", refusal="bad") for number in range(start, start + 1000)],
                    now_ms,
                )

            async def decide(stores: Stores = stores, now_ms: int = now_ms) -> None:
                nonlocal head
                entry = entry_after(head, AuditRecord(AuditKind.CALL, now_ms, user=f"@a:{DOMAIN}", allowed=True))
                head = entry.head
                await stores.audit.add([entry])

            arrived = iter(range(size, size + 1000))

            async def arrive(stores: Stores = stores, now_ms: int = now_ms, arrived: Any = arrived) -> None:
                await stores.inbox.store([ArrivedEvent(f"${next(arrived)}", "!r:x", "{}")], now_ms)

            columns["a decision"].append(await _cost_ms(decide, 200))
            columns["an event"].append(await _cost_ms(arrive, 200))
            columns["forgetting nothing"].append(
                await _cost_ms(lambda stores=stores, now_ms=now_ms: stores.audit.prune(now_ms))
            )
            await database.write("DELETE FROM audit")
            columns["giving room back"].append(await _cost_ms(lambda database=database: shrink(database)))
    return table(sizes, columns)


async def _limits(_folder: Path) -> dict[str, Row]:
    """How many of so many callers of our own homeserver are let in at once, with the usual limits."""
    columns: dict[str, list[float]] = {"let in by the rate": [], "calls that live": []}
    sizes = (20, 160)
    for size in sizes:
        rate, calls = RateLimit(30, 120, DOMAIN), LiveCalls(CallLimits(), DOMAIN)
        users = [UserId(f"@u{number}:{DOMAIN}") for number in range(size)]
        columns["let in by the rate"].append(sum(rate.allow(user, 0.0) for user in users))
        columns["calls that live"].append(sum(calls.begin(user) for user in users))
    return table(sizes, columns)


async def measure_scale(folder: Path) -> dict[str, object]:
    """Measure each table; ten minutes at most on a machine with nothing else to do."""
    tables: dict[str, object] = {}
    for name, measure in {
        "configuration": _configuration,
        "compared identities": _compared,
        "drop boxes": _drop_boxes,
        "database": _database,
        "own users at once": _limits,
    }.items():
        inner = folder / name.replace(" ", "-")
        await asyncio.to_thread(inner.mkdir)
        tables[name] = await measure(inner)
    inner = folder / "programs"
    await asyncio.to_thread(inner.mkdir)
    return tables | {name: table(sizes, columns) for name, (sizes, columns) in (await measure_growth(inner)).items()}
