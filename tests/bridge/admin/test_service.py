"""What admins do with the running bridge, with sessions that only remember what became of them."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mxrtc_bridge.bridge.admin.service import AdminService
from mxrtc_bridge.core.ids import LocalAdmin, UserId

ADMIN = LocalAdmin("root")
EVE = UserId("@eve:example.org")


class Sessions:
    """Live sessions, by their numbers."""

    def __init__(self, *users: UserId) -> None:
        self.live = [SimpleNamespace(number=number, remote=user) for number, user in enumerate(users, 1)]

    def end_sessions(self, chosen: Callable[[Any], bool], _message: str) -> int:
        before = len(self.live)
        self.live = [session for session in self.live if not chosen(session)]
        return before - len(self.live)


def service(sessions: Sessions) -> AdminService:
    audited = SimpleNamespace(acted=lambda *_args, **_more: None)
    unused = cast(Any, None)
    return AdminService(
        unused,
        cast(Any, SimpleNamespace(live=sessions)),
        audited=cast(Any, audited),
        reload=unused,
        monotonic=lambda: 0.0,
    )


@pytest.mark.parametrize("said", ["@eve:example.org", "@eve:Example.ORG"])
def test_kick_finds_a_user_however_the_server_is_written(said: str) -> None:
    sessions = Sessions(EVE, UserId("@eve:EXAMPLE.org"), UserId("@Eve:example.org"), UserId("@eve:example.org.test"))
    assert service(sessions).kick(ADMIN, user=UserId(said)) == 2
    assert [session.number for session in sessions.live] == [3, 4]


def test_kick_by_a_number_ends_that_session_only() -> None:
    sessions = Sessions(EVE, EVE)
    assert service(sessions).kick(ADMIN, number=2) == 1
    assert [session.number for session in sessions.live] == [1]
