"""Commands that take something away: nobody but their sender takes them back."""

from __future__ import annotations

import logging

import pytest

from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.command_bot import LATE_TEXT, MAX_AGE_MS, MAX_LATE_MS, RESTARTED_TEXT
from tests.chat_commands import made
from tests.honesty import LIES, Honesty
from tests.matrix.test_command_bot import ADMIN, ALICE, BOT, EVE, NOW, Fake, hear, running


@pytest.fixture
def fake() -> Fake:
    return Fake()


TAKES = ["revoke 17", "revoke @eve:evil.test", "kick 4", "kick @eve:evil.test", "pause", "reload", "deny 12", "close"]


@pytest.mark.parametrize("said", [*TAKES, "grant @eve:evil.test build/ssh for 2h", "allow 12", "resume", "yes 3"])
@pytest.mark.parametrize("by", [EVE, ADMIN])
async def test_command_that_takes_is_taken_back_by_its_sender_only_and_one_that_gives_by_everybody(
    fake: Fake, said: str, by: UserId
) -> None:
    """Who has power in a room, or a server with other rules, must not keep what an admin takes from them."""
    async with running(fake) as talk:
        event = fake.message(ADMIN, f"!rtc {said}")
        talk.receive(event, BOT, direct=False)
        fake.withdrawn[event.room_id, event.event_id] = by
        await talk.idle()
    assert bool(fake.commands) == (said in TAKES and by == EVE)


@pytest.mark.parametrize("lie", LIES)
async def test_what_takes_a_right_away_is_carried_out_whatever_lies_then(fake: Fake, lie: Honesty) -> None:
    fake.honesty = lie
    fake.users.clear()
    await hear(fake, fake.message(ADMIN, "revoke 3"), fake.message(ADMIN, "revoke 4"), fake.message(EVE, "revoke 5"))
    assert fake.commands == [made("revoke", "3", None, None, ""), made("revoke", "4", None, None, "")]


GIVES = ["grant @eve:evil.test build/ssh for 2h", "allow 12", "resume", "yes 3"]


@pytest.mark.parametrize("said", TAKES)
@pytest.mark.parametrize("age_ms", [1, MAX_AGE_MS + 1, MAX_LATE_MS, -MAX_AGE_MS - 1])
async def test_what_was_taken_away_while_the_bridge_was_down_is_taken_away(fake: Fake, said: str, age_ms: int) -> None:
    fake.wall = NOW + age_ms
    await hear(fake, fake.message(ADMIN, said))
    assert (len(fake.commands), fake.said) == (1, ["done for @admin:example.org"])


@pytest.mark.parametrize("said", [*GIVES, "open build", "request build/ssh"])
async def test_what_would_give_comes_too_late_which_is_said_once(fake: Fake, said: str) -> None:
    fake.wall = NOW + MAX_AGE_MS + 1
    async with running(fake) as talk:
        for _ in range(3):
            talk.receive(fake.message(ADMIN, said), BOT, direct=True)
        talk.receive(fake.message(ALICE, "request build/ssh"), BOT, direct=True)
        await talk.idle()
    assert (fake.commands, fake.said) == ([], [LATE_TEXT, LATE_TEXT])
    fake.sent.clear()
    await hear(fake, fake.message(ADMIN, said))
    assert fake.said == [LATE_TEXT], "once more after another start"


@pytest.mark.parametrize("said", TAKES)
async def test_what_is_older_than_ids_of_events_are_remembered_for_sure_takes_nothing(fake: Fake, said: str) -> None:
    """Whoever sends it again, it could be the second time."""
    fake.wall = NOW + MAX_LATE_MS + 1
    await hear(fake, fake.message(ADMIN, said))
    assert (fake.commands, fake.said) == ([], [LATE_TEXT])


@pytest.mark.parametrize("said", [*TAKES, *GIVES, "help", "nonsense"])
async def test_old_words_of_strangers_get_no_answer(fake: Fake, said: str) -> None:
    fake.wall = NOW + MAX_AGE_MS + 1
    await hear(fake, fake.message(EVE, said), fake.message(ALICE, "nonsense"), fake.message(ALICE, "peers"))
    assert (fake.commands, fake.sent, fake.mistakes) == ([], [], [])


@pytest.mark.parametrize("said", TAKES)
async def test_old_command_that_its_sender_has_taken_back_takes_nothing(fake: Fake, said: str) -> None:
    fake.wall = NOW + MAX_AGE_MS + 1
    event = fake.message(ADMIN, said)
    fake.withdrawn[event.room_id, event.event_id] = ADMIN
    await hear(fake, event)
    assert fake.commands == []


async def test_what_gives_from_just_before_the_start_is_still_not_done(fake: Fake) -> None:
    fake.wall = NOW + 1
    await hear(fake, *(fake.message(ADMIN, said) for said in GIVES))
    assert (fake.commands, set(fake.said)) == ([], {RESTARTED_TEXT})


@pytest.mark.parametrize(("age_ms", "words"), [(3_600_000, "60 minutes old"), (-600_000, "10 minutes ahead")])
@pytest.mark.parametrize("by", [ALICE, EVE])
async def test_words_of_a_server_whose_clock_is_wrong_are_a_line_in_the_log(
    fake: Fake, by: UserId, age_ms: int, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    fake.wall = NOW + age_ms
    await hear(fake, *(fake.message(by, "peers") for _ in range(20)))
    assert fake.commands == []
    assert caplog.text.count(f"a message of {by} is not heard: its homeserver says that it is {words}") == 1
