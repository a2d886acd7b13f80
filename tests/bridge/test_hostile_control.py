"""Commands at the control socket of a whole bridge, with anything in every field: refused with a sentence, or done.

What is refused gives nothing and takes nothing; what takes something away does so whatever unknown fields stand beside
it; and the next good request works.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from aiohttp import ClientSession, UnixConnector
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mxrtc_bridge.bridge.bridge import Bridge
from mxrtc_bridge.core.access.requests import AccessRequest
from mxrtc_bridge.core.ids import RoomId, ServiceName, UserId
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists
from mxrtc_bridge.storage.tables import Stores
from mxrtc_bridge.web.control import ask
from tests.bridge.homeserver import ALICE, DOMAIN, PEER, ROOM, FakeHomeserver
from tests.bridge.test_bridge import running
from tests.hostile_json import FOREIGN, TEXT, to_body
from tests.long import LONG, examples
from tests.matrix.crypto.key_homeserver import KeyHomeserver
from tests.matrix.crypto.memory import MemoryStore

EXAMPLES = 1000 if LONG else examples(25)
EVE = f"@eve:{DOMAIN}"
PEERS = {"build": {"services": {"echo": {"target": "tcp:127.0.0.1:1", "grantable_to": ["*"]}}}}
VERBS = ("trust", "verify", "revoke", "deny", "kick", "pause", "resume", "reload", "grant", "allow")
NEAR = st.sampled_from([EVE, ALICE, "build/echo", "for", "1h", "because", "same", "different", "once", "page"]) | (
    st.sampled_from(["1", "01", "\u0661", "+1", "-1", " 1", "1.0", "9" * 79, "*", "server:x", f"room:{ROOM}", "\0", ""])
    | st.sampled_from(["@\ud800:x", f"{EVE}\n", f" {EVE}", "@eve", "@:x"])
)
"""Words that come near a command."""


class World:
    """The bridge, its socket, and what may not change unasked."""

    def __init__(self, bridge: Bridge, stores: Stores, socket: ClientSession) -> None:
        self.bridge, self.stores, self._socket = bridge, stores, socket
        self.path = str(bridge.basis.config.in_force.control_socket)
        self.keys = KeyHomeserver()
        self.pinned = self.keys.make_identity(UserId(ALICE))
        self.lists = DeviceLists(self.keys, MemoryStore(), wall_ms=lambda: 10**12)  # type: ignore[arg-type]
        self.compared: list[bool] = []

    async def begin(self) -> None:
        """Let there be a device of ours that knows Alice by another identity, and one who waits to be compared."""
        await self.lists.of([UserId(ALICE)])
        self.shown = self.keys.make_identity(UserId(ALICE), "second")

        async def devices_of(user: UserId, *, fresh: bool) -> Any:
            return (await self.lists.of([user], fresh=fresh))[user]

        async def compared(_exchange: object, *, same: bool) -> None:
            self.compared.append(same)

        async def encryption_of(*_: object, **__: object) -> None: ...

        device = SimpleNamespace(devices_of=devices_of, lists=self.lists)
        end = SimpleNamespace(up=True, rooms=SimpleNamespace(device=device, encryption_of=encryption_of), task=None)
        self.bridge.devices.encryption._ends = {UserId(PEER): end}  # type: ignore[dict-item]
        code = SimpleNamespace(names=(), symbols=(), decimals=())
        exchange = SimpleNamespace(
            user=UserId(ALICE), device="D", code=code, waits_for_us=True, vouched=None, ended=None
        )
        waiting = SimpleNamespace(
            number=1, local=UserId(PEER), exchange=exchange, of=SimpleNamespace(compared=compared)
        )
        self.bridge.devices.verifications._waiting = {1: waiting}  # type: ignore[dict-item]

    async def post(self, body: bytes) -> tuple[int, dict[str, Any]]:
        async with self._socket.post("http://bridge/v1/command", data=body) as response:
            return response.status, json.loads(await response.read())

    async def state(self) -> tuple[object, ...]:
        """What a command could give or take."""
        (alice,) = (await self.lists.of([UserId(ALICE)])).values()
        waiting = await self.stores.requests.open_requests()
        return (
            tuple(self.bridge.access.given.table),
            self.bridge.calls.manager.paused,
            waiting,
            alice.pinned,
            len(self.compared),
        )

    async def let_wait(self) -> int:
        """A request that waits for an answer."""
        # As late as the clock says, or it would have expired.
        now_ms = time.time_ns() // 1_000_000
        (service,) = (ServiceName("echo"),)
        wanted = AccessRequest(0, UserId(EVE), UserId(PEER), service, 60, "", RoomId(ROOM), now_ms)
        number = await self.stores.requests.add(wanted)
        assert number is not None
        return number


@asynccontextmanager
async def world_in(folder: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(FakeHomeserver(folder))
        server.members = {ROOM: [ALICE, PEER]}
        bridge, stores, _ = await stack.enter_async_context(running(server, peers=PEERS))
        connector = UnixConnector(str(bridge.basis.config.in_force.control_socket))
        world = World(bridge, stores, await stack.enter_async_context(ClientSession(connector=connector)))
        await world.begin()
        yield world
        bridge.devices.encryption._ends = {}
        bridge.devices.verifications._waiting = {}


def each_example(folder: Path, one: Any, strategy: st.SearchStrategy[Any], examples: int = EXAMPLES) -> None:
    """Run a story with each example at one bridge."""
    with asyncio.Runner() as runner:
        manager = world_in(folder)
        world = runner.run(manager.__aenter__())
        try:

            @settings(max_examples=examples, deadline=None, database=None, phases=[Phase.generate])
            @given(strategy)
            def each(drawn: Any) -> None:
                runner.run(one(world, drawn))

            each()
        finally:
            runner.run(manager.__aexit__(None, None, None))


BESIDE = st.dictionaries(TEXT.filter(lambda key: key != "words"), FOREIGN, max_size=3)
WORDS = st.one_of(
    FOREIGN,
    st.builds(
        lambda verb, rest: [verb, *rest], st.sampled_from(VERBS), st.lists(NEAR | TEXT, max_size=6) | st.lists(FOREIGN)
    ),
)


def test_what_is_no_command_is_refused_with_a_sentence_and_changes_nothing(tmp_path: Path) -> None:
    async def one(world: World, drawn: tuple[object, dict[str, Any]]) -> None:
        words, beside = drawn
        before = await world.state()
        status, answer = await world.post(to_body({**beside, "words": words}))
        assert status in (200, 400, 409, 413, 503), answer
        if status != 200:
            assert isinstance(answer["error"], str)
            assert answer["error"]
            assert await world.state() == before
        elif await world.state() != before:
            # By chance it was one; then in exactly its form.
            assert isinstance(words, list)
            assert all(isinstance(word, str) for word in words)
            assert words[0] in ("pause", "resume", "grant", "verify", "trust", "revoke")
            assert words[0] != "verify" or words[1:] in (["1", "same"], ["1", "different"])
            assert words[0] != "trust" or words[1:] in ([ALICE], [ALICE, world.shown])
        assert (await ask(world.path, ("who",)))[0] == 200

    each_example(tmp_path, one, st.tuples(WORDS, BESIDE))


def test_command_does_what_it_says_whatever_stands_beside_its_words(tmp_path: Path) -> None:
    """Those that take something away, and, in their one form, those that give."""

    async def one(world: World, drawn: tuple[dict[str, Any], dict[str, Any]]) -> None:
        before, behind = drawn
        table, calls = world.bridge.access.given.table, world.bridge.calls.manager

        async def say(*words: str) -> dict[str, Any]:
            status, answer = await world.post(to_body({**before, "words": words, **behind}))
            assert status == 200, answer
            return answer

        for taking in (("revoke", EVE), ("revoke", f"@eve:{DOMAIN}", "build/echo"), ("revoke",)):
            given = (await say("grant", EVE, "build/echo", "for", "1h"))["said"].split(":")[0].split()[1]
            assert [str(grant.number) for grant in table] == [given]
            await say(*taking, *([] if len(taking) > 1 else [given]))
            assert list(table) == []
        await say("pause")
        assert calls.paused
        await say("resume")
        assert not calls.paused
        ended: list[str] = []
        calls.live.end_sessions = lambda _which, message: ended.append(message) or 1  # type: ignore[assignment,method-assign,func-returns-value]
        await say("kick", EVE)
        await say("kick", "7", "because", "x")
        assert len(ended) == 2
        number = await world.let_wait()
        await say("deny", str(number))
        assert await world.stores.requests.open_requests() == []
        assert "in force" in (await say("reload"))["said"]
        count = len(world.compared)
        await say("verify", "1", "different")
        assert world.compared[count:] == [False]
        await say("trust", ALICE, world.shown)
        assert (await world.lists.of([UserId(ALICE)]))[UserId(ALICE)].pinned == world.shown

    each_example(tmp_path, one, st.tuples(BESIDE, BESIDE), 100 if LONG else 4)


def test_identity_that_is_not_the_one_that_is_shown_is_never_accepted(tmp_path: Path) -> None:
    async def one(world: World, key: str) -> None:
        if key.rstrip("=") == world.shown:
            return
        assert (await ask(world.path, ("trust", ALICE, key)))[0] == 409
        assert (await world.state())[3] == world.pinned

    near = st.builds(lambda at, by: "A" * at + by, st.integers(0, 43), TEXT)
    each_example(tmp_path, one, near | TEXT)
