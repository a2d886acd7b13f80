"""Each way of taking a right away, beside each thing that hangs: live sessions are cut, and new calls refused, at once.

What hangs really hangs: threads that are blocked, a database that somebody else has locked, requests without an answer.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from mxrtc_bridge import system
from mxrtc_bridge.bridge.bridge import Bridge
from mxrtc_bridge.core.access.policy import Allow
from mxrtc_bridge.core.call import values as call
from mxrtc_bridge.core.ids import CallId, RoomId, UserId, parse_user_id
from mxrtc_bridge.engine import clock as clock_module
from mxrtc_bridge.engine.live_sessions import LiveSession
from mxrtc_bridge.sinks.files.rooted_dir import RootedDirectory
from mxrtc_bridge.storage.audit_file import AuditFile
from mxrtc_bridge.storage.tables import open_stores
from tests.bridge.homeserver import DOMAIN, PEER, FakeHomeserver
from tests.long import some
from tests.waiting import until

LIMIT_S = 5.0
ADMIN = UserId(f"@admin:{DOMAIN}")
LIST = f"!list:{DOMAIN}"
HOUR_S = 3600
NAMES = ("denied", "removed", "unserved", "numbered", "named", "kicked", "listed", "expired")
CROWD = [f"@crowd{number}:{DOMAIN}" for number in range(60)]


class HangingHomeserver(FakeHomeserver):
    """Answers nothing while it hangs."""

    answers: asyncio.Event

    async def _answer(self, request: web.Request) -> web.Response:
        await self.answers.wait()
        return await super()._answer(request)


class FakeSession:
    """A live session as far as the manager of calls looks at it."""

    def __init__(self, user: UserId) -> None:
        self.remote, self.local, self.route = user, UserId(PEER), RoomId(f"!{user[1:]}")
        self.device, self.number = None, 0
        self.links = self
        self.ended = False

    def feed(self, event: call.Event) -> None:
        self.ended = self.ended or isinstance(event, call.HangUp)

    def say_bye(self, _code: str, _message: str) -> bool:
        return False

    def judge_again(self) -> None: ...


class World:
    """A running bridge, with a live session for each way of losing a right."""

    def __init__(self, homeserver: HangingHomeserver, bridge: Bridge, reload: asyncio.Event) -> None:
        self.homeserver = homeserver
        self.bridge = bridge
        self.reload = reload
        self.sessions: dict[str, FakeSession] = {}
        self.left_out: set[str] = set()
        self.deny: list[str] = []
        self.crowd = True
        self.tasks: list[asyncio.Task[object]] = []
        self.until = time.time() + HOUR_S

    def config(self) -> Any:
        users = [name for name in NAMES if name not in self.left_out | {"numbered", "named"}]
        grants: list[dict[str, Any]] = [
            {"id": name, "from": [user(name)], "to": ["build/other" if name == "unserved" else "build/echo"]}
            for name in users
        ]
        for grant in grants:
            if grant["id"] == "expired":
                grant["until"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.until))
        if self.crowd:
            grants.append({"id": "crowd", "from": CROWD, "to": ["build/echo"]})
        if "unserved" in self.left_out:
            grants = [grant for grant in grants if grant["id"] != "unserved"]
        target = {"target": "tcp:127.0.0.1:1", "grantable_to": [f"server:{DOMAIN}"]}
        share = {"files": {"dir": str(self.homeserver.folder / "nfs"), "direction": "send"}}
        services = {"echo": target, "nfs": share, **({} if "unserved" in self.left_out else {"other": target})}
        return self.homeserver.config(
            peers={"build": {"services": services}},
            grants=grants,
            deny=self.deny,
            admins=[ADMIN],
            policy_lists=[LIST],
        )

    def live(self) -> None:
        for name in NAMES:
            session = self.sessions[name] = FakeSession(user(name))
            key = (session.route, CallId("c"), session.local)
            self.bridge.calls.manager.live.add(key, LiveSession(session, session, lambda: None))  # type: ignore[arg-type]

    def may_call(self, name: str) -> bool:
        return isinstance(self.bridge.access.rights.may_call(user(name), UserId(PEER)), Allow)

    def command(self, *words: str) -> None:
        self.tasks.append(asyncio.create_task(self.bridge.bot.control.handle(ADMIN, words)))

    def reloaded(self) -> None:
        self.config()
        self.reload.set()


def user(name: str) -> UserId:
    return parse_user_id(f"@{name}:{DOMAIN}")


# What hangs


class Hanging:
    """Lets things hang until the test is over."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stack: AsyncExitStack) -> None:
        self.patch = monkeypatch
        self.stack = stack
        self.over = threading.Event()
        stack.callback(self.over.set)

    async def nothing(self, world: World) -> None: ...

    async def database(self, world: World) -> None:
        other = sqlite3.connect(world.homeserver.folder / "bridge.db", isolation_level=None)
        self.stack.callback(other.close)
        other.execute("BEGIN EXCLUSIVE")

    async def disk_of_the_audit(self, world: World) -> None:
        append, begun = AuditFile.append, threading.Event()

        def late(self_: AuditFile, *arguments: Any) -> int:
            begun.set()
            self.over.wait(30)
            return append(self_, *arguments)

        self.patch.setattr(AuditFile, "append", late)
        world.command("pause")
        world.command("resume")
        await until(begun.is_set)

    async def homeserver(self, world: World) -> None:
        world.homeserver.answers.clear()
        self.stack.callback(world.homeserver.answers.set)

    async def disk_of_a_share(self, world: World) -> None:
        make, begun = RootedDirectory.__init__, threading.Event()

        def late(self_: RootedDirectory, path: Path, **options: Any) -> None:
            begun.set()
            self.over.wait(30)
            make(self_, path, **options)

        self.patch.setattr(RootedDirectory, "__init__", late)
        (world.homeserver.folder / "nfs").mkdir()
        world.reloaded()
        await until(begun.is_set)

    async def another_reload(self, world: World) -> None:
        await self.homeserver(world)
        world.crowd = False
        world.reloaded()
        rooms = [RoomId(f"!crowd{number}:{DOMAIN}") for number in range(len(CROWD))]
        await until(lambda: not any(map(world.bridge.access.index.members, rooms)))

    async def threads_of_the_loop(self, world: World) -> None:
        hanging = list[None]()

        def hang() -> None:
            hanging.append(None)
            self.over.wait(30)

        for _ in range(4 * (os.cpu_count() or 1) + 64):
            world.tasks.append(asyncio.create_task(asyncio.to_thread(hang)))
        # As many as there are (concurrent.futures.ThreadPoolExecutor).
        await until(lambda: len(hanging) == min(32, (os.cpu_count() or 1) + 4))


HANGING: list[Callable[[Hanging, World], Awaitable[None]]] = [
    Hanging.nothing,
    Hanging.database,
    Hanging.disk_of_the_audit,
    Hanging.homeserver,
    Hanging.disk_of_a_share,
    Hanging.another_reload,
    Hanging.threads_of_the_loop,
]


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


async def start(folder: Path, stack: AsyncExitStack) -> World:
    homeserver = HangingHomeserver(folder)
    homeserver.answers = asyncio.Event()
    homeserver.answers.set()
    await stack.enter_async_context(homeserver)
    for number, member in enumerate(CROWD):
        homeserver.members[f"!crowd{number}:{DOMAIN}"] = [member, PEER]
    world = World(homeserver, None, asyncio.Event())  # type: ignore[arg-type]
    config = world.config()
    stores = await stack.enter_async_context(open_stores(config.database))
    world.bridge = Bridge(config, stores)
    stop = asyncio.Event()
    running = asyncio.create_task(world.bridge.run(stop, world.reload))

    async def end() -> None:
        stop.set()
        for session in world.sessions.values():  # nobody is there to end them
            world.bridge.calls.manager.live.remove((session.route, CallId("c"), session.local))
        for task in world.tasks:
            task.cancel()
        await asyncio.wait_for(running, 20)

    stack.push_async_callback(end)
    # All rooms are read: what is still written about them would wait for a database that hangs.
    await until(lambda: (world.bridge.inbox.ready and not world.bridge.access.index.unread) or running.done())
    return world


@pytest.mark.parametrize("hangs", some(HANGING, 3), ids=lambda hangs: hangs.__name__)
async def test_right_ends_within_seconds_whatever_hangs(
    tmp_path: Path,
    stack: AsyncExitStack,
    monkeypatch: pytest.MonkeyPatch,
    hangs: Callable[[Hanging, World], Awaitable[None]],
) -> None:
    world = await start(tmp_path, stack)
    control = world.bridge.bot.control
    await control.handle(ADMIN, ("grant", user("numbered"), "build/echo", "for", "2h"))
    await control.handle(ADMIN, ("grant", user("named"), "build/echo", "for", "2h"))
    world.live()
    assert all(world.may_call(name) for name in NAMES)
    await hangs(Hanging(monkeypatch, stack), world)
    assert all(world.may_call(name) for name in NAMES)

    took: dict[str, float] = {}

    async def gone(*names: str) -> None:
        begun = time.monotonic()
        while not all(world.sessions[name].ended and (name == "kicked" or not world.may_call(name)) for name in names):
            assert time.monotonic() - begun < LIMIT_S, f"{names} {[world.may_call(name) for name in names]}"
            await asyncio.sleep(0.01)
        took.update(dict.fromkeys(names, time.monotonic() - begun))

    world.command("kick", user("kicked"))
    await gone("kicked")
    world.command("revoke", "1")
    await gone("numbered")
    world.command("revoke", user("named"))
    await gone("named")
    world.deny.append(user("denied"))
    world.reloaded()
    await gone("denied")
    world.left_out |= {"removed", "unserved"}
    world.config()
    world.command("reload")
    await gone("removed", "unserved")
    world.command("pause")
    await until(lambda: world.bridge.calls.manager.paused)
    rule = {"entity": user("listed"), "recommendation": "m.ban", "reason": "spam"}
    event = {"type": "m.policy.rule.user", "state_key": "r", "event_id": "$rule", "room_id": LIST, "sender": ADMIN}
    stamp = {"origin_server_ts": time.time_ns() // 1_000_000, "content": rule}
    world.tasks.append(asyncio.create_task(world.homeserver.push({**event, **stamp})))
    await gone("listed")
    set_clock(monkeypatch, 2 * HOUR_S)
    await gone("expired")
    assert not any(world.may_call(name) for name in took if name != "kicked")


async def test_clock_that_is_set_back_lengthens_no_right(
    tmp_path: Path, stack: AsyncExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await start(tmp_path, stack)
    for name in ("numbered", "named"):
        await world.bridge.bot.control.handle(ADMIN, ("grant", user(name), "build/echo", "for", "1h"))
    world.live()
    set_clock(monkeypatch, -6 * HOUR_S, passed_s=HOUR_S - 30)
    world.bridge.calls.manager.live.rights_changed()
    assert all(world.may_call(name) for name in NAMES)
    set_clock(monkeypatch, -6 * HOUR_S, passed_s=HOUR_S + 1)
    begun = time.monotonic()
    ending = ("numbered", "named", "expired")
    while any(world.may_call(name) or not world.sessions[name].ended for name in ending):
        assert time.monotonic() - begun < LIMIT_S
        await asyncio.sleep(0.01)
    assert all(world.may_call(name) for name in set(NAMES) - set(ending))


def set_clock(monkeypatch: pytest.MonkeyPatch, by_s: int, *, passed_s: int = 0) -> None:
    """Set the wall clock of the bridge, and let time pass by the clock that nobody sets."""
    second = 1_000_000_000
    fake = SimpleNamespace(
        monotonic=time.monotonic,
        clock_gettime_ns=lambda which: time.clock_gettime_ns(which) + passed_s * second,
        time_ns=lambda: time.time_ns() + by_s * second,
    )
    monkeypatch.setattr(clock_module, "time", fake)
    monkeypatch.setattr(system, "time", fake)
