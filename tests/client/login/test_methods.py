"""Each way to log in, at servers that say what the test wants."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import replace
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import pytest_asyncio

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.login import methods
from mxrtc_bridge.client.login.methods import LoggedIn, Means, usual_browser
from mxrtc_bridge.client.login.offer import find_offer
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login
from mxrtc_bridge.core.errors import HomeserverError, LoginError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.login.redirect import challenge_of
from mxrtc_bridge.matrix.api.login import Account
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy
from tests.login.fakes import ALICE, FakeLoginServer, fake_login_server

POLICY = RequestPolicy(RetryPolicy(total_s=0), timeout_s=5)


class Person:
    """Has a clock of their own, and a browser that does what they want."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.opened: list[str] = []
        self.brings: dict[str, str] | None = {"code": "the-code"}

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds

    def open(self, address: str) -> None:
        self.opened.append(address)
        if self.brings is not None:
            asked = parse_qs(urlsplit(address).query)
            back = asked["redirectUrl"][0] if "redirectUrl" in asked else f"{asked['redirect_uri'][0]}?"
            fields = {**({} if "redirectUrl" in asked else {"state": asked["state"][0]}), **self.brings}
            with urllib.request.urlopen(
                f"{back}{'&' if '?' in back[:-1] else ''}{urlencode(fields)}", timeout=5
            ) as page:
                page.read()

    def means(self, **changes: object) -> Means:
        made = Means(Report(as_json=True), POLICY, self.open, self.sleep, lambda: self.now)
        return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def person() -> Person:
    return Person()


@pytest_asyncio.fixture
async def server() -> AsyncIterator[FakeLoginServer]:
    async with fake_login_server() as server:
        yield server


async def log_in(server: FakeLoginServer, way: str, means: Means) -> LoggedIn:
    offer = await find_offer(UserId(ALICE), server.url, POLICY)
    assert offer.server is not None
    return await getattr(methods, way)(offer, offer.server, means)  # type: ignore[no-any-return]


async def test_code_is_shown_and_asked_for_until_it_was_typed(
    server: FakeLoginServer, person: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers["token"] = [
        (403, {"error": "authorization_pending"}),
        (503, "away"),
        (429, {"error": "slow_down"}),
        (400, {"error": "authorization_pending"}),
    ]
    made = await log_in(server, "by_code", person.means())
    assert person.slept == [5.0, 5.0, 5.0, 10.0, 10.0]
    (shown,) = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert (shown["kind"], shown["code"], shown["address"]) == ("code", "AB-CD", f"{server.url}/link")
    assert "devicecode" not in str(shown)
    (registered,) = server.said("register")
    assert registered["redirect_uris"] == ["http://127.0.0.1/callback"]
    assert (registered["application_type"], registered["token_endpoint_auth_method"]) == ("native", "none")
    (asked,) = server.said("device")
    device = asked["scope"].removeprefix("urn:matrix:client:api:* urn:matrix:client:device:")
    assert (asked["client_id"], len(device) >= 10, device.isalnum()) == ("client", True, True)
    assert server.said("token")[-1]["device_code"] == "devicecode"
    assert (made.account.user_id, made.token) == (ALICE, "access-1")
    assert made.renewal is not None
    assert (made.renewal.refresh_token, made.renewal.client_id) == ("refresh-1", "client")
    # Its name comes last, when the login is kept.
    assert server.said("DEVICE") == []
    await methods.name_device(made, POLICY)
    assert server.said("DEVICE")[0]["display_name"].startswith("mxrtc on ")


@pytest.mark.parametrize(
    ("answers", "why"),
    [
        ([(403, {"error": "access_denied"})], "was refused where the code was typed"),
        ([(400, {"error": "expired_token"})], "the code has expired"),
        ([(403, {"error": "authorization_pending"})] * 99, "the code has expired"),
        ([(400, {"error": "invalid_scope"})], "does not let us log in: invalid_scope"),
        ([(400, "page")], "does not let us log in: could not get a token"),
        ([(503, "away")] * 99, "the code has expired"),
    ],
)
async def test_code_that_leads_to_nothing_ends_in_time(
    server: FakeLoginServer, person: Person, answers: list[tuple[int, object]], why: str
) -> None:
    server.answers["token"] = answers
    if why.startswith("does not let us log in: could"):
        # Without a word of OAuth it is a page of whatever stands before the server: the code stays good.
        why = "the code has expired"
        server.answers["token"] = answers * 99
    with pytest.raises(LoginError, match=why):
        await log_in(server, "by_code", person.means())
    assert person.now <= 65


async def test_browser_brings_a_code_that_only_we_can_use(server: FakeLoginServer, person: Person) -> None:
    made = await log_in(server, "by_browser", person.means())
    (address,) = person.opened
    asked = {key: values[0] for key, values in parse_qs(urlsplit(address).query).items()}
    (form,) = server.said("token")
    assert form["code"] == "the-code"
    assert form["redirect_uri"] == asked["redirect_uri"]
    assert asked["redirect_uri"].startswith("http://127.0.0.1:")
    assert challenge_of(form["code_verifier"]) == asked["code_challenge"]
    assert form["code_verifier"] not in address
    assert made.renewal is not None


async def test_browser_that_refuses_says_so(server: FakeLoginServer, person: Person) -> None:
    person.brings = {"error": "access_denied"}
    with pytest.raises(LoginError, match="refused in the browser"):
        await log_in(server, "by_browser", person.means())
    assert server.said("token") == []


async def test_browser_that_brings_nothing_is_waited_for_with_an_end(server: FakeLoginServer, person: Person) -> None:
    person.brings = None
    with pytest.raises(LoginError, match="nobody has logged in within"):
        await log_in(server, "by_browser", person.means(browser_s=0.05))


async def test_person_without_a_browser_here_is_told_the_address(
    server: FakeLoginServer, person: Person, capsys: pytest.CaptureFixture[str]
) -> None:
    logging_in = asyncio.ensure_future(log_in(server, "by_browser", person.means(open_browser=None)))
    text = ""
    while "browser" not in text:
        await asyncio.sleep(0)
        text += capsys.readouterr().out
    await asyncio.to_thread(person.open, json.loads(text)["address"])
    assert (await logging_in).token == "access-1"


async def test_browser_that_stays_open_holds_up_nothing(server: FakeLoginServer, person: Person) -> None:
    closed = threading.Event()

    def open_and_stay(address: str) -> None:
        person.open(address)
        closed.wait(10)

    made = await log_in(server, "by_browser", person.means(open_browser=open_and_stay))
    closed.set()
    assert made.token == "access-1"


async def test_single_sign_on_brings_a_token_that_is_exchanged(server: FakeLoginServer, person: Person) -> None:
    person.brings = {"loginToken": "login-token"}
    made = await methods.by_sso(server.url, person.means())
    assert server.said("login") == [
        {"type": "m.login.token", "token": "login-token", "initial_device_display_name": methods.device_name()}
    ]
    assert (made.token, made.renewal, made.account.device_id) == ("legacy", None, "DEVICE")


async def test_server_that_gives_no_device_gives_no_login(server: FakeLoginServer, person: Person) -> None:
    server.answers["whoami"] = [(200, {"user_id": ALICE})]
    with pytest.raises(HomeserverError, match="has no device"):
        await methods.by_token(server.url, "token", person.means())


async def test_device_whose_name_cannot_be_given_is_one_all_the_same(server: FakeLoginServer, person: Person) -> None:
    server.answers["DEVICE"] = [(403, {"errcode": "M_FORBIDDEN"})]
    await methods.name_device(await log_in(server, "by_code", person.means()), POLICY)
    assert len(server.said("DEVICE")) == 1


async def test_device_of_another_program_keeps_its_name(server: FakeLoginServer, person: Person) -> None:
    server.known = {"a-token"}
    made = await methods.by_token(server.url, "a-token", person.means())
    await methods.name_device(made, POLICY)
    assert (made.from_elsewhere, server.said("DEVICE")) == (True, [])


def revoked(server: FakeLoginServer) -> list[str]:
    return [form["token"] for form in server.said("revoke")]


@pytest.mark.parametrize("answer", [(401, {"errcode": "M_UNKNOWN_TOKEN"}), (503, "away"), (200, {"user_id": ALICE})])
async def test_session_whose_owner_is_not_known_is_ended(
    server: FakeLoginServer, person: Person, answer: tuple[int, object]
) -> None:
    server.answers["whoami"] = [answer]
    with pytest.raises(HomeserverError):
        await log_in(server, "by_code", person.means())
    assert revoked(server) == ["refresh-1"]


@pytest.mark.parametrize(("way", "at"), [("by_code", "token"), ("by_browser", "token"), ("by_code", "whoami")])
async def test_session_that_is_begun_while_somebody_presses_ctrl_c_is_ended(
    server: FakeLoginServer, person: Person, way: str, at: str
) -> None:
    """What is on its way cannot be called back, and nobody would know of it."""
    server.hold = at
    logging_in = asyncio.ensure_future(log_in(server, way, person.means()))
    await asyncio.wait_for(server.holding.wait(), 10)
    logging_in.cancel()
    server.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await logging_in
    assert revoked(server) == ["refresh-1"]


async def test_login_of_before_that_somebody_interrupts_is_ended(server: FakeLoginServer, person: Person) -> None:
    server.delegates, server.hold = False, "login"
    logging_in = asyncio.ensure_future(methods.by_password(server.url, ALICE, "secret", person.means()))
    await asyncio.wait_for(server.holding.wait(), 10)
    logging_in.cancel()
    server.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await logging_in
    assert (len(server.said("logout")), server.known) == (1, set())


async def test_session_goes_on_until_the_homeserver_says_otherwise(server: FakeLoginServer, person: Person) -> None:
    made = await log_in(server, "by_code", person.means())
    login = Login(server.url, UserId(ALICE), "DEVICE", made.token, renewal=made.renewal)
    person.slept.clear()
    assert await methods.goes_on(login, POLICY, sleep=person.sleep)
    assert person.slept == list(methods.ENDED_AFTER_S)
    person.slept.clear()
    server.answers["whoami"] = [(200, {"user_id": ALICE, "device_id": "DEVICE"})]
    server.known.clear()
    assert not await methods.goes_on(login, POLICY, sleep=person.sleep)
    assert person.slept == list(methods.ENDED_AFTER_S[:2])
    # What is away says nothing; and nothing is renewed to learn it.
    server.answers["whoami"] = [(503, "away")]
    assert not await methods.goes_on(login, POLICY, sleep=person.sleep)
    assert len(server.said("token")) == 1


def test_login_shows_its_token_to_nobody() -> None:
    made = LoggedIn(Account("https://example.test", UserId(ALICE), "DEVICE", "secret-token"), "secret-token")
    assert "secret-token" not in repr(made)


async def test_session_that_is_not_kept_is_ended_where_it_began(server: FakeLoginServer, person: Person) -> None:
    made = await log_in(server, "by_code", person.means())
    await methods.end_session(made, POLICY)
    assert server.said("revoke") == [{"client_id": "client", "token": "refresh-1", "token_type_hint": "refresh_token"}]
    await methods.end_session(replace(made, renewal=None), POLICY)
    assert len(server.said("logout")) == 1
    assert made.renewal is not None
    with pytest.raises(HomeserverError, match="no way to end a session"):
        await methods.revoke(replace(made.renewal, revocation_endpoint=""), POLICY)


async def test_machine_without_a_port_says_what_else_there_is(
    server: FakeLoginServer, person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(asyncio, "start_server", none)
    with pytest.raises(ClientError, match="take '--by code'") as caught:
        await methods.by_sso(server.url, person.means())
    assert caught.value.code is Exit.LOCAL


@pytest.mark.parametrize(
    ("name", "there"), [("BROWSER", True), ("DISPLAY", True), ("WAYLAND_DISPLAY", True), ("X", False)]
)
def test_browser_is_opened_only_where_it_is_seen(monkeypatch: pytest.MonkeyPatch, name: str, there: bool) -> None:
    for each in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(each, raising=False)
    monkeypatch.setenv(name, "x")
    assert (usual_browser() is not None) is there
