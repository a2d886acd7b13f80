"""Tokens are renewed in time, by one at a time, and written before they are used."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import pytest_asyncio

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.login.tokens import (
    AGAIN_S,
    REFUSED_S,
    SHORTEST_LIFE_S,
    StoredTokens,
    login_lock,
    renewal_of,
    tokens_of,
)
from mxrtc_bridge.client.state import Login, Renewal, StateFolder
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.login.answers import Tokens
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy, Transport
from tests.login.fakes import ALICE, FakeLoginServer, fake_login_server

POLICY = RequestPolicy(RetryPolicy(total_s=0), timeout_s=5)


@dataclass
class World:
    server: FakeLoginServer
    state: StateFolder
    now: float = 1000.0
    ahead: float = 0.0
    """By how much the clock that is never set is ahead of the other one."""

    @property
    def clock(self) -> float:
        return self.now + self.ahead

    @property
    def login(self) -> Login:
        renewal = Renewal(f"{self.server.url}/token", "", "client", "refresh-0", 1100.0, 1200.0)
        return Login(self.server.url, UserId(ALICE), "DEVICE", "access-0", renewal=renewal)

    def tokens(self) -> StoredTokens:
        login = self.state.load_login()
        return StoredTokens(self.state, login, wall=lambda: self.now, clock=lambda: self.clock, policy=POLICY)

    def refused(self, error: str, status: int = 400) -> None:
        self.server.answers.setdefault("token", []).append((status, {"error": error}))


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with fake_login_server() as server:
        world = World(server, StateFolder(tmp_path / "state"))
        world.state.save_login(world.login)
        yield world


async def test_token_is_renewed_when_it_is_due_and_not_before(world: World) -> None:
    tokens = world.tokens()
    world.now = 1099.9
    assert (await tokens.token(), world.server.asked) == ("access-0", [])
    world.now = 1100.0
    assert await tokens.token() == "access-1"
    assert world.server.said("token") == [
        {"grant_type": "refresh_token", "refresh_token": "refresh-0", "client_id": "client"}
    ]
    kept = world.state.load_login()
    assert kept == replace(
        world.login,
        access_token="access-1",
        renewal=Renewal(f"{world.server.url}/token", "", "client", "refresh-1", 1310.0, 1400.0),
    )
    assert (await tokens.token(), len(world.server.asked)) == ("access-1", 1)


async def test_of_many_one_renews_and_the_others_take_what_it_has_written(world: World) -> None:
    world.now = 1150.0
    several = [world.tokens() for _ in range(5)]
    found = await asyncio.gather(*(tokens.token() for tokens in several for _ in range(3)))
    assert (set(found), len(world.server.said("token"))) == ({"access-1"}, 1)


async def test_what_another_has_renewed_and_is_due_again_is_renewed_from_there(world: World) -> None:
    tokens = world.tokens()
    later = replace(world.login, access_token="other")
    assert later.renewal is not None
    world.state.save_login(replace(later, renewal=replace(later.renewal, refresh_token="refresh-other")))
    world.now = 1150.0
    assert await tokens.token() == "access-1"
    assert [form["refresh_token"] for form in world.server.said("token")] == ["refresh-other"]


async def test_server_that_is_away_is_asked_again_as_long_as_the_token_is_good(world: World) -> None:
    tokens = world.tokens()
    world.now = 1150.0
    world.refused("server_error", 503)
    assert await tokens.token() == "access-0"
    world.now += AGAIN_S - 1
    assert (await tokens.token(), len(world.server.asked)) == ("access-0", 1)
    world.now = 1200.0
    world.refused("server_error", 503)
    with pytest.raises(HomeserverError, match="503 server_error") as caught:
        await tokens.token()
    assert caught.value.retryable
    assert await tokens.token() == "access-1"


@pytest.mark.parametrize("error", ["invalid_grant", "invalid_client", "unauthorized_client"])
async def test_session_that_has_ended_is_the_end_of_the_login_and_of_nothing_else(world: World, error: str) -> None:
    world.now = 1150.0
    world.refused(error)
    (world.state.path / "crypto.db").touch(mode=0o600)
    with pytest.raises(HomeserverError, match=rf"has ended this session \({error}\)") as caught:
        await world.tokens().token()
    assert (caught.value.errcode, caught.value.retryable) == ("M_UNKNOWN_TOKEN", False)
    assert world.state.load_login() == world.login
    assert (world.state.path / "crypto.db").exists()


@pytest.mark.parametrize("answer", [{}, {"access_token": "x", "token_type": "mac"}, [], "x"])
async def test_answer_that_cannot_be_used_changes_nothing(world: World, answer: object) -> None:
    world.now = 1250.0
    world.server.answers["token"] = [(200, answer)]
    with pytest.raises(HomeserverError):
        await world.tokens().token()
    assert world.state.load_login() == world.login


async def test_new_tokens_are_written_before_anybody_uses_them(world: World) -> None:
    """And where they cannot be kept nothing is asked for, so that the old ones stay good."""
    world.now = 1250.0
    tokens = world.tokens()
    (world.state.path / "login.json.try").mkdir()
    (world.state.path / "login.json.try" / "x").touch()
    with pytest.raises(ClientError, match="cannot be written") as caught:
        await tokens.token()
    assert (caught.value.code, world.server.asked) == (Exit.LOCAL, [])


async def test_refresh_token_that_stays_is_kept(world: World) -> None:
    world.now = 1150.0
    world.server.answers["token"] = [(200, {"access_token": "new", "token_type": "bearer"})]
    assert await world.tokens().token() == "new"
    renewal = world.state.load_login().renewal
    assert renewal is not None
    assert (renewal.refresh_token, renewal.renew_at, renewal.expires_at) == ("refresh-0", 0.0, 0.0)


async def test_request_whose_token_is_refused_is_sent_once_more_with_another_one(world: World) -> None:
    async with Homeserver(Transport(world.server.url, world.tokens(), POLICY)) as homeserver:
        assert (await homeserver.whoami()).user_id == ALICE
        assert [name for name, _ in world.server.asked] == ["whoami", "token", "whoami"]
        # One that has worked and is refused later has come to its end, however soon that is.
        world.server.known.clear()
        assert (await homeserver.whoami()).user_id == ALICE
        assert len(world.server.said("token")) == 2


async def test_locked_account_is_told_as_that_and_gets_no_new_tokens_for_a_while(world: World) -> None:
    """It is given new ones for ever, and none of them is taken."""
    world.server.locked = True
    async with Homeserver(Transport(world.server.url, world.tokens(), POLICY)) as homeserver:
        for _ in range(3):
            with pytest.raises(HomeserverError, match="account is locked, or this device was removed") as caught:
                await homeserver.whoami()
            assert (caught.value.status, caught.value.retryable) == (401, False)
            # Both clocks may be set, this one not.
            world.now, world.ahead = world.now - 3600, world.ahead + 3600
        assert len(world.server.said("token")) == 1
        world.now += REFUSED_S
        world.server.locked = False
        assert (await homeserver.whoami()).user_id == ALICE
        assert len(world.server.said("token")) == 2


async def test_token_that_could_not_be_renewed_when_it_was_refused_is_renewed_the_next_time(world: World) -> None:
    async with Homeserver(Transport(world.server.url, world.tokens(), POLICY)) as homeserver:
        world.refused("server_error", 503)
        with pytest.raises(HomeserverError, match="503 server_error"):
            await homeserver.whoami()
        assert (await homeserver.whoami()).user_id == ALICE


async def test_token_is_used_as_long_as_it_is_good_where_a_new_one_could_not_be_kept(world: World) -> None:
    world.now = 1150.0
    tokens = world.tokens()
    (world.state.path / "login.json.try").mkdir()
    (world.state.path / "login.json.try" / "x").touch()
    assert (await tokens.token(), world.server.asked) == ("access-0", [])
    (world.state.path / "login.json.try" / "x").unlink()
    (world.state.path / "login.json.try").rmdir()
    world.now += AGAIN_S
    assert await tokens.token() == "access-1"


@pytest.mark.parametrize("seconds", [0.001, 1.0])
async def test_token_that_lives_for_a_moment_is_not_renewed_with_each_request(world: World, seconds: float) -> None:
    world.now, world.server.seconds = 1150.0, seconds
    tokens = world.tokens()
    assert await tokens.token() == "access-1"
    world.now += SHORTEST_LIFE_S / 2
    assert (await tokens.token(), len(world.server.asked)) == ("access-1", 1)


async def test_answer_that_is_lost_is_asked_for_again_with_the_same_refresh_token(world: World) -> None:
    """What some servers allow as long as the tokens in it were not used; with others nothing could help."""
    world.now = 1150.0
    tokens = world.tokens()
    world.server.lost = 1
    assert await tokens.token() == "access-0"
    world.now += AGAIN_S
    assert await tokens.token() == "access-2"
    assert [form["refresh_token"] for form in world.server.said("token")] == ["refresh-0", "refresh-0"]


async def test_lock_that_a_logout_has_removed_is_no_lock(world: World) -> None:
    """Whoever comes next makes a new one, and would not wait."""
    waiting: asyncio.Future[None]

    async def wait() -> None:
        async with login_lock(world.state):
            pass

    async with login_lock(world.state):
        waiting = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        world.state.forget_login()
    with pytest.raises(ClientError, match="has just logged out in this account") as caught:
        await waiting
    assert caught.value.code is Exit.RETRY


async def test_whoever_is_cancelled_does_not_lose_what_was_asked_for(world: World) -> None:
    world.now = 1150.0
    tokens = world.tokens()
    waiting = asyncio.ensure_future(tokens.token())
    while not world.server.said("token"):
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await tokens.close()
    assert world.state.load_login().access_token == "access-1"


async def test_login_of_somebody_else_in_the_same_folder_is_not_renewed(world: World) -> None:
    world.now = 1150.0
    tokens = world.tokens()
    world.state.save_login(replace(world.login, device_id="OTHER", access_token="other"))
    with pytest.raises(HomeserverError, match="somebody has logged in anew"):
        await tokens.token()
    assert world.server.asked == []


async def test_lock_that_another_keeps_is_waited_for_with_an_end(world: World) -> None:
    async with login_lock(world.state):
        with pytest.raises(ClientError, match="another mxrtc command is renewing") as caught:
            async with login_lock(world.state, wait_s=0.05):
                pass
    assert caught.value.code is Exit.RETRY
    async with login_lock(world.state, wait_s=0.05):
        pass
    (world.state.path / "login.lock").unlink()
    (world.state.path / "login.lock").symlink_to("/dev/null")
    with pytest.raises(ClientError, match="the login cannot be renewed") as caught:
        async with login_lock(world.state):
            pass
    assert caught.value.code is Exit.LOCAL


async def test_login_without_a_refresh_token_has_one_token(world: World) -> None:
    assert tokens_of(world.state, replace(world.login, renewal=None)) == "access-0"
    assert isinstance(tokens_of(world.state, world.login), StoredTokens)
    none = renewal_of(Tokens("x", "", 300.0), endpoint="e", revocation="", client_id="c", now=0.0)
    assert none is None


def test_what_renews_is_private_in_the_folder_and_in_no_text(world: World) -> None:
    path = world.state.path / "login.json"
    assert path.stat().st_mode & 0o777 == 0o600
    assert json.loads(path.read_text())["renewal"]["refresh_token"] == "refresh-0"
    assert "refresh-0" not in repr(world.login.renewal)
    assert "refresh-0" not in repr(world.login)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("token_endpoint", value) for value in (None, "", "http://evil.test/", "x", 1)),
        *(("revocation_endpoint", value) for value in ("http://evil.test/", "x", 1)),
        *(("client_id", value) for value in (None, "", 1)),
        *(("refresh_token", value) for value in (None, "", 1, "x" * 9000)),
        *(("renew_at", value) for value in (None, "x", -1, 1e300, True)),
    ],
)
def test_renewal_that_somebody_has_written_is_read_strictly(world: World, key: str, value: object) -> None:
    path = world.state.path / "login.json"
    login = json.loads(path.read_text())
    login["renewal"][key] = value
    path.write_text(json.dumps(login))
    with pytest.raises(ClientError, match="is damaged"):
        world.state.load_login()
    login["renewal"] = [7]
    path.write_text(json.dumps(login))
    with pytest.raises(ClientError, match="is damaged"):
        world.state.load_login()
