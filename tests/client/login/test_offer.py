"""What a homeserver offers, and what is taken of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.login.offer import Method, Offer, find_offer, read_user
from mxrtc_bridge.core.errors import HomeserverError, LoginError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.login.server import AUTHORIZATION_CODE, DEVICE_CODE, AuthorizationServer
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy
from tests.login.fakes import ALICE, FakeLoginServer, fake_login_server

POLICY = RequestPolicy(RetryPolicy(total_s=0), timeout_s=5)
AUTH = "https://auth.example.org/"
SERVER = AuthorizationServer(AUTH, f"{AUTH}token", f"{AUTH}register", f"{AUTH}authorize", f"{AUTH}device")


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeLoginServer]:
    async with fake_login_server() as server:
        yield server


def offer(*grants: str, flows: tuple[str, ...] = (), delegates: bool = True) -> Offer:
    found = replace(SERVER, grants=frozenset(grants)) if delegates else None
    return Offer(UserId(ALICE), "https://example.test", found, frozenset(flows))


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        (offer(AUTHORIZATION_CODE, DEVICE_CODE), [Method.CODE, Method.BROWSER]),
        (offer(AUTHORIZATION_CODE), [Method.BROWSER]),
        (offer(DEVICE_CODE), [Method.CODE]),
        (offer(DEVICE_CODE, flows=("m.login.password",)), [Method.CODE, Method.PASSWORD]),
        (offer(flows=("m.login.sso", "m.login.password", "x"), delegates=False), [Method.PASSWORD, Method.BROWSER]),
        (offer(flows=("m.login.sso",), delegates=False), [Method.BROWSER]),
    ],
)
def test_first_way_is_taken_and_others_on_demand(offered: Offer, taken: list[Method]) -> None:
    assert list(offered.methods) == taken
    assert offered.choose(None) is taken[0]
    for method in Method:
        if method in taken:
            assert offered.choose(method) is method
            continue
        with pytest.raises(ClientError, match=f"--by {taken[0].value}.*, and not '--by {method.value}'") as caught:
            offered.choose(method)
        assert caught.value.code is Exit.USAGE


@pytest.mark.parametrize("offered", [offer(), offer(flows=("m.login.x",), delegates=False)])
def test_without_a_way_that_is_known_there_is_the_token(offered: Offer) -> None:
    for wanted in (None, Method.CODE):
        with pytest.raises(ClientError, match=r"no way that mxrtc knows.*--token-file"):
            offered.choose(wanted)


async def test_homeserver_that_delegates_has_no_login_of_its_own(server: FakeLoginServer) -> None:
    found = await find_offer(UserId(ALICE), server.url, POLICY)
    assert found.server is not None
    assert (found.server.issuer, found.flows) == (f"{server.url}/", frozenset())
    assert [name for name, _ in server.asked] == ["auth_metadata", "versions", "flows"]


async def test_homeserver_that_delegates_may_have_the_logins_of_before_as_well(server: FakeLoginServer) -> None:
    server.logs_in_too = True
    found = await find_offer(UserId(ALICE), server.url, POLICY)
    assert (found.choose(None), found.choose(Method.PASSWORD)) == (Method.CODE, Method.PASSWORD)


@pytest.mark.parametrize("answer", [(500, "page"), (403, {"errcode": "M_UNRECOGNIZED"}), (200, [])])
async def test_what_else_there_is_does_without_the_logins_of_before(
    server: FakeLoginServer, answer: tuple[int, object]
) -> None:
    server.answers["flows"] = [answer]
    found = await find_offer(UserId(ALICE), server.url, POLICY)
    assert (found.server is not None, found.flows) == (True, frozenset())


async def test_homeserver_of_before_is_asked_what_it_does_itself(server: FakeLoginServer) -> None:
    server.delegates = False
    server.flows = ("m.login.sso", "m.login.password")
    found = await find_offer(UserId(ALICE), server.url, POLICY)
    assert (found.server, found.flows) == (None, {"m.login.sso", "m.login.password"})
    assert [name for name, _ in server.asked] == ["auth_metadata", "auth_metadata", "versions", "flows"]


@pytest.mark.parametrize("status", [400, 403, 404, 405])
async def test_homeserver_that_knows_the_name_of_before_is_heard(server: FakeLoginServer, status: int) -> None:
    server.answers["auth_metadata"] = [(status, {"errcode": "M_UNRECOGNIZED"})]
    assert (await find_offer(UserId(ALICE), server.url, POLICY)).server is not None


@pytest.mark.parametrize("status", [500, 503, 429])
async def test_homeserver_that_does_not_say_for_now_is_not_taken_for_one_of_before(
    server: FakeLoginServer, status: int
) -> None:
    server.answers["auth_metadata"] = [(status, {"errcode": "M_UNKNOWN"})]
    with pytest.raises(HomeserverError, match="could not ask how to log in") as caught:
        await find_offer(UserId(ALICE), server.url, POLICY)
    assert caught.value.retryable


@pytest.mark.parametrize("answer", [{}, {"issuer": "http://evil.test/"}])
async def test_authorization_server_that_cannot_be_trusted_is_none(server: FakeLoginServer, answer: object) -> None:
    server.answers["auth_metadata"] = [(200, answer)]
    with pytest.raises(LoginError):
        await find_offer(UserId(ALICE), server.url, POLICY)


async def test_homeserver_without_login_at_all_offers_nothing(server: FakeLoginServer) -> None:
    server.delegates = False
    server.answers["flows"] = [(404, {"errcode": "M_UNRECOGNIZED"})]
    assert (await find_offer(UserId(ALICE), server.url, POLICY)).methods == ()
    server.answers["flows"] = [(403, {"errcode": "M_FORBIDDEN"})]
    with pytest.raises(HomeserverError, match="403"):
        await find_offer(UserId(ALICE), server.url, POLICY)


def test_user_is_read_strictly() -> None:
    assert read_user("@alice:EXAMPLE.test") == ALICE
    with pytest.raises(ClientError, match="write it like"):
        read_user("alice")
