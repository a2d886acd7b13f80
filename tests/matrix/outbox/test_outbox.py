"""Order, bounds and identity of what our side sends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.call.events import CandidateLine, Candidates, Hangup, Version
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import CallId, EventId, PartyId, RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.outbox.outbox import Outbox, transaction_id
from tests.matrix.conftest import BridgeWorld, MakePerson

ROOM = RoomId("!a:example.org")
OTHER = RoomId("!b:example.org")
PEER = UserId("@rtc_a:example.org")
HANGUP = Hangup(CallId("call"), PartyId("party"), Version.V1)


class Gate:
    """A homeserver that holds each event until it is let through."""

    def __init__(self, *, opened: bool = False) -> None:
        self.sent: list[tuple[str, str, str, UserId | None]] = []
        self.begun: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.opened = opened
        self.failures: dict[str, HomeserverError] = {}

    async def send_event(
        self, room: RoomId, event_type: str, content: Mapping[str, object], txn_id: str, as_user: UserId | None = None
    ) -> EventId:
        self.begun.append(txn_id)
        if not self.opened:
            await self.gates.setdefault(txn_id, asyncio.Event()).wait()
        if txn_id in self.failures:
            raise self.failures[txn_id]
        self.sent.append((room, event_type, txn_id, as_user))
        return EventId("$e")

    def open(self, txn_id: str) -> None:
        self.gates.setdefault(txn_id, asyncio.Event()).set()


def txn(step: str, room: RoomId = ROOM) -> str:
    return transaction_id(room, PEER, "call", step)


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_room_sends_one_after_the_other_and_rooms_do_not_wait_for_each_other() -> None:
    gate = Gate()
    outbox = Outbox(gate, masquerade=True)
    tasks = [asyncio.create_task(outbox.send(ROOM, PEER, HANGUP, step=str(step))) for step in range(5)]
    tasks.append(asyncio.create_task(outbox.send(OTHER, PEER, HANGUP, step="0")))
    await settle()
    assert gate.begun == [txn("0"), txn("0", OTHER)]
    for step in reversed(range(5)):
        gate.open(txn(str(step)))
    gate.open(txn("0", OTHER))
    await asyncio.gather(*tasks)
    assert [entry[2] for entry in gate.sent if entry[0] == ROOM] == [txn(str(step)) for step in range(5)]
    assert outbox.rooms == 0


async def test_failed_or_cancelled_send_lets_the_next_one_go() -> None:
    gate = Gate()
    outbox = Outbox(gate, masquerade=True)
    gate.failures[txn("0")] = HomeserverError("refused", 403)
    first, second, third = (asyncio.create_task(outbox.send(ROOM, PEER, HANGUP, step=str(step))) for step in range(3))
    await settle()
    second.cancel()
    for step in range(3):
        gate.open(txn(str(step)))
    with pytest.raises(HomeserverError, match="refused"):
        await first
    with pytest.raises(asyncio.CancelledError):
        await second
    await third
    assert [entry[2] for entry in gate.sent] == [txn("2")]
    assert (outbox.rooms, outbox.waiting) == (0, 0)


@pytest.mark.parametrize("extra", [-1, 0, 1])
async def test_room_takes_a_limited_number_of_sends(extra: int) -> None:
    gate = Gate()
    outbox = Outbox(gate, masquerade=True, max_waiting_per_room=4)
    tasks = [asyncio.create_task(outbox.send(ROOM, PEER, HANGUP, step=str(step))) for step in range(4 + extra)]
    await settle()
    refused = [task for task in tasks if task.done()]
    assert len(refused) == max(extra, 0)
    for task in refused:
        assert isinstance(task.exception(), HomeserverError)
    # The bound is the room's, not everybody's.
    other = asyncio.create_task(outbox.send(OTHER, PEER, HANGUP, step="0"))
    await settle()
    assert not other.done()
    for task in [*tasks, other]:
        task.cancel()
    await asyncio.gather(*tasks, other, return_exceptions=True)


async def test_all_rooms_together_are_limited() -> None:
    outbox = Outbox(Gate(), masquerade=True, max_waiting=3)
    rooms = [RoomId(f"!{number}:example.org") for number in range(4)]
    tasks = [asyncio.create_task(outbox.send(room, PEER, HANGUP, step="0")) for room in rooms]
    await settle()
    assert [task.done() for task in tasks] == [False, False, False, True]
    with pytest.raises(HomeserverError, match="too many messages wait"):
        await tasks[3]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_send_ends_at_its_time_limit_also_in_the_queue() -> None:
    outbox = Outbox(Gate(), masquerade=True, timeout_s=0.02)
    results = await asyncio.gather(
        *(outbox.send(ROOM, PEER, HANGUP, step=str(step)) for step in range(2)), return_exceptions=True
    )
    for result in results:
        assert isinstance(result, HomeserverError)
        assert result.retryable
        assert "did not take it within 0.02 seconds" in str(result)


async def test_client_names_no_user_and_the_bridge_does() -> None:
    gate = Gate(opened=True)
    await Outbox(gate, masquerade=True).send(ROOM, PEER, HANGUP, step="hangup")
    await Outbox(gate, masquerade=False).send(ROOM, PEER, HANGUP, step="hangup")
    assert [(kind, user) for _, kind, _, user in gate.sent] == [("m.call.hangup", PEER), ("m.call.hangup", None)]


parts = st.text(max_size=20)


@given(first=st.tuples(parts, parts, parts, parts), second=st.tuples(parts, parts, parts, parts))
def test_transaction_ids_are_equal_only_for_equal_sends(first: tuple[str, ...], second: tuple[str, ...]) -> None:
    assert (transaction_id(*first) == transaction_id(*second)) == (first == second)  # type: ignore[arg-type]


def test_transaction_ids_do_not_mix_up_where_one_part_ends() -> None:
    assert transaction_id(ROOM, PEER, "ab", "c") != transaction_id(ROOM, PEER, "a", "bc")


def test_transaction_id_is_stable_over_releases() -> None:
    """A restart with a new version must still be recognised."""
    assert transaction_id(ROOM, PEER, "call", "answer") == "mxrtc-ca8a5699e595423bbe8811ffd2782403cf1f4617"


@pytest.mark.asyncio(loop_scope="session")
async def test_same_step_twice_is_one_event_and_order_holds_on_a_real_homeserver(
    bridge_world: BridgeWorld, bridge: Homeserver, make_person: MakePerson
) -> None:
    alice = await make_person()
    peer, second = bridge_world.peer(), bridge_world.peer()
    for user in (peer, second):
        await bridge.register_user(user)
    room = await alice.homeserver.create_direct_room(peer)
    await alice.homeserver.invite(room, second)
    await bridge.join(room, peer)
    await bridge.join(room, second)
    outbox = Outbox(bridge, masquerade=True)

    def batch(number: int) -> Candidates:
        line = CandidateLine(f"candidate:{number} 1 udp 1 192.0.2.1 {number + 1024} typ host", "0", 0)
        return Candidates(CallId("call"), PartyId("p"), Version.V1, (line,))

    await asyncio.gather(*(outbox.send(room, peer, batch(n), step=f"candidates-{n}") for n in range(10)))
    await asyncio.gather(*(outbox.send(room, peer, HANGUP, step="hangup") for _ in range(3)))
    # Another outbox stands for the bridge after a restart, another sender for another event.
    await Outbox(bridge, masquerade=True).send(room, peer, HANGUP, step="hangup")
    await outbox.send(room, second, HANGUP, step="hangup")
    sent = await alice.timeline(room, "m.call.candidates")
    assert [item["content"]["candidates"][0]["candidate"].split()[5] for item in sent] == [
        str(1024 + n) for n in range(10)
    ]
    assert [item["sender"] for item in await alice.timeline(room, "m.call.hangup")] == [peer, second]
