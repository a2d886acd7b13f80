"""The running bridge as a whole: its order of start, its end in every phase, and what it outlives."""

from __future__ import annotations

import ast
import asyncio
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from mxrtc_bridge.bridge.bridge import Bridge
from mxrtc_bridge.bridge.build import Pace
from mxrtc_bridge.bridge.devices.devices import Encryption
from mxrtc_bridge.bridge.event_router import EventRouter
from mxrtc_bridge.bridge.file_services import FileServices
from mxrtc_bridge.bridge.reload import Reload
from mxrtc_bridge.core.access.policy import Allow, Deny
from mxrtc_bridge.core.errors import HomeserverError, LocalError, StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.core.inbox import WaitingCount
from mxrtc_bridge.matrix.api.homeserver import QuietHomeserver
from mxrtc_bridge.matrix.crypto.encrypted_rooms import SealingHomeserver
from mxrtc_bridge.matrix.inbox.incoming import read_arrival
from mxrtc_bridge.storage.events import InboxStore
from mxrtc_bridge.storage.tables import Stores, open_stores
from mxrtc_bridge.web.control import ask
from tests.bridge.homeserver import ALICE, PEER, ROOM, FakeHomeserver
from tests.test_architecture import PACKAGE, ROOT
from tests.waiting import until

UNUSABLE = "v=0\r\n"


USUAL = Pace()


@asynccontextmanager
async def running(
    homeserver: FakeHomeserver, pace: Pace = USUAL, rooms_read: bool = True, **changes: Any
) -> AsyncIterator[tuple[Bridge, Stores, asyncio.Event]]:
    """A bridge that is ready; it is stopped at the end, within the time that a service manager is patient."""
    config = homeserver.config(**changes)
    stop, reload = asyncio.Event(), asyncio.Event()
    async with open_stores(config.database) as stores:
        bridge = Bridge(config, stores, pace=pace)
        task = asyncio.create_task(bridge.run(stop, reload))
        try:
            unread = bridge.access.index.unread if rooms_read else {}
            await until(lambda: (bridge.inbox.ready and not unread) or task.done())
            yield bridge, stores, reload
        finally:
            stop.set()
            await asyncio.wait_for(task, 10)


def invite(number: int, **changes: Any) -> dict[str, Any]:
    """An invite that is rejected because of its description, so that no peer connection is needed."""
    content = {"call_id": f"c{number}", "party_id": "p", "version": "1", "lifetime": 60000}
    return {
        "event_id": f"$invite{number}",
        "room_id": ROOM,
        "type": "m.call.invite",
        "sender": ALICE,
        "origin_server_ts": time.time_ns() // 1_000_000,
        "content": {**content, "offer": {"type": "offer", "sdp": UNUSABLE}},
        **changes,
    }


async def test_events_of_an_earlier_run_are_handled_when_the_rooms_are_known(homeserver: FakeHomeserver) -> None:
    """They were accepted with a 200, so nobody sends them again."""
    homeserver.members[ROOM] = [ALICE, PEER]
    async with open_stores(homeserver.config().database) as stores:
        arrival = read_arrival(invite(1), None)
        assert arrival is not None
        await stores.inbox.store([arrival], 0)
    homeserver.away = True
    task = asyncio.create_task(_come_back(homeserver))
    async with running(homeserver):
        await until(lambda: homeserver.sent)
        assert [kind for kind, _ in homeserver.sent] == ["m.call.reject"]
    await task


async def _come_back(homeserver: FakeHomeserver) -> None:
    await until(lambda: len(homeserver.asked) > 1)
    homeserver.away = False


async def test_a_request_that_a_proxy_leads_to_the_wrong_server_takes_nobody_out_of_a_room(
    homeserver: FakeHomeserver,
) -> None:
    """It says that it does not know the request, and not that there is no such room."""
    team, bot, bob = "!team:example.org", "@rtcbot:example.org", UserId("@bob:example.org")
    homeserver.members.update({ROOM: [ALICE, PEER], team: [bot, bob]})
    grants = [
        {"id": "alice", "from": [ALICE], "to": ["build/echo"]},
        {"id": "team", "from": [f"room:{team}"], "to": ["build/echo"]},
    ]
    async with running(homeserver, grants=grants) as (bridge, _, _):

        def may_call() -> bool:
            return isinstance(bridge.access.rights.may_call(bob, UserId(PEER)), Allow)

        await until(may_call)
        homeserver.misled.add("joined_members")
        homeserver.asked.clear()
        for number, room in enumerate((ROOM, team)):
            member = {"room_id": room, "type": "m.room.member", "state_key": f"@guest{number}:example.org"}
            # Whom an invitation is for says nothing; that there is one is a reason to ask who is there.
            await homeserver.push(invite(10 + number, **member, content={"membership": "invite"}))
        asked = [f"v3/rooms/{room}/joined_members" for room in (ROOM, team)]
        await until(lambda: set(asked) <= set(homeserver.asked))
        homeserver.misled.clear()
        homeserver.asked.clear()
        await until(lambda: set(asked) <= set(homeserver.asked))
        assert may_call()
        await homeserver.push(invite(1))
        await until(lambda: homeserver.sent)
        assert ([kind for kind, _ in homeserver.sent], homeserver.left) == (["m.call.reject"], [])


async def test_transaction_before_the_start_has_ended_comes_again(homeserver: FakeHomeserver) -> None:
    homeserver.away = True
    config, stop = homeserver.config(), asyncio.Event()
    async with open_stores(config.database) as stores:
        task = asyncio.create_task(Bridge(config, stores).run(stop, asyncio.Event()))
        await until(lambda: homeserver.asked)
        assert await homeserver.push(invite(1)) == 503
        stop.set()
        await asyncio.wait_for(task, 10)


@pytest.mark.parametrize("status", [200, 403, 404])
async def test_pages_of_a_proxy_are_waited_out_in_each_step_of_the_start_and_keep_us_in_no_room_and_out_of_none(
    homeserver: FakeHomeserver, status: int
) -> None:
    """Also 403 and 404, which of a homeserver mean that there is no such room, or that we may not look at it."""
    homeserver.members[ROOM] = [ALICE, PEER]
    homeserver.pages = dict.fromkeys(("versions", "register", "joined_rooms", "joined_members"), status)
    async with running(homeserver) as (bridge, _, _):
        assert bridge.inbox.ready
        assert ([room.room_id for room in bridge.access.index], homeserver.left) == ([ROOM], [])
        assert homeserver.pages == {}


@pytest.mark.parametrize("phase", ["at once", "homeserver away"])
async def test_stop_is_heard_before_the_bridge_is_ready(homeserver: FakeHomeserver, phase: str) -> None:
    homeserver.away = True
    config, stop = homeserver.config(), asyncio.Event()
    async with open_stores(config.database) as stores:
        task = asyncio.create_task(Bridge(config, stores).run(stop, asyncio.Event()))
        if phase == "homeserver away":
            await until(lambda: len(homeserver.asked) > 0)
        stop.set()
        await asyncio.wait_for(task, 5)


async def test_refused_token_ends_the_bridge_with_the_one_sentence(homeserver: FakeHomeserver) -> None:
    """Not with a group of exceptions, which would reach the admin as a traceback."""
    homeserver.as_token = "another"
    config = homeserver.config()
    async with open_stores(config.database) as stores:
        with pytest.raises(HomeserverError, match="app_service_config_files"):
            await asyncio.wait_for(Bridge(config, stores).run(asyncio.Event(), asyncio.Event()), 10)


async def test_address_in_use_ends_the_bridge_before_it_touches_anything(homeserver: FakeHomeserver) -> None:
    async with running(homeserver) as (_, stores, _reload):
        asked = len(homeserver.asked)
        second = Bridge(homeserver.config(), stores)
        with pytest.raises(LocalError, match="cannot listen on"):
            await second.run(asyncio.Event(), asyncio.Event())
        assert [each for each in homeserver.asked[asked:] if "ping" not in each] == []


async def test_calls_are_taken_before_all_directories_are_open(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drop box with a hundred thousand files is counted for seconds."""
    reached = asyncio.Event()

    async def count(_self: FileServices, _targets: object) -> None:
        if not reached.is_set():
            reached.set()
            await asyncio.Event().wait()

    monkeypatch.setattr(FileServices, "serve", count)
    homeserver.members[ROOM] = [ALICE, PEER]
    async with running(homeserver):
        await asyncio.wait_for(reached.wait(), 10)
        assert await homeserver.push(invite(1)) == 200
        await until(lambda: homeserver.sent)


async def test_calls_are_taken_before_the_devices_of_all_peers_are_up(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached = asyncio.Event()

    async def hang(_self: Encryption) -> None:
        reached.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Encryption, "bring_up", hang)
    homeserver.members[ROOM] = [ALICE, PEER]
    async with running(homeserver, encryption={"enabled": "on"}):
        await asyncio.wait_for(reached.wait(), 10)
        assert await homeserver.push(invite(1)) == 200
        await until(lambda: homeserver.sent)
        assert [kind for kind, _ in homeserver.sent] == ["m.call.reject"]


async def test_calls_are_taken_before_all_rooms_are_read_and_nothing_is_said_in_one_that_is_not(
    homeserver: FakeHomeserver,
) -> None:
    """It may be encrypted, or somebody else may be in it."""
    other = "!other:example.org"
    homeserver.members |= {ROOM: [ALICE, PEER], other: [ALICE, PEER]}
    homeserver.silent.add(other)
    async with running(homeserver, rooms_read=False) as (bridge, _stores, _reload):
        assert await homeserver.push(invite(1)) == 200
        await until(lambda: homeserver.sent)
        assert list(bridge.access.index.unread) == [other]
        with pytest.raises(HomeserverError, match="before it is known who is in it"):
            await bridge.devices.outbox.send_notice(RoomId(other), UserId(PEER), "hello", key="1")
        assert [kind for kind, _ in homeserver.sent] == ["m.call.reject"]


async def test_housekeeping_that_fails_is_said_and_done_again(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([StorageError("the database is locked"), HomeserverError("away"), KeyError("a defect")])
    done: list[int] = []

    async def leave_idle(*_: object, **__: object) -> int:
        if (failure := next(failures, None)) is not None:
            raise failure
        done.append(1)
        return 0

    homeserver.members[ROOM] = [ALICE, PEER]
    async with running(homeserver, Pace(housekeeping_s=0.01)) as (bridge, _stores, _reload):
        monkeypatch.setattr(bridge.calls.peers, "leave_idle", leave_idle)
        await until(lambda: done)
        assert await homeserver.push(invite(1)) == 200
        await until(lambda: homeserver.sent)
    assert caplog.text.count("idle rooms were not left") == 3
    assert [record.exc_info is not None for record in caplog.records if "were not left" in record.message] == [
        False, False, True,
    ]  # fmt: skip


async def test_broken_configuration_leaves_the_old_one_in_force(
    homeserver: FakeHomeserver, caplog: pytest.LogCaptureFixture
) -> None:
    homeserver.members[ROOM] = [ALICE, PEER]
    async with running(homeserver) as (bridge, _stores, reload):
        path = homeserver.folder / "config.yaml"
        for broken in ("peers: [", "version: 1\nsurprise: 2\n", "\x00"):
            caplog.clear()
            path.write_text(broken)
            reload.set()
            await until(lambda: "the old one stays in force" in caplog.text)
        path.unlink()
        caplog.clear()
        reload.set()
        await until(lambda: "the old one stays in force" in caplog.text)
        assert bridge.access.index.members(ROOM) == {ALICE, PEER}
        assert await homeserver.push(invite(1)) == 200
        await until(lambda: homeserver.sent)
    assert not [record for record in caplog.records if record.exc_info]


async def test_reload_leaves_the_rooms_of_a_denied_user_and_takes_over_limits(homeserver: FakeHomeserver) -> None:
    homeserver.members[ROOM] = [ALICE, PEER]
    async with running(homeserver) as (bridge, _stores, reload):
        homeserver.config(limits={"calls_per_user": 1}, deny=[ALICE])
        reload.set()
        await until(lambda: homeserver.left)
        assert homeserver.left == [ROOM]
        assert bridge.calls.manager.settings.limits.per_user == 1
        # What she does there now reaches nobody.
        assert await homeserver.push(invite(1)) == 200
        await bridge.inbox.idle()
        assert homeserver.sent == []


async def test_new_peer_does_not_wait_until_rooms_without_a_right_are_left_and_the_answer_says_that_they_are_not(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert Reload.__init__.__kwdefaults__ is not None
    monkeypatch.setitem(Reload.__init__.__kwdefaults__, "rest_s", 0.5)
    homeserver.members[ROOM] = [ALICE, PEER]
    async with running(homeserver) as (bridge, _stores, _reload):
        leaving = asyncio.Event()

        async def hang(*_: object) -> None:
            leaving.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(bridge.basis.homeserver, "leave", hang)
        services = {"echo": {"target": "tcp:127.0.0.1:1"}}
        config = homeserver.config(peers={name: {"services": services} for name in ("build", "new")}, grants=[])
        homeserver.asked.clear()
        _, answer = await ask(str(config.control_socket), ("reload",))
        assert leaving.is_set()
        assert "Still under way: rooms that must be left." in str(answer)
        assert any("rtc_new" in each for each in homeserver.asked)
        assert bridge.access.index.get(ROOM) is None  # type: ignore[arg-type]


async def test_what_is_asked_for_at_the_start_counts_before_the_first_call_and_no_command_does(
    homeserver: FakeHomeserver,
) -> None:
    homeserver.members[ROOM] = [ALICE, PEER]
    homeserver.away = True
    config = homeserver.config()
    stop, reload = asyncio.Event(), asyncio.Event()
    async with open_stores(config.database) as stores:
        bridge = Bridge(config, stores)
        task = asyncio.create_task(bridge.run(stop, reload))
        await until(lambda: homeserver.asked)
        for words in (("reload",), ("grant", ALICE, "build/echo", "for", "1h"), ("who",)):
            status, answer = await ask(str(config.control_socket), words)
            assert (status, answer.get("starting")) == (503, True)
        homeserver.config(deny=[ALICE])
        reload.set()
        homeserver.away = False
        seen: list[object] = []
        set_ready = bridge.inbox.set_ready

        def watch(ready: bool) -> None:
            seen.append(bridge.access.rights.may_call(UserId(ALICE), UserId(PEER)))
            set_ready(ready)

        bridge.inbox.set_ready = watch  # type: ignore[method-assign]
        await until(lambda: bridge.inbox.ready)
        assert [type(each) for each in seen] == [Deny]
        assert (await ask(str(config.control_socket), ("who",)))[0] == 200
        stop.set()
        await asyncio.wait_for(task, 10)


async def test_it_is_ready_once_transactions_are_taken_and_only_then_asks_for_them(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A homeserver that is pinged sends at once what waits, and waits longer after each refusal."""
    counted, count = asyncio.Event(), InboxStore.count_waiting
    asked = asyncio.Event()

    async def slow(store: InboxStore) -> list[WaitingCount]:
        asked.set()
        await counted.wait()
        return await count(store)

    monkeypatch.setattr(InboxStore, "count_waiting", slow)
    config = homeserver.config()
    stop = asyncio.Event()
    async with open_stores(config.database) as stores:
        task = asyncio.create_task(Bridge(config, stores).run(stop, asyncio.Event()))
        await asked.wait()
        status, answer = await ask(str(config.control_socket), ("who",))
        assert (status, answer.get("starting")) == (503, True)
        assert not [each for each in homeserver.asked if each.endswith("/ping")]
        counted.set()
        await until(lambda: any(each.endswith("/ping") for each in homeserver.asked))
        assert await homeserver.push(invite(1)) == 200
        stop.set()
        await asyncio.wait_for(task, 10)


async def test_a_homeserver_whose_transaction_was_not_taken_is_pinged_soon(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By itself it would come again after as long as the trouble has lasted; it is pinged once a minute else."""

    async def refuse(*_: object) -> None:
        raise StorageError("the database is locked")

    def pings() -> int:
        return sum(each.endswith("/ping") for each in homeserver.asked)

    async with running(homeserver, Pace(ping_retry_s=0.05)):
        await until(lambda: pings() == 1)
        monkeypatch.setattr(InboxStore, "store", refuse)
        for again in (2, 3):
            assert await homeserver.push(invite(again)) == 503
            await until(lambda again=again: pings() == again)


async def test_directories_are_open_while_the_configuration_names_them(homeserver: FakeHomeserver) -> None:
    def peers(**limits: str) -> dict[str, Any]:
        files = {"dir": str(homeserver.folder / "inbox"), "direction": "receive", "limits": limits}
        echo = {"target": "tcp:127.0.0.1:1"}
        return {"build": {"services": {"echo": echo, "inbox": {"files": files}}}}

    async with running(homeserver, peers=peers()) as (bridge, _stores, reload):
        config = bridge.basis.config.in_force
        (first,) = config.files_targets()
        box = bridge.calls.files.box(first)
        (second,) = homeserver.config(peers=peers(per_user="1GiB")).files_targets()
        reload.set()
        await until(lambda: second in bridge.calls.files.open_targets)
        assert bridge.calls.files.open_targets == {second}
        assert bridge.calls.files.box(second) is not box
        homeserver.config()
        reload.set()
        await until(lambda: not bridge.calls.files.open_targets)
    assert (homeserver.folder / "inbox" / ".mxrtc" / "ledger.jsonl").exists()


async def test_reload_that_the_homeserver_spoils_does_not_end_the_bridge(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: object) -> None:
        raise StorageError("the database is locked")

    async with running(homeserver) as (bridge, _stores, reload):
        monkeypatch.setattr(bridge.calls.peers, "reload", refuse)
        reload.set()
        await until(lambda: "but not all of the rest: rooms of peers" in caplog.text)
        assert await homeserver.push() == 200


async def test_bridge_that_has_read_nothing_lets_nobody_in(homeserver: FakeHomeserver) -> None:
    config = homeserver.config()
    async with open_stores(config.database) as stores:
        bridge = Bridge(config, stores)
        assert isinstance(bridge.access.rights.may_call(UserId(ALICE), UserId(PEER)), Deny)
        await bridge.basis.homeserver.close()
    async with running(homeserver) as (bridge, _stores, _reload):
        assert isinstance(bridge.access.rights.may_call(UserId(ALICE), UserId(PEER)), Allow)


async def test_what_can_send_into_a_room_encrypts(homeserver: FakeHomeserver) -> None:
    """All else has a homeserver that cannot say anything, so that no part of the bridge goes past encryption."""
    async with running(homeserver) as (bridge, _stores, _reload):
        assert isinstance(bridge.devices.homeserver, SealingHomeserver)
        assert type(bridge.basis.homeserver) is QuietHomeserver
        assert [name for name in dir(QuietHomeserver) if "send" in name] == []


async def test_expired_right_is_rejected_and_explained_once_a_day(homeserver: FakeHomeserver) -> None:
    """The room is still there: a grant that ends by itself is no reload."""
    homeserver.members[ROOM] = [ALICE, PEER]
    async with running(homeserver) as (bridge, _stores, _reload):
        bridge.basis.config.put_in_force(homeserver.config(deny=[ALICE]))
        for number in (1, 2, 3):
            assert await homeserver.push(invite(number)) == 200
            await until(lambda wanted=number: _count(homeserver, "m.call.reject") == wanted)
        assert _count(homeserver, "m.room.message") == 1
        (notice,) = (content for kind, content in homeserver.sent if kind == "m.room.message")
        assert notice["msgtype"] == "m.notice"
        for secret in ("echo", "build", "127.0.0.1"):
            assert secret not in notice["body"]
        assert all("reason" not in content for kind, content in homeserver.sent if kind == "m.call.reject")


def _count(homeserver: FakeHomeserver, kind: str) -> int:
    return sum(each == kind for each, _ in homeserver.sent)


async def test_third_member_makes_calls_rejected(homeserver: FakeHomeserver) -> None:
    homeserver.members[ROOM] = [ALICE, PEER]
    async with running(homeserver):
        joined = {"type": "m.room.member", "state_key": "@eve:example.org", "sender": "@eve:example.org"}
        homeserver.members[ROOM].append("@eve:example.org")
        assert await homeserver.push(invite(0, **joined, content={"membership": "join"}), invite(1)) == 200
        await until(lambda: _count(homeserver, "m.call.reject"))
        (reject,) = (content for kind, content in homeserver.sent if kind == "m.call.reject")
        assert reject["reason"] == "not_a_direct_room"


async def test_event_that_waits_for_the_homeserver_does_not_hold_up_the_end(
    homeserver: FakeHomeserver, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered = asyncio.Event()

    async def hang(*_: object) -> None:
        entered.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(EventRouter, "receive_room_event", hang)
    async with running(homeserver) as (_bridge, stores, _reload):
        assert await homeserver.push(invite(1)) == 200
        await entered.wait()
        began = time.monotonic()
    assert time.monotonic() - began < 5
    async with open_stores(homeserver.config().database) as stores:
        assert sum(each.count for each in await stores.inbox.count_waiting()) == 1, "it is handled after the next start"


def test_each_long_task_stands_in_the_table_of_what_waits_for_what() -> None:
    """A loop that serves many is not added without saying what it waits for."""
    tree = ast.parse((PACKAGE / "bridge" / "bridge.py").read_text())
    kept = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("keep", "keep_running")
        if isinstance(node.args[0], ast.Constant)
    }
    page = (ROOT / "docs" / "explanation" / "architecture.md").read_text()
    section = page.partition("## What serves many")[2].partition("\n## ")[0]
    rows = {line.split("|")[1].strip(): line for line in section.splitlines() if line.startswith("| ")}
    named = {word for name in rows for word in name.split(", ")}
    assert len(kept) > 12
    assert kept - named == set()
    for line in rows.values():
        for path in re.findall(r"`([a-z_/]+\.py)`", line):
            assert (PACKAGE / path).exists(), path
