"""The rooms of one peer with one user are found without a look at all others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.rooms.room_index import PeerRoom, RoomIndex
from tests.long import examples

PEERS = [UserId("@rtc_a:example.org"), UserId("@rtc_b:example.org")]
USERS = [UserId("@alice:example.org"), UserId("@bob:example.org")]
ROOMS = [RoomId(f"!{number}:example.org") for number in range(5)]
NO_BOT: Any = None

entered = st.builds(
    PeerRoom,
    st.sampled_from(ROOMS),
    st.sampled_from(PEERS),
    st.sampled_from(USERS),
    st.just(set[UserId]()),
    active_ms=st.integers(0, 3),
)


def an_index() -> RoomIndex:
    return RoomIndex(NO_BOT, lambda _user: False, max_rooms_per_pair=2)


@given(st.lists(st.one_of(entered, st.sampled_from(ROOMS)), max_size=20))
@settings(max_examples=examples(200), deadline=None)
def test_a_pair_has_the_rooms_that_were_entered_last_for_it(steps: list[PeerRoom | RoomId]) -> None:
    index, known = an_index(), dict[RoomId, PeerRoom]()
    for step in steps:
        if isinstance(step, PeerRoom):
            index.enter(step)
            known[step.room_id] = step
        else:
            assert index.drop(step) is known.pop(step, None)
    assert sorted(index, key=id) == sorted(known.values(), key=id)
    for peer in PEERS:
        for user in USERS:
            rooms = [room for room in known.values() if (room.peer, room.user) == (peer, user)]
            found = index.rooms_of(peer, user)
            assert sorted(found, key=id) == sorted(rooms, key=id)
            assert [room.active_ms for room in found] == sorted((room.active_ms for room in rooms), reverse=True)
            surplus = index.surplus(user, peer, keep=ROOMS[0])
            assert len(surplus) == max(len(rooms) - 2, 0)
            stays = [room for room in rooms if room not in surplus]
            assert all(room.room_id != ROOMS[0] for room in surplus)
            others = [room.active_ms for room in stays if room.room_id != ROOMS[0]]
            assert all(room.active_ms <= active for room in surplus for active in others)


def test_rooms_of_others_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bridge has thousands, and everybody who invites asks once."""
    index, looked = an_index(), set[RoomId]()

    class Watched(PeerRoom):
        def __getattribute__(self, name: str) -> Any:
            looked.add(object.__getattribute__(self, "room_id"))
            return super().__getattribute__(name)

    for number in range(100):
        user = USERS[number % 50 == 0]
        index.enter(Watched(RoomId(f"!{number}:example.org"), PEERS[0], user, set(), active_ms=number))
    looked.clear()
    surplus = index.surplus(USERS[1], PEERS[0], keep=ROOMS[0])
    assert surplus == []
    assert index.chat_with(PEERS[0], USERS[1]) is None
    assert looked == {"!0:example.org", "!50:example.org"}
