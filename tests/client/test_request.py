"""``mxrtc request`` goes by the field of the bot's notices, whatever their words."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.request import Notice, first_answer, request, until_decided
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.access.requests import RequestState
from mxrtc_bridge.core.bot.request_text import RequestStatus
from mxrtc_bridge.core.ids import UserId

OPEN = RequestStatus(RequestState.ASKED, 7)
ALLOWED = RequestStatus(RequestState.ALLOWED, 7)


async def notices(*told: Notice) -> AsyncIterator[Notice]:
    for each in told:
        yield each


async def test_the_answer_is_not_what_is_told_of_another_request() -> None:
    other = RequestStatus(RequestState.DENIED, 3)
    assert await first_answer(notices(("Nein zu 3", other), ("Gefragt", OPEN))) == ("Gefragt", OPEN)


async def test_the_answer_about_a_request_that_was_named_is_the_one() -> None:
    other, own = RequestStatus(RequestState.ALLOWED, 6), RequestStatus(RequestState.WITHDRAWN, 7)
    assert await first_answer(notices(("other", other), ("own", own)), 7) == ("own", own)


async def test_a_notice_without_the_field_is_a_no_whatever_it_says() -> None:
    """So is all that a bridge says that does not send the field yet."""
    said = "I have asked the admins (request 7). You will be told here what they say."
    assert await first_answer(notices((said, None))) == (said, None)


async def test_a_decision_counts_in_any_words() -> None:
    told = notices(
        ("Your request 7 for build/ssh was denied.", None),
        ("noch offen", OPEN),
        ("eine andere", RequestStatus(RequestState.DENIED, 8)),
        ("Erlaubt!", ALLOWED),
    )
    assert await until_decided(told, 7) == "Erlaubt!"


@pytest.mark.parametrize("state", [RequestState.DENIED, RequestState.EXPIRED, RequestState.WITHDRAWN])
async def test_every_other_end_is_a_no_with_the_words_of_the_bridge(state: RequestState) -> None:
    with pytest.raises(ClientError, match="Leider nein") as raised:
        await until_decided(notices(("Leider nein", RequestStatus(state, 7))), 7)
    assert raised.value.code is Exit.DENIED


async def test_a_homeserver_that_says_nothing_more_is_away() -> None:
    with pytest.raises(ClientError, match="sends nothing any more") as raised:
        await first_answer(notices())
    assert raised.value.code is Exit.OFFLINE
    with pytest.raises(ClientError, match="sends nothing any more") as raised:
        await until_decided(notices(("noch offen", OPEN)), 7)
    assert raised.value.code is Exit.OFFLINE


@pytest.mark.parametrize("because", ["d\udce9j\xe0 vu", "\ud83d"])
async def test_a_reason_that_no_homeserver_takes_is_refused_before_it_is_asked(tmp_path: Path, because: str) -> None:
    state = StateFolder(tmp_path / "state")
    state.save_login(Login("http://127.0.0.1:1", UserId("@alice:example.test"), "DEVICE", "token"))
    with pytest.raises(ClientError, match="the reason is not text in UTF-8") as caught:
        await request(Context(state, Report()), "build/web", for_time=None, because=because, wait=False)
    assert caught.value.code is Exit.USAGE


@pytest.mark.parametrize("typed", ["soon", "", "91d", "2", "2h because I say so", "-2h", "2h 3"])
async def test_what_is_no_time_is_said_in_the_words_of_the_command_line(tmp_path: Path, typed: str) -> None:
    """And nobody is called for it."""
    state = StateFolder(tmp_path)
    state.save_login(Login("http://127.0.0.1:1", UserId("@alice:example.test"), "DEVICE", "token"))
    asked = request(Context(state, Report()), "build/web", for_time=typed, because=None, wait=False)
    with pytest.raises(ClientError, match=r"--for .* is no time: write 30m, 2h or 3d, at most 90d") as caught:
        await asked
    assert caught.value.code is Exit.USAGE
