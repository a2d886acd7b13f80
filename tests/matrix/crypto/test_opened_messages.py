"""What was decrypted is not lost when the database refuses, at whichever moment that is."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from mxrtc_bridge.core.crypto.records import Changes, OpenedRecord
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.olm_message import OlmMessage
from mxrtc_bridge.matrix.crypto.opened_messages import OpenedMessages, name_of
from mxrtc_bridge.matrix.crypto.values import MEGOLM
from tests.matrix.crypto.device_world import ALICE, Sender, World, answer_of, peer_at, tell
from tests.matrix.crypto.key_homeserver import PICKLE_KEY
from tests.matrix.crypto.memory import MemoryStore

ROOM = RoomId("!room:example.org")
NESTED, FRAMES = 700, 300
"""Levels that a parser follows, and calls from which it would not any more."""


class Busy(MemoryStore):
    """Refuses one question, the one of this number from now on."""

    def __init__(self) -> None:
        super().__init__()
        self.until: int | None = None
        self.asked = 0

    async def _asked(self) -> None:
        self.asked += 1
        if self.until is not None:
            self.until -= 1
            if self.until < 0:
                self.until = None
                raise StorageError("the database is busy")


def room_key() -> dict[str, Any]:
    import vodozemac

    session = vodozemac.GroupSession()
    return {
        "algorithm": MEGOLM,
        "room_id": ROOM,
        "session_id": session.session_id,
        "session_key": session.session_key.to_base64(),
    }


def test_database_that_refuses_at_any_moment_of_an_answer_loses_nothing_of_it() -> None:
    moments = 0

    def one(moment: int) -> None:
        world = World()
        world.store = store = Busy()

        async def story(made: World) -> None:
            nonlocal moments
            await made.receives()
            alice = Sender(ALICE, made.server, made.ours, proves=True)
            await made.ours.devices_of(ALICE)
            key = room_key()
            answer = answer_of(alice.says("io.example.1"), alice.says("m.room_key", key), alice.says("io.example.2"))
            store.until, begun = moment, store.asked
            for _ in range(3):
                try:
                    events = await made.ours.receive_sync(answer)
                    await made.ours.settle("s2", answer)
                except StorageError:
                    continue
                break
            else:
                raise AssertionError("it refuses only once")
            moments = max(moments, store.asked - begun)
            assert [event.type for event in events] == ["io.example.1", "io.example.2"]
            assert await store.inbound(ROOM, key["session_id"], ALICE) is not None
            assert await made.ours.receive_sync(answer) == (), "now they fit no session, and nothing is kept of them"

        tell(story, world)

    one(1000)
    assert moments >= 3
    for moment in range(moments):
        one(moment)


def test_message_that_says_nothing_of_use_is_refused_again_and_not_taken_for_a_broken_session() -> None:
    async def story(made: World) -> None:
        await made.receives()
        alice = Sender(ALICE, made.server, made.ours, proves=True)
        await made.ours.devices_of(ALICE)
        item = alice.says("x" * 300)
        for _ in range(3):
            assert await made.ours.receive_sync(answer_of(item)) == ()
        await made.work.idle()
        assert made.server.claims == 0

    tell(story)


def test_what_waits_stays_over_the_end_of_its_answer_and_the_rest_goes() -> None:
    opened, message = OpenedMessages(PICKLE_KEY), OlmMessage("type", {}, "c", "e")
    first, second = opened.add("1", ALICE, message, 1), opened.add("2", ALICE, message, 1)
    second.waits = True
    opened.settle()
    assert opened.get("1") is None
    assert opened.get("2") is second
    opened.end(second)
    assert len(opened) == 0
    assert first.message() is message


@pytest.mark.parametrize(
    "content",
    [{}, {"ciphertext": []}, {"ciphertext": {"c": 5}}, {"ciphertext": {"c": {"body": "\ud800"}}, "sender_key": []}],
)
def test_anything_has_a_name(content: dict[str, Any]) -> None:
    assert len(name_of(ALICE, content, "c")) == 64


async def again(made: World) -> CryptoDevice:
    """The device as it comes up after a crash: with what is stored, and nothing else."""
    made.begin_work_anew()
    ours = await peer_at(made.server, later=made.work.put, store=made.store)
    ours.deliver_to(made.deliver)
    made.received.clear()
    return ours


@pytest.mark.parametrize("proves", [True, False])
def test_message_that_waits_for_its_sender_outlives_a_crash_and_is_handed_on_once(proves: bool) -> None:
    async def story(made: World) -> None:
        alice = Sender(ALICE, made.server, made.ours, proves=proves)
        made.server.hanging = {"example.org"}
        await made.receives(alice.says("io.example.1"), alice.says("io.example.2"))
        assert made.received == []
        made.server.hanging.clear()
        made.ours = await again(made)
        await made.receives()
        await made.work.idle()
        assert [event.type for event in made.received] == ["io.example.1", "io.example.2"]
        assert await made.store.opened() == ()
        made.ours = await again(made)
        await made.receives()
        await made.work.idle()
        assert made.received == []

    tell(story)


def test_message_whose_session_was_saved_before_its_answer_was_settled_outlives_a_crash() -> None:
    async def story(made: World) -> None:
        await made.receives()
        alice = Sender(ALICE, made.server, made.ours, proves=True)
        await made.ours.devices_of(ALICE)
        answer = answer_of(alice.says("io.example.1"), alice.says("m.room_key", room_key()))
        # The key is saved at once, and with it the state of the session; then everything stands still.
        await made.ours.receive_sync(answer)
        made.ours = await again(made)
        for event in await made.ours.receive_sync(answer):
            await made.deliver(made.ours, event)
        await made.work.idle()
        assert [event.type for event in made.received] == ["io.example.1"]
        await made.ours.settle("s2", answer)
        assert await made.store.opened() == ()

    tell(story)


def test_what_cannot_be_read_any_more_is_forgotten() -> None:
    async def story(made: World) -> None:
        await made.store.save(Changes(opened=[OpenedRecord("name", ALICE, "bm9uc2Vuc2U=", 1)]))
        made.ours = await again(made)
        await made.receives()
        assert await made.store.opened() == ()

    tell(story)


def test_secrets_are_stored_encrypted() -> None:
    async def story(made: World) -> None:
        alice = Sender(ALICE, made.server, made.ours, proves=True)
        made.server.hanging = {"example.org"}
        await made.receives(alice.says("io.example.1", {"secret": "in plain text"}))
        (record,) = await made.store.opened()
        assert "plain text" not in base64.b64decode(record.sealed).decode("latin-1")

    tell(story)


def test_message_that_is_nested_deeply_makes_nothing_fail_that_is_stored_with_it() -> None:
    async def story(world: World) -> None:
        stranger = Sender(UserId("@mallory:evil.test"), world.server, world.ours, proves=False)
        world.server.hanging.add("evil.test")
        content: dict[str, object] = {}
        for _ in range(NESTED):
            content = {"a": content}
        answer = answer_of(stranger.says(content=content))
        assert await world.ours.receive_sync(answer) == ()

        async def from_below(levels: int) -> None:
            await (from_below(levels - 1) if levels else world.ours.settle("s1", answer))

        # As deep as what is done for somebody else at that moment may be.
        await from_below(FRAMES)
        assert len(await world.store.opened()) == 1

    tell(story)
