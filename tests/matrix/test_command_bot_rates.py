"""How fast people may give commands, and that it keeps no admin from taking something away."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.command_bot import COMMANDS_PER_MINUTE, COMMANDS_PER_MINUTE_OF_SERVER, TOO_FAST_TEXT
from tests.matrix.test_command_bot import ADMIN, ALICE, BOT, Fake, running


@pytest.fixture
def fake() -> Fake:
    return Fake()


async def test_who_writes_too_fast_is_told_once_and_then_heard_again(fake: Fake) -> None:
    async with running(fake) as talk:
        for _ in range(COMMANDS_PER_MINUTE + 10):
            talk.receive(fake.message(ALICE, "peers"), BOT, direct=True)
            await talk.idle()
        assert fake.said[-1] == TOO_FAST_TEXT
        assert len(fake.said) == COMMANDS_PER_MINUTE + 1
        fake.now = 60
        talk.receive(fake.message(ALICE, "peers"), BOT, direct=True)
        await talk.idle()
    assert fake.said[-1] == "done for @alice:example.org"


async def test_an_admin_is_heard_whatever_others_of_their_server_write(fake: Fake) -> None:
    crowd = [UserId(f"@user{number}:example.org") for number in range(10)]
    fake.users.update(crowd)
    async with running(fake) as talk:
        for sender in crowd * (COMMANDS_PER_MINUTE_OF_SERVER // 10 + 1):
            talk.receive(fake.message(sender, "peers"), BOT, direct=True)
            await talk.idle()
        talk.receive(fake.message(ADMIN, "grants"), BOT, direct=True)
        await talk.idle()
    assert fake.said[-1] == "done for @admin:example.org"


@pytest.mark.parametrize("words", ["revoke 1", "revoke @eve:evil.test", "kick 3", "pause", "reload"])
async def test_what_an_admin_takes_away_is_never_too_fast(fake: Fake, words: str) -> None:
    async with running(fake) as talk:
        for _ in range(COMMANDS_PER_MINUTE + 1):
            talk.receive(fake.message(ADMIN, "grants"), BOT, direct=True)
            await talk.idle()
        assert fake.said[-1] == TOO_FAST_TEXT
        talk.receive(fake.message(ADMIN, words), BOT, direct=True)
        await talk.idle()
    assert fake.said.count(f"done for {ADMIN}") == COMMANDS_PER_MINUTE + 1
