"""Reactions, threads and replies, as they are read and as an answer is sent."""

from __future__ import annotations

from typing import Any

import pytest

from mxrtc_bridge.core.ids import EventId, RoomId, UserId
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.relations import MAX_KEY_CHARS, Reaction, answer_relation, read_reaction

ADMIN, ROOM = UserId("@admin:example.org"), RoomId("!room:example.org")
REPLY = {"event_id": "$asked"}


def annotation(**relates: Any) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": "m.annotation", "event_id": "$notice", "key": "\u2705", **relates}}


def event(content: dict[str, Any], kind: str = "m.room.message") -> RoomEvent:
    return RoomEvent(EventId("$asked"), ROOM, kind, ADMIN, 0, content)


def test_a_reaction_says_who_has_put_which_key_to_what() -> None:
    found = read_reaction(event(annotation(key="x" * MAX_KEY_CHARS), "m.reaction"))
    assert found == Reaction(ADMIN, ROOM, EventId("$notice"), "x" * MAX_KEY_CHARS)
    assert found.event == "$asked"


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"m.relates_to": "x"},
        annotation(rel_type="m.thread"),
        annotation(event_id=7),
        annotation(event_id="notice"),
        annotation(key=["x"]),
        annotation(key="x" * (MAX_KEY_CHARS + 1)),
        {**annotation(), "m.new_content": annotation()},
    ],
)
def test_what_cannot_be_read_or_is_an_edit_is_no_reaction(content: dict[str, Any]) -> None:
    assert read_reaction(event(content, "m.reaction")) is None


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(("root", "kept"), [("$root", "$root"), ("root", "$asked"), (None, "$asked")])
def test_an_answer_stays_in_its_thread(root: object, kept: str, direct: bool) -> None:
    asked = event({"m.relates_to": {"rel_type": "m.thread", "event_id": root}})
    assert answer_relation(asked, direct=direct) == {
        "m.relates_to": {
            "rel_type": "m.thread",
            "event_id": kept,
            "is_falling_back": True,
            "m.in_reply_to": REPLY,
        }
    }


@pytest.mark.parametrize("relates", [None, "x", {"rel_type": "m.annotation", "event_id": "$x"}])
def test_an_answer_outside_of_threads_is_a_reply_where_others_are_in_the_room(relates: object) -> None:
    asked = event({"m.relates_to": relates})
    assert answer_relation(asked, direct=True) == {}
    assert answer_relation(asked, direct=False) == {"m.relates_to": {"m.in_reply_to": REPLY}}
