"""What strangers send to a device of ours makes nobody else wait, whatever their servers do."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

import pytest

from mxrtc_bridge.core.crypto.records import RoomEncryption, Trust
from mxrtc_bridge.core.errors import AnswerTooLongError
from mxrtc_bridge.core.ids import RoomId, UserId, server_of
from mxrtc_bridge.matrix.crypto.broken_sessions import TRIES_A_MINUTE
from mxrtc_bridge.matrix.crypto.receive_budget import ReceiveBudget
from mxrtc_bridge.matrix.crypto.signed_json import unpadded
from tests.matrix.crypto.device_world import ALICE, PEER, Sender, Server, answer_of, peer_at


@pytest.mark.parametrize("proves", [True, False])
async def test_messages_of_strangers_whose_servers_hang_keep_nobody_elses_waiting(*, proves: bool) -> None:
    server = Server()
    ours = await peer_at(server, budget=ReceiveBudget(server_of(PEER), ask_s=0.5))
    honest = Sender(ALICE, server, ours, proves=proves)
    strangers = [Sender(UserId(f"@m{n}:evil{n}.test"), server, ours, proves=proves) for n in range(8)]
    server.hanging = {server_of(each.user) for each in strangers}
    async with asyncio.timeout(5):
        events = await ours.receive_sync(answer_of(*(each.says() for each in strangers), honest.says()))
    assert [event.sender for event in events][-1] == ALICE
    assert len([asked for asked in server.asked if asked != (ALICE,)]) == 1, "nobody is asked when the time is over"


async def test_a_server_that_has_let_us_wait_is_not_asked_again_with_the_next_answer() -> None:
    server = Server()
    ours = await peer_at(server, budget=ReceiveBudget(server_of(PEER), ask_s=0.5))
    strangers = [Sender(UserId(f"@m{n}:evil.test"), server, ours, proves=True) for n in range(3)]
    other = Sender(UserId("@carol:other.test"), server, ours, proves=False)
    server.hanging = {"evil.test"}
    async with asyncio.timeout(5):
        for stranger in strangers:
            assert len(await ours.receive_sync(answer_of(stranger.says()))) == 1, "it proves itself"
        (event,) = await ours.receive_sync(answer_of(other.says()))
    assert event.device is not None
    assert event.device.device == "DEVICE"
    assert [user for asked in server.asked for user in asked] == ["@m0:evil.test", "@carol:other.test"]


async def test_broken_messages_of_devices_whose_server_hangs_keep_nobody_waiting() -> None:
    server = Server()
    ours = await peer_at(server, budget=ReceiveBudget(server_of(PEER), ask_s=0.5))
    honest = Sender(ALICE, server, ours, proves=True)
    await ours.settle("token", {})
    broken = []
    for n in range(5):
        stranger = Sender(UserId(f"@m{n}:evil{n}.test"), server, ours, proves=True)
        await ours.devices_of(stranger.user)  # known from before
        item = stranger.says()
        item["content"]["ciphertext"][ours.curve25519] |= {"type": 1}
        broken.append(item)
    server.hanging = {f"evil{n}.test" for n in range(5)}
    async with asyncio.timeout(5):
        (event,) = await ours.receive_sync(answer_of(*broken, honest.says()))
    assert event.sender == ALICE
    assert server.claims == 1


async def test_a_member_of_a_room_whose_server_hangs_keeps_only_that_room_waiting() -> None:
    server = Server()
    ours = await peer_at(server)
    await ours.settle("token", {})
    honest = Sender(ALICE, server, ours, proves=True)
    server.hanging = {"evil.test"}
    room = RoomEncryption(RoomId("!room:example.org"))
    members = [PEER, UserId("@mallory:evil.test")]
    waiting = [
        asyncio.create_task(ours.prepare_room(room, members, least=Trust.UNSIGNED)),
        asyncio.create_task(ours.encrypt_room_event(room, members, "m.call.answer", {}, least=Trust.UNSIGNED)),
    ]
    while not any("@mallory:evil.test" in asked for asked in server.asked):
        await asyncio.sleep(0)
    async with asyncio.timeout(5):
        (event,) = await ours.receive_sync(answer_of(honest.says()))
    assert event.sender == ALICE
    assert not any(task.done() for task in waiting)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)


@pytest.mark.parametrize("user", ["@mallory:example.org", "@mallory:evil.test"])
@pytest.mark.parametrize("listed", [True, False])
async def test_broken_messages_of_one_user_have_no_server_asked_for_each_of_them(
    user: str, listed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers at once, that there is no key left or what cannot be read, so that no limit of time is met."""
    server = Server()
    ours = await peer_at(server)
    await ours.settle("token", {})
    stranger = Sender(UserId(user), server, ours, proves=True)
    if not listed:
        asks = server.query_keys

        async def too_long(device: object, users: Sequence[UserId]) -> Mapping[str, object]:
            await asks(device, users)
            raise AnswerTooLongError("the answer of the homeserver is too long", 200)

        monkeypatch.setattr(server, "query_keys", too_long)
    broken = []
    for n in range(50):
        item = stranger.says()
        item["content"]["ciphertext"][ours.curve25519] |= {"type": 1}
        if not listed:
            item["content"]["sender_key"] = unpadded(n.to_bytes(32, "big"))
        broken.append(item)
    before = len(server.asked)
    assert await ours.receive_sync(answer_of(*broken)) == ()
    asked = server.claims if listed else len(server.asked) - before
    assert 1 <= asked <= 2 * TRIES_A_MINUTE
