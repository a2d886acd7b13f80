"""Requests to an authorization server: never repeated where a second one could be taken for a theft."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from mxrtc_bridge.core.errors import HomeserverError, LoginError
from mxrtc_bridge.core.login.server import AuthorizationServer
from mxrtc_bridge.matrix.api import oauth
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy
from tests.login.fakes import FakeLoginServer, fake_login_server

PATIENT = RequestPolicy(RetryPolicy(total_s=5, first_s=0.01), timeout_s=5)
REGISTER = {"name": "mxrtc", "uri": "https://example.org/", "redirect": "http://127.0.0.1/callback"}


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeLoginServer]:
    async with fake_login_server() as server:
        yield server


async def found(server: FakeLoginServer) -> AuthorizationServer:
    found = await oauth.authorization_server(server.url, PATIENT)
    assert found is not None
    return found


async def test_code_and_refresh_token_are_sent_once_whatever_is_answered(server: FakeLoginServer) -> None:
    server.answers["token"] = [(503, {"error": "temporarily_unavailable"})] * 3
    with pytest.raises(HomeserverError, match="could not get a token from 127") as caught:
        await oauth.ask_tokens(f"{server.url}/token", {"code": "c"}, scope="", policy=PATIENT)
    assert (caught.value.retryable, len(server.said("token"))) == (True, 1)


async def test_rate_limit_is_waited_for_as_nothing_has_happened(server: FakeLoginServer) -> None:
    server.answers["token"] = [(429, {"error": "slow_down"})]
    tokens = await oauth.ask_tokens(f"{server.url}/token", {"code": "c"}, scope="", policy=PATIENT)
    assert (tokens.access_token, len(server.said("token"))) == ("access-1", 2)


async def test_revocation_is_repeated_until_it_is_done(server: FakeLoginServer) -> None:
    server.answers["revoke"] = [(503, "away")]
    await oauth.revoke(f"{server.url}/revoke?tenant=1", client_id="c", refresh_token="r", policy=PATIENT)
    assert server.said("revoke") == [{"client_id": "c", "token": "r", "token_type_hint": "refresh_token"}] * 2


async def test_error_of_the_server_is_its_own_word(server: FakeLoginServer) -> None:
    server.answers["token"] = [(400, {"error": "invalid_grant", "error_description": "gone\x1b"})]
    with pytest.raises(HomeserverError, match="400 invalid_grant: gone\ufffd") as caught:
        await oauth.ask_tokens(f"{server.url}/token", {"code": "c"}, scope="", policy=PATIENT)
    assert caught.value.errcode == "invalid_grant"


@pytest.mark.parametrize(
    ("changes", "grants", "redirects"),
    [
        ({}, ["urn:ietf:params:oauth:grant-type:device_code", "authorization_code", "refresh_token"], True),
        ({"authorization_endpoint": ""}, ["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"], False),
        ({"device_endpoint": ""}, ["authorization_code", "refresh_token"], True),
    ],
)
async def test_program_registers_for_what_the_server_offers(
    server: FakeLoginServer, changes: dict[str, str], grants: list[str], redirects: bool
) -> None:
    offered = replace(await found(server), **changes)  # type: ignore[arg-type]
    assert await oauth.register(offered, **REGISTER, policy=PATIENT) == "client"
    (sent,) = server.said("register")
    assert (sent["grant_types"], "redirect_uris" in sent, sent["response_types"]) == (
        grants,
        redirects,
        ["code"] if redirects else [],
    )


async def test_server_that_redirects_is_not_followed_with_what_is_secret(server: FakeLoginServer) -> None:
    server.answers["token"] = [(307, {})]
    with pytest.raises(HomeserverError, match="307"):
        await oauth.ask_tokens(f"{server.url}/token", {"code": "c"}, scope="", policy=PATIENT)
    assert len(server.said("token")) == 1


async def test_answer_that_cannot_be_used_is_the_servers_fault(server: FakeLoginServer) -> None:
    server.answers["token"] = [(200, {"access_token": "x" * (oauth.MAX_ANSWER_BYTES + 1)})]
    with pytest.raises(HomeserverError, match="is longer than"):
        await oauth.ask_tokens(f"{server.url}/token", {"code": "c"}, scope="", policy=PATIENT)
    server.answers["device"] = [(200, {"user_code": "x"})]
    with pytest.raises(LoginError, match="no device_code"):
        await oauth.ask_device_code(await found(server), client_id="c", scope="s", policy=PATIENT)
