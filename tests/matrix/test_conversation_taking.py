"""Commands that take something away: nobody but their sender takes them back."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.command_values import RevokeGrant
from mxrtc_bridge.core.ids import UserId
from tests.honesty import LIES, Honesty
from tests.matrix.test_conversation import ADMIN, BOT, EVE, Fake, hear, running


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
    assert fake.commands == [RevokeGrant("3"), RevokeGrant("4")]
