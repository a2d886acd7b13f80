"""What strangers send to a device of ours makes nobody else wait, whatever their servers and our homeserver do."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from mxrtc_bridge.core.crypto.records import RoomEncryption, Trust
from mxrtc_bridge.core.errors import AnswerTooLongError
from mxrtc_bridge.core.ids import DeviceId, RoomId, UserId
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.crypto.broken_sessions import TRIES_A_MINUTE
from mxrtc_bridge.matrix.crypto.signed_json import unpadded
from mxrtc_bridge.matrix.crypto.values import OLM
from tests import virtual_time
from tests.matrix.crypto.device_world import ALICE, PEER, Sender, Server, World, answer_of, peer_at, tell


async def known(made: World, user: UserId, *, proves: bool = True) -> Sender:
    """Somebody whose devices are known from before."""
    if made.ours.sync_token is None:
        await made.receives()  # from here on the homeserver would tell of changes
    sender = Sender(user, made.server, made.ours, proves=proves)
    await made.ours.devices_of(user)
    return sender


@pytest.mark.parametrize("proves", [True, False])
def test_messages_of_strangers_whose_servers_hang_keep_nobody_elses_waiting(proves: bool) -> None:
    async def story(made: World) -> None:
        honest = await known(made, ALICE, proves=proves)
        strangers = [Sender(UserId(f"@m{n}:evil{n}.test"), made.server, made.ours, proves=proves) for n in range(40)]
        made.server.hanging = {f"evil{n}.test" for n in range(40)}
        await made.receives(*(each.says() for each in strangers), honest.says())
        assert [event.sender for event in made.received] == [ALICE]

    tell(story)


def test_a_defect_at_one_message_costs_that_message_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def story(made: World) -> None:
        def defect(_device: object, _by_us: bool) -> None:
            raise KeyError("a defect")

        made.ours.session_begun = defect
        honest, odd = await known(made, ALICE), await known(made, UserId("@odd:example.org"))
        await made.receives(odd.says("m.dummy"), honest.says())
        assert [event.sender for event in made.received] == [ALICE]
        # The next answer is heard as well.
        await made.receives(honest.says())
        assert [event.sender for event in made.received] == [ALICE, ALICE]

    tell(story)
    assert "a message to a device of" in caplog.text


def test_broken_messages_of_devices_whose_server_hangs_keep_nobody_waiting() -> None:
    async def story(made: World) -> None:
        honest = await known(made, ALICE)
        broken = []
        for n in range(5):
            stranger = await known(made, UserId(f"@m{n}:evil{n}.test"))
            item = stranger.says()
            item["content"]["ciphertext"][made.ours.curve25519] |= {"type": 1}
            broken.append(item)
        made.server.hanging = {f"evil{n}.test" for n in range(5)}
        await made.receives(*broken, honest.says())
        assert [event.sender for event in made.received] == [ALICE]

    tell(story)


def test_requests_for_keys_keep_nobody_waiting() -> None:
    async def story(made: World) -> None:
        honest = await known(made, ALICE)
        room, mallory = RoomEncryption(RoomId("!room:example.org")), await known(made, UserId("@mallory:evil.test"))
        await made.receives(mallory.says())
        await made.ours.outbound.prepare(room, [PEER, mallory.user], least=Trust.UNSIGNED)
        record = await made.store.outbound(room.room)
        assert record is not None
        assert record.shared
        await made.ours.lists.mark_outdated([mallory.user])
        made.server.hanging = {"evil.test"}
        before = len(made.server.asked)
        request = {
            "type": "m.room_key_request",
            "sender": mallory.user,
            "content": {
                "action": "request",
                "requesting_device_id": "DEVICE",
                "body": {"algorithm": "m.megolm.v1.aes-sha2", "room_id": room.room, "session_id": record.session_id},
            },
        }
        made.received.clear()
        await made.receives(request, honest.says())
        assert [event.sender for event in made.received] == [ALICE]
        await asyncio.sleep(0.1)
        assert len(made.server.asked) == before + 1, "the request is seen to"

    tell(story)


def test_member_of_a_room_whose_server_hangs_keeps_only_that_room_waiting() -> None:
    async def story(made: World) -> None:
        honest = await known(made, ALICE)
        made.server.hanging = {"evil.test"}
        room = RoomEncryption(RoomId("!room:example.org"))
        members = [PEER, UserId("@mallory:evil.test")]
        waiting = [
            asyncio.create_task(made.ours.outbound.prepare(room, members, least=Trust.UNSIGNED)),
            asyncio.create_task(made.ours.outbound.encrypt(room, members, "m.call.answer", {}, least=Trust.UNSIGNED)),
        ]
        while not any("@mallory:evil.test" in asked for asked in made.server.asked):
            await asyncio.sleep(0)
        await made.receives(honest.says())
        assert [event.sender for event in made.received] == [ALICE]
        assert not any(task.done() for task in waiting)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    tell(story)


def test_nothing_is_locked_while_the_homeserver_takes_a_key_of_a_room(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(made: World) -> None:
        honest = await known(made, ALICE)
        asked = asyncio.Event()

        async def hangs(*_args: object) -> None:
            asked.set()
            await asyncio.get_running_loop().create_future()

        async def claims(_device: object, wanted: Mapping[UserId, Sequence[DeviceId]]) -> dict[str, Any]:
            key = {"key": made.server.one_time.pop()}
            name = f"signed_curve25519:{len(made.server.one_time)}"
            signed = honest.account.sign(key)
            return {user: {device: {name: signed} for device in devices} for user, devices in wanted.items()}

        monkeypatch.setattr(made.server, "send_to_device", hangs)
        monkeypatch.setattr(made.server, "claim_keys", claims)
        room = RoomEncryption(RoomId("!room:example.org"))
        # A session with Alice is there once something came of it.
        await made.receives(honest.says())
        speaking = asyncio.create_task(
            made.ours.outbound.encrypt(room, [PEER, ALICE], "m.room.message", {}, least=Trust.UNSIGNED)
        )
        await asked.wait()
        await made.receives(honest.says())
        assert len(made.received) == 2
        assert not speaking.done()
        speaking.cancel()
        await asyncio.gather(speaking, return_exceptions=True)

    tell(story)


@pytest.mark.parametrize("user", ["@mallory:example.org", "@mallory:evil.test"])
@pytest.mark.parametrize("listed", [True, False])
def test_broken_messages_of_one_user_have_no_server_asked_for_each_of_them(
    user: str, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers at once, that there is no key left or what cannot be read, so that no limit of time is met."""

    async def story(made: World) -> None:
        server = made.server
        stranger = Sender(UserId(user), server, made.ours, proves=True)
        if not listed:
            asks = server.query_keys

            async def too_long(users: Sequence[UserId]) -> Mapping[str, object]:
                await asks(users)
                raise AnswerTooLongError("the answer of the homeserver is too long", 200)

            monkeypatch.setattr(server, "query_keys", too_long)
        before, claims = len(server.asked), server.claims
        for n in range(50):
            item = stranger.says()
            item["content"]["ciphertext"][made.ours.curve25519] |= {"type": 1}
            if not listed:
                item["content"]["sender_key"] = unpadded(n.to_bytes(32, "big"))
            await made.receives(item)
            await asyncio.sleep(0)
        await made.work.idle()
        assert made.received == []
        asked = server.claims - claims if listed else len(server.asked) - before
        assert 1 <= asked <= 2 * TRIES_A_MINUTE

    tell(story)


def test_junk_of_one_stranger_to_many_devices_is_a_line_and_a_number(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    seldom = RateLimitedLog(logging.getLogger(__name__))
    junk = {"type": "m.room.encrypted", "sender": "@mallory:evil.test", "content": {"algorithm": OLM, "sender_key": {}}}

    async def story() -> None:
        server = Server()
        for _ in range(5):
            device = await peer_at(server, seldom=seldom)
            assert not await device.receive_sync(answer_of(*[junk] * 400))

    virtual_time.run(story())
    assert caplog.text.count("a message of @mallory:evil.test to a device") == 1
    seldom.tell_left_out(everything=True)
    assert "(and 1998 more like this" in caplog.text
