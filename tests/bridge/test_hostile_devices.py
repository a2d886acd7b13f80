"""Devices of callers, by answers of a homeserver that passes on whatever its users have written, as bytes.

Whatever stands beside it in an answer: a device that is gone ends its session, one that is there lets it live, and what
is no answer does neither, nor lets anybody in.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.bridge.devices.lookups import DeviceLookups, Standing
from mxrtc_bridge.bridge.devices.policy import CHANGED, GONE, DevicePolicy
from mxrtc_bridge.bridge.devices.wakeups import DeviceWakeups
from mxrtc_bridge.core.crypto.records import CallerDevice, Trust
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy, Transport
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.sync import DeviceSync
from mxrtc_bridge.matrix.crypto.values import ToDeviceEvent
from mxrtc_bridge.web.transaction_body import read_transaction
from tests.fakes import DeviceConfig
from tests.hostile_json import FOREIGN, TEXT, to_body
from tests.long import LONG, examples
from tests.matrix.crypto.key_homeserver import PICKLE_KEY, KeyHomeserver
from tests.matrix.crypto.memory import MemoryStore

ALICE, BOB = UserId("@alice:example.org"), UserId("@bob:example.org")
PEER = UserId("@rtc_build:example.org")
EXAMPLES = 300 if LONG else examples(6)
SECTIONS = ("device_keys", "failures", "master_keys", "self_signing_keys", "user_signing_keys")


@dataclass(eq=False)
class Session:
    device: CallerDevice | None
    remote: UserId
    local: UserId = PEER


class World:
    """A homeserver that is asked over HTTP, with the truth of :class:`KeyHomeserver` and what stands beside it."""

    def __init__(self, folder_runner: asyncio.Runner) -> None:
        self.truth = KeyHomeserver()
        self.runner = folder_runner
        self.change: Callable[[dict[str, Any]], object] = lambda answer: answer
        self.sync: list[bytes] = []
        self.sessions: tuple[Session, ...] = ()
        self.ended: dict[UserId, str] = {}

    async def __aenter__(self) -> World:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        self.transport = Transport(url, "token", RequestPolicy(RetryPolicy(0.0)), max_answer_bytes=200_000)
        self.server = KeyServer(self.transport, PEER, masquerade=True)
        self.forget()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.transport.close()
        await self._runner.cleanup()

    def forget(self) -> None:
        """Know nobody any more."""
        self.lists = DeviceLists(self.server, MemoryStore(), wall_ms=lambda: 10**12)
        self.lookups = DeviceLookups({PEER: self.lists}.get, DeviceConfig(Trust.CROSS_SIGNED), sleep=at_once)
        self.policy = DevicePolicy(self.lookups, self)  # type: ignore[arg-type]
        self.sessions, self.ended = (), {}

    async def _answer(self, request: web.Request) -> web.Response:
        body = json.loads(await request.read() or b"{}")
        match request.path.split("/")[-2:]:
            case ["keys", "query"]:
                answer = to_body(self.change(self.truth.truth(list(body["device_keys"]))))
            case [_, "sync"]:
                answer = self.sync.pop(0)
            case _:
                answer = b"{}"
        return web.Response(body=answer, content_type="application/json")

    def end_sessions(self, which: Callable[[Session], bool], message: str) -> int:
        chosen = [session for session in self.sessions if which(session)]
        self.ended |= {session.remote: message for session in chosen}
        self.sessions = tuple(session for session in self.sessions if session not in chosen)
        return len(chosen)

    async def begin(self) -> None:
        """Alice and Bob have called, each by a device that their identity has signed."""
        self.forget()
        self.change = lambda answer: answer
        self.devices = {}
        for user in (ALICE, BOB):
            self.truth.listed.pop(user, None)
            self.truth.make_identity(user)
            self.devices[user] = device = self.truth.log_in(user, "PHONE")
            caller = await self.lookups.judge(PEER, device)
            assert caller.is_good
            self.sessions = (*self.sessions, Session(caller.device, user))

    async def standing(self, user: UserId) -> Standing:
        # What was asked a moment ago would serve.
        lookups = DeviceLookups({PEER: self.lists}.get, DeviceConfig(Trust.CROSS_SIGNED), sleep=at_once)
        return (await lookups.judge(PEER, self.devices[user])).standing


async def at_once(_pause: float) -> None:
    """A pause that takes no time."""


def each_example(one: Callable[[World, Any], Any], strategy: st.SearchStrategy[Any]) -> None:
    """Run a story with each example, in one loop and with one homeserver."""
    with asyncio.Runner() as runner:
        world = World(runner)
        runner.run(world.__aenter__())
        try:

            @settings(max_examples=EXAMPLES, deadline=None, database=None)
            @given(strategy)
            def each(drawn: Any) -> None:
                runner.run(one(world, drawn))

            each()
        finally:
            runner.run(world.__aexit__())


MAPS = st.dictionaries(TEXT | st.just("@carol:example.org"), FOREIGN, max_size=3)
BESIDE = st.fixed_dictionaries(
    {
        "top": st.dictionaries(TEXT.filter(lambda key: key not in SECTIONS), FOREIGN, max_size=2),
        "users": st.fixed_dictionaries(dict.fromkeys(SECTIONS, MAPS)),
        "devices": st.dictionaries(TEXT | st.just("OTHER"), FOREIGN, max_size=3),
        "unsigned": FOREIGN,
        "signatures": st.dictionaries(TEXT, FOREIGN, max_size=2),
        "first": st.booleans(),
    }
)
"""What stands beside the truth: in the answer, at other users, other devices, and around the signed parts of a key."""


def dressed(beside: dict[str, Any]) -> Callable[[dict[str, Any]], object]:
    """The truth, with all of that in front of it or behind it."""

    def with_(truth: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        rest = {key: value for key, value in more.items() if key not in truth}
        return {**rest, **truth} if beside["first"] else {**truth, **rest}

    def change(truth: dict[str, Any]) -> object:
        for devices in truth["device_keys"].values():
            for name, keys in devices.items():
                signatures = with_(keys["signatures"], beside["signatures"])
                devices[name] = keys | {"unsigned": beside["unsigned"], "signatures": signatures}
        for section in ("master_keys", "self_signing_keys"):
            for user, key in truth[section].items():
                signatures = with_(key.get("signatures", {}), beside["signatures"])
                truth[section][user] = key | {"unsigned": beside["unsigned"], "signatures": signatures}
        truth["device_keys"] = {
            user: with_(devices, beside["devices"]) for user, devices in truth["device_keys"].items()
        }
        return with_({name: with_(truth.get(name, {}), beside["users"][name]) for name in SECTIONS}, beside["top"])

    return change


def test_device_that_is_gone_ends_its_session_and_no_other_whatever_else_is_in_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def one(world: World, beside: dict[str, Any]) -> None:
        await world.begin()
        world.change = dressed(beside)
        await world.policy.judge_again()
        assert world.ended == {}
        assert [await world.standing(user) for user in (ALICE, BOB)] == [Standing.GOOD] * 2
        world.truth.log_out(ALICE, "PHONE")
        await world.policy.judge_again()
        assert world.ended == {ALICE: GONE}
        assert [await world.standing(user) for user in (ALICE, BOB)] == [Standing.UNLISTED, Standing.GOOD]
        world.truth.make_identity(BOB, "second")
        await world.policy.judge_again()
        assert world.ended == {ALICE: GONE, BOB: CHANGED}

    each_example(one, BESIDE)


NO_OBJECT = FOREIGN.filter(lambda value: not isinstance(value, dict) and value != "@wide")
NO_ANSWER = st.one_of(
    NO_OBJECT,
    st.builds(
        lambda junk: {"device_keys": junk, "master_keys": junk, "failures": {}},
        NO_OBJECT,
    ),
    st.builds(
        lambda junk: {"device_keys": {ALICE: junk, BOB: junk}, "failures": {}},
        NO_OBJECT,
    ),
    st.builds(lambda more: {**more, "device_keys": {}, "failures": {**more, "example.org": more}}, MAPS),
)


def test_what_is_no_answer_ends_nothing_and_lets_nobody_in(monkeypatch: pytest.MonkeyPatch) -> None:
    async def one(world: World, junk: object) -> None:
        await world.begin()
        world.change = lambda _truth: junk
        world.truth.log_out(ALICE)
        await world.policy.judge_again()
        assert world.ended == {}
        world.lists = DeviceLists(world.server, MemoryStore(), wall_ms=lambda: 10**12)
        assert await world.standing(BOB) is Standing.UNKNOWN

    each_example(one, NO_ANSWER)


@pytest.mark.parametrize("user", [BOB, UserId("@carol:far.test")])
async def test_keys_that_make_an_answer_too_long_hide_nobody_elses_device(user: UserId) -> None:
    """They are in the answer about all callers of a server; their own user cannot be found out any more, and ends."""
    with_size = {"x": "y" * 200_000}
    world = World(asyncio.Runner())
    async with world:
        await world.begin()
        sessions = {session.remote: session for session in world.sessions}
        if user not in sessions:
            world.truth.make_identity(user)
            device = world.truth.log_in(user, "PHONE")
            caller = (await world.lookups.judge(PEER, device)).device
            world.sessions = (*world.sessions, Session(caller, user))
        world.truth.listed[user][DeviceId("LARGE")] = with_size
        world.truth.log_out(ALICE, "PHONE")
        await world.policy.judge_again()
        assert world.ended == {ALICE: GONE, user: GONE}
        # One who calls with such keys takes nobody else's call away.
        lookups = DeviceLookups({PEER: world.lists}.get, DeviceConfig(Trust.CROSS_SIGNED))
        await lookups.judge(PEER, world.truth.log_in(user, "PHONE"))
        new = world.truth.log_in(ALICE, "TABLET")
        assert (await lookups.judge(PEER, new)).is_good


# What announces that devices have changed


def test_changes_that_a_transaction_announces_are_noted_whatever_else_is_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def one(world: World, drawn: tuple[list[object], list[object], dict[str, Any], dict[str, Any]]) -> None:
        before, after, inside, beside = drawn
        await world.begin()
        woken: list[int] = []
        sync = type("Sync", (), {"wake": lambda _self: woken.append(1)})()
        device = type("Device", (), {"user": PEER, "lists": world.lists})()
        wakeups = DeviceWakeups(lambda: [(device, sync)])
        wakeups.in_use = True
        lists = {**inside, "changed": [*before, ALICE, *after]}
        message = {**beside, "to_user_id": PEER}
        body = {**beside, "to_device": [*before, message, *after], "events": before, "device_lists": lists}
        wakeups.hear(read_transaction(to_body(body)).news)
        noting = asyncio.create_task(wakeups._note_changes())
        began = asyncio.get_running_loop().time() - 1
        while not world.lists.changed_since(ALICE, began):
            await asyncio.sleep(0)
        noting.cancel()
        assert woken

    mixed = st.lists(FOREIGN, max_size=3)
    names = ("events", "to_device", "device_lists", "to_user_id", "changed")
    odd = st.dictionaries(TEXT.filter(lambda key: key not in names), FOREIGN, max_size=3)
    each_example(one, st.tuples(mixed, mixed, odd, odd))


def test_changes_and_messages_of_a_sync_answer_are_taken_whatever_else_is_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def one(world: World, drawn: tuple[list[object], list[object], dict[str, Any], object]) -> None:
        before, after, beside, content = drawn
        await world.begin()
        world.truth.listed.pop(PEER, None)
        received: list[ToDeviceEvent] = []

        async def handle(_device: CryptoDevice, event: ToDeviceEvent) -> None:
            received.append(event)

        device = CryptoDevice(
            world.server,
            MemoryStore(),
            user=PEER,
            pickle_key=PICKLE_KEY,
            display_name="x",
            wall_ms=lambda: 10**12,
        )
        await device.start()
        began = asyncio.get_running_loop().time() - 1
        message = {**beside, "type": "m.dummy", "sender": ALICE, "content": {"x": content}}
        answer = {
            **beside,
            "next_batch": "s1",
            "device_lists": {**beside, "changed": [*before, ALICE, *after], "left": [*after, BOB, *before]},
            "to_device": {**beside, "events": [*before, message, *after]},
        }
        world.sync = [to_body(answer)]
        await DeviceSync(world.server, device, handle).once(0)
        assert (device.sync_token, [event.sender for event in received]) == ("s1", [ALICE])
        assert all(device.lists.changed_since(user, began) for user in (ALICE, BOB))

    mixed = st.lists(FOREIGN, max_size=3)
    names = ("next_batch", "device_lists", "to_device", "changed", "left", "events", "type", "sender", "content")
    odd = st.dictionaries(TEXT.filter(lambda key: key not in names), FOREIGN, max_size=3)
    each_example(one, st.tuples(mixed, mixed, odd, FOREIGN))
