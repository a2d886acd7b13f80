"""A question is answered once, by who was asked, where it was asked, in time, and by the very next command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.bot.confirmations import ANSWER_WITHIN_S, MAX_OPEN, Confirmations
from mxrtc_bridge.core.ids import RoomId, UserId
from tests.chat_commands import made

BOB, CAROL = UserId("@bob:x"), UserId("@carol:x")
ROOM, OTHER = RoomId("!room:x"), RoomId("!other:x")
MEANT = made("allow", 12, False, None)


@pytest.fixture
def asked() -> Confirmations:
    confirmations = Confirmations()
    confirmations.ask(17, MEANT, BOB, ROOM, 100.0)
    return confirmations


def test_the_answer_gives_the_command_once(asked: Confirmations) -> None:
    assert asked.answer(17, BOB, ROOM, 100.0) == MEANT
    assert asked.answer(17, BOB, ROOM, 100.0) is None


def test_the_answer_of_another_does_nothing_and_takes_nothing_away(asked: Confirmations) -> None:
    assert asked.answer(17, CAROL, ROOM, 100.0) is None
    assert asked.answer(17, BOB, ROOM, 100.0) == MEANT


@pytest.mark.parametrize(
    ("number", "room", "now"), [(18, ROOM, 100.0), (17, OTHER, 100.0), (17, ROOM, 100.0 + ANSWER_WITHIN_S)]
)
def test_a_wrong_answer_lets_it_lapse(asked: Confirmations, number: int, room: RoomId, now: float) -> None:
    assert asked.answer(number, BOB, room, now) is None
    assert asked.answer(17, BOB, ROOM, 100.0) is None


def test_it_lapses_by_another_command_and_by_another_question(asked: Confirmations) -> None:
    asked.ask(18, made("allow", 13, False, None), BOB, ROOM, 101.0)
    assert asked.answer(17, BOB, ROOM, 101.0) is None
    asked.ask(19, MEANT, BOB, ROOM, 101.0)
    asked.lapse(CAROL)
    asked.lapse(BOB)
    assert asked.answer(19, BOB, ROOM, 101.0) is None


def test_there_is_a_limit_and_the_oldest_lapses(asked: Confirmations) -> None:
    for number in range(MAX_OPEN):
        asked.ask(number, MEANT, UserId(f"@user{number}:x"), ROOM, 100.0)
    assert asked.answer(17, BOB, ROOM, 100.0) is None
    assert asked.answer(0, UserId("@user0:x"), ROOM, 100.0) == MEANT


STEPS = st.tuples(
    st.sampled_from(["ask", "answer", "lapse"]),
    st.sampled_from([BOB, CAROL]),
    st.sampled_from([ROOM, OTHER]),
    st.integers(1, 4),
    st.sampled_from([0.0, 1.0, ANSWER_WITHIN_S - 1, ANSWER_WITHIN_S]),
)


@given(st.lists(STEPS, max_size=30))
def test_nothing_is_carried_out_that_was_not_asked_of_the_same_person_just_before(
    steps: list[tuple[str, UserId, RoomId, int, float]],
) -> None:
    confirmations = Confirmations()
    last: dict[UserId, tuple[int, RoomId, float] | None] = {}
    now = 0.0
    for verb, user, room, number, passed in steps:
        now += passed
        if verb == "ask":
            confirmations.ask(number, made("allow", number, False, None), user, room, now)
            last[user] = (number, room, now)
            continue
        if verb == "lapse":
            confirmations.lapse(user)
        else:
            asked = last.get(user)
            right = asked is not None and asked[:2] == (number, room) and now - asked[2] < ANSWER_WITHIN_S
            assert confirmations.answer(number, user, room, now) == (
                made("allow", number, False, None) if right else None
            )
        last[user] = None
