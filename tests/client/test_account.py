"""Login, logout and status, at a homeserver that says what the test wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import pytest_asyncio
from aiohttp import web

from mxrtc_bridge.client import account
from mxrtc_bridge.client.account import LoginOptions
from mxrtc_bridge.client.accounts import Accounts
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.login.offer import Method
from mxrtc_bridge.client.login.tokens import login_lock
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import Login, Renewal, StateFolder
from mxrtc_bridge.client.status_socket import serve_status
from mxrtc_bridge.core.ids import UserId
from tests.catch_all import answering
from tests.login.fakes import FakeLoginServer, fake_login_server
from tests.waiting import turns

ALICE = UserId("@alice:example.org")


@dataclass
class FakeHomeserver:
    url: str = ""
    errcode: str = ""
    asked: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path.rpartition("/")[2])
        if self.errcode:
            return web.json_response({"errcode": self.errcode, "error": "no"}, status=401)
        if request.path.endswith("/login"):
            self.names.append((await request.json())["identifier"]["user"])
        login = {"user_id": ALICE, "device_id": "LAPTOP", "access_token": "secret-token"}
        return web.json_response({"versions": ["v1.11"], **login})


@pytest_asyncio.fixture
async def homeserver_of_alice() -> AsyncIterator[FakeHomeserver]:
    server = FakeHomeserver()
    async with answering(server.answer) as server.url:
        yield server


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state")


def context(state: StateFolder) -> Context:
    """Made when the test runs, as a report keeps the standard output that it finds."""
    return Context(state, Report(as_json=True))


def log_in(state: StateFolder, url: str) -> None:
    state.save_login(Login(url, ALICE, "LAPTOP", "secret-token"))


def said(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


async def test_login_keeps_what_the_homeserver_gives(
    homeserver_of_alice: FakeHomeserver, state: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = "@alice:EXAMPLE.org"
    await account.login_by_password(context(state), LoginOptions(typed, homeserver_of_alice.url), "password")
    assert homeserver_of_alice.names == [ALICE]
    assert state.load_login() == Login(homeserver_of_alice.url, ALICE, "LAPTOP", "secret-token")
    (line,) = said(capsys)
    assert (line["user"], line["device"]) == (ALICE, "LAPTOP")
    assert "secret-token" not in str(line)


@pytest.mark.parametrize(("user", "password", "why"), [("alice", "x", "write it like"), (ALICE, "", "is empty")])
async def test_login_that_cannot_work_is_refused_before_anything_is_sent(
    homeserver_of_alice: FakeHomeserver, state: StateFolder, user: str, password: str, why: str
) -> None:
    with pytest.raises(ClientError, match=why) as caught:
        await account.login_by_password(context(state), LoginOptions(user, homeserver_of_alice.url), password)
    assert (caught.value.code, homeserver_of_alice.asked) == (Exit.USAGE, [])


async def test_logout_ends_the_login_at_both_ends(homeserver_of_alice: FakeHomeserver, state: StateFolder) -> None:
    log_in(state, homeserver_of_alice.url)
    await account.logout(context(state))
    assert homeserver_of_alice.asked == ["logout"]
    with pytest.raises(ClientError, match="mxrtc login"):
        state.load_login()


async def test_logout_forgets_the_token_also_where_the_homeserver_refuses(
    homeserver_of_alice: FakeHomeserver, state: StateFolder
) -> None:
    log_in(state, homeserver_of_alice.url)
    homeserver_of_alice.errcode = "M_FORBIDDEN"
    with pytest.raises(ClientError, match="remove the session LAPTOP in another client") as caught:
        await account.logout(context(state))
    assert caught.value.code is Exit.RETRY
    with pytest.raises(ClientError, match="mxrtc login"):
        state.load_login()


async def test_status_tells_the_login_and_that_nothing_runs(
    homeserver_of_alice: FakeHomeserver, state: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    log_in(state, homeserver_of_alice.url)
    await account.status(context(state))
    login, sessions = said(capsys)
    assert (login["user"], login["reachable"], sessions["running"]) == (ALICE, True, 0)


async def test_status_in_words_is_data_and_names_the_ports(
    homeserver_of_alice: FakeHomeserver, state: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    log_in(state, homeserver_of_alice.url)
    running = {"pid": 7, "peer": "build", "path": "direct", "streams": 1, "sent": 2, "received": 3}
    running["listening"] = ["127.0.0.1:2222", "[::1]:80"]
    async with serve_status(state, lambda: running):
        await account.status(Context(state, Report(quiet=True)))
    output = capsys.readouterr()
    assert output.out.splitlines() == [
        f"{ALICE} at {homeserver_of_alice.url}: the homeserver answers",
        "build (process 7): direct, 1 stream, 2 bytes sent, 3 received, listening on 127.0.0.1:2222, [::1]:80",
    ]
    assert output.err == ""


async def test_status_tells_what_runs_and_fails_where_the_login_is_no_more(
    homeserver_of_alice: FakeHomeserver, state: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    log_in(state, homeserver_of_alice.url)
    homeserver_of_alice.errcode = "M_UNKNOWN_TOKEN"
    running = {"pid": 7, "peer": "build", "path": "direct", "streams": 1, "sent": 2, "received": 3}
    async with serve_status(state, lambda: running):
        with pytest.raises(ClientError) as caught:
            await account.status(context(state))
    assert caught.value.code is Exit.USAGE
    login, session = said(capsys)
    assert (login["reachable"], session["peer"], session["sent"]) == (False, "build", 2)


@pytest.mark.parametrize(
    ("errcode", "words"),
    [("M_USER_LOCKED", "the account is locked; ask the administrator"), ("M_USER_DEACTIVATED", "has been deactivated")],
)
async def test_account_that_was_shut_is_told_as_that(
    homeserver_of_alice: FakeHomeserver, state: StateFolder, errcode: str, words: str
) -> None:
    log_in(state, homeserver_of_alice.url)
    homeserver_of_alice.errcode = errcode
    with pytest.raises(ClientError, match=words) as caught:
        await account.status(context(state))
    assert caught.value.code is Exit.USAGE


def accounts_of(state: StateFolder) -> Context:
    found = Accounts(state)
    return Context(found.folder(), Report(as_json=True), accounts=found)


async def test_accounts_are_listed_and_one_is_chosen(state: StateFolder, capsys: pytest.CaptureFixture[str]) -> None:
    log_in(state, "https://one.test")
    found = Accounts(state)
    found.folder("work").save_login(Login("https://two.test", UserId("@me:two.test"), "TWO", "secret-token"))
    (state.path / "accounts" / "work2").mkdir()
    (state.path / "accounts" / "work2" / "login.json").write_text("{")
    await account.accounts(accounts_of(state), None)
    lines = said(capsys)
    kept = [(each["name"], each["default"], each["user"], each["device"], each["homeserver"]) for each in lines]
    assert kept == [
        ("default", True, ALICE, "LAPTOP", "https://one.test"),
        ("work", False, "@me:two.test", "TWO", "https://two.test"),
        ("work2", False, None, None, None),
    ]
    assert "login.json" in str(lines[2]["problem"])
    assert "secret-token" not in str(lines)
    await account.accounts(accounts_of(state), "work")
    assert [each["default"] for each in said(capsys)] == [False, True, False]
    await account.accounts(Context(state, Report(), accounts=found), None)
    words = capsys.readouterr().out.splitlines()
    assert words[:2] == [f"  default\t{ALICE}\thttps://one.test", "* work\t@me:two.test\thttps://two.test"]


async def test_accounts_of_nobody_is_a_failure_that_says_how_to_log_in(state: StateFolder) -> None:
    with pytest.raises(ClientError, match="mxrtc login") as caught:
        await account.accounts(accounts_of(state), None)
    assert caught.value.code is Exit.USAGE


async def test_login_never_takes_the_place_of_somebody_else(
    homeserver_of_alice: FakeHomeserver, state: StateFolder
) -> None:
    log_in(state, homeserver_of_alice.url)
    with pytest.raises(ClientError, match="mxrtc --account NAME login") as caught:
        await account.login_by_password(context(state), LoginOptions("@bob:example.org", homeserver_of_alice.url), "pw")
    assert (caught.value.code, homeserver_of_alice.asked) == (Exit.USAGE, [])
    (state.path / "login.json").write_text("damaged")
    await account.login_by_password(context(state), LoginOptions(ALICE, homeserver_of_alice.url), "pw")
    assert state.load_login().user_id == ALICE


# Homeservers that delegate logins


@pytest_asyncio.fixture
async def delegating() -> AsyncIterator[FakeLoginServer]:
    async with fake_login_server() as server:
        yield server


ALICE_TEST = UserId("@alice:example.test")


async def test_login_goes_the_way_that_is_offered_and_logout_revokes(
    delegating: FakeLoginServer, state: StateFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    options = LoginOptions(ALICE_TEST, delegating.url, prefix="p_", bot="b")
    delegating.answers["device"] = [
        (200, {"device_code": "d", "user_code": "AB", "verification_uri": f"{delegating.url}/l", "interval": 0.01})
    ]
    offer, method = await account.find_offer(context(state), options)
    assert method is Method.CODE
    await account.login(context(state), options, offer, method)
    login = state.load_login()
    assert (login.user_id, login.access_token, login.prefix, login.bot) == (ALICE_TEST, "access-1", "p_", "b")
    assert login.renewal is not None
    assert login.renewal.revocation_endpoint == f"{delegating.url}/revoke?tenant=1"
    assert [line["kind"] for line in said(capsys)] == ["code", "login"]
    await account.logout(context(state))
    assert [form["token"] for form in delegating.said("revoke")] == ["refresh-1"]
    assert list(state.path.iterdir()) == []


async def test_logout_that_cannot_be_told_forgets_the_tokens_all_the_same(
    delegating: FakeLoginServer, state: StateFolder
) -> None:
    renewal = Renewal(f"{delegating.url}/token", f"{delegating.url}/revoke?tenant=1", "client", "refresh-0", 0.0, 0.0)
    state.save_login(Login(delegating.url, ALICE_TEST, "DEVICE", "access-0", renewal=renewal))
    delegating.answers["revoke"] = [(400, {"error": "invalid_client"})]
    with pytest.raises(ClientError, match="remove the session DEVICE in another client") as caught:
        await account.logout(context(state))
    assert caught.value.code is Exit.RETRY
    with pytest.raises(ClientError, match="nobody is logged in"):
        state.load_login()


async def test_login_of_somebody_else_is_ended_and_not_kept(delegating: FakeLoginServer, state: StateFolder) -> None:
    delegating.user = "@bob:example.test"
    delegating.answers["device"] = [
        (200, {"device_code": "d", "user_code": "AB", "verification_uri": f"{delegating.url}/l", "interval": 0.01})
    ]
    options = LoginOptions(ALICE_TEST, delegating.url)
    offer, method = await account.find_offer(context(state), options)
    with pytest.raises(ClientError, match=r"a login of @bob:example\.test, and not of @alice:example\.test"):
        await account.login(context(state), options, offer, method)
    assert len(delegating.said("revoke")) == 1
    assert not state.has_login()


async def test_login_that_is_refused_is_a_sentence(delegating: FakeLoginServer, state: StateFolder) -> None:
    delegating.answers["device"] = [
        (200, {"device_code": "d", "user_code": "AB", "verification_uri": f"{delegating.url}/l", "interval": 0.01})
    ]
    delegating.answers["token"] = [(403, {"error": "access_denied"})]
    options = LoginOptions(ALICE_TEST, delegating.url)
    offer, method = await account.find_offer(context(state), options)
    with pytest.raises(ClientError, match="was refused where the code was typed") as caught:
        await account.login(context(state), options, offer, method)
    assert caught.value.code is Exit.USAGE
    delegating.answers["auth_metadata"] = [(200, {})]
    with pytest.raises(ClientError, match="is no address"):
        await account.find_offer(context(state), options)


async def test_token_of_somebody_else_is_not_kept_and_goes_on(delegating: FakeLoginServer, state: StateFolder) -> None:
    """It was there before, and is not ours to end."""
    delegating.known = {"a-token"}
    delegating.user = "@bob:example.test"
    options = LoginOptions(ALICE_TEST, delegating.url)
    with pytest.raises(ClientError, match="and not of @alice"):
        await account.login_by_token(context(state), options, "a-token")
    assert (delegating.said("logout"), delegating.said("revoke"), state.has_login()) == ([], [], False)
    delegating.user = ALICE_TEST
    await account.login_by_token(context(state), options, "a-token")
    assert (state.load_login().access_token, state.load_login().renewal) == ("a-token", None)
    with pytest.raises(ClientError, match="holds no access token"):
        await account.login_by_token(context(state), options, "")


async def test_password_is_the_way_where_the_homeserver_offers_no_other(
    delegating: FakeLoginServer, state: StateFolder
) -> None:
    delegating.delegates = False
    options = LoginOptions(ALICE_TEST, delegating.url)
    offer, method = await account.find_offer(context(state), options)
    assert method is Method.PASSWORD
    await account.login(context(state), options, offer, method, "secret")
    assert delegating.said("login")[-1]["password"] == "secret"
    assert state.load_login().renewal is None


# What is left behind


async def log_in_by_code(server: FakeLoginServer, state: StateFolder) -> Login:
    server.answers["device"] = [
        (200, {"device_code": "d", "user_code": "AB", "verification_uri": f"{server.url}/l", "interval": 0.01})
    ]
    options = LoginOptions(ALICE_TEST, server.url)
    offer, method = await account.find_offer(context(state), options)
    await account.login(context(state), options, offer, method)
    return state.load_login()


async def test_device_is_named_when_the_login_is_kept(delegating: FakeLoginServer, state: StateFolder) -> None:
    """Until it is, whatever ends us leaves a session behind, and a name is worth no moment of that."""
    delegating.hold = "DEVICE"
    logging_in = asyncio.ensure_future(log_in_by_code(delegating, state))
    await asyncio.wait_for(delegating.holding.wait(), 10)
    assert state.load_login().access_token == "access-1"
    delegating.go_on.set()
    await logging_in
    assert delegating.said("DEVICE")[0]["display_name"].startswith("mxrtc on ")


async def test_session_whose_place_a_new_login_takes_is_ended(delegating: FakeLoginServer, state: StateFolder) -> None:
    renewal = Renewal(f"{delegating.url}/token", f"{delegating.url}/revoke?tenant=1", "client", "refresh-0", 0.0, 0.0)
    before = Login(delegating.url, ALICE_TEST, "BEFORE", "access-0", renewal=renewal)
    state.save_login(before)
    assert (await log_in_by_code(delegating, state)).access_token == "access-1"
    assert [form["token"] for form in delegating.said("revoke")] == ["refresh-0"]
    # One of another program is not ours to end, nor is the one that was just begun.
    for kept in (replace(before, from_elsewhere=True), replace(before, device_id="DEVICE")):
        state.save_login(kept)
        await log_in_by_code(delegating, state)
    assert len(delegating.said("revoke")) == 1


async def test_login_that_cannot_be_kept_is_ended(delegating: FakeLoginServer, state: StateFolder) -> None:
    delegating.hold = "whoami"
    logging_in = asyncio.ensure_future(log_in_by_code(delegating, state))
    await asyncio.wait_for(delegating.holding.wait(), 10)
    (state.path / "login.json").mkdir()
    delegating.go_on.set()
    with pytest.raises(ClientError):
        await logging_in
    assert [form["token"] for form in delegating.said("revoke")] == ["refresh-1"]


async def test_of_two_logins_at_once_the_one_that_is_not_kept_is_ended(
    delegating: FakeLoginServer, state: StateFolder
) -> None:
    delegating.hold = "whoami"
    first = asyncio.ensure_future(log_in_by_code(delegating, state))
    await asyncio.wait_for(delegating.holding.wait(), 10)
    # Meanwhile somebody else has logged in here.
    state.save_login(Login(delegating.url, UserId("@bob:example.test"), "BOB", "bobs"))
    delegating.go_on.set()
    with pytest.raises(ClientError, match=r"@bob:example\.test is logged in here"):
        await first
    assert [form["token"] for form in delegating.said("revoke")] == ["refresh-1"]
    assert state.load_login().device_id == "BOB"


async def test_login_waits_for_a_renewal_which_would_be_written_over_it(
    delegating: FakeLoginServer, state: StateFolder
) -> None:
    async with login_lock(state):
        logging_in = asyncio.ensure_future(log_in_by_code(delegating, state))
        while "whoami" not in [name for name, _ in delegating.asked]:
            await asyncio.sleep(0)
        await turns(300)
        assert not state.has_login()
        state.save_login(Login(delegating.url, ALICE_TEST, "BEFORE", "renewed", from_elsewhere=True))
    assert (await logging_in).access_token == "access-1"


async def test_logout_waits_for_a_login_that_is_being_kept(
    homeserver_of_alice: FakeHomeserver, state: StateFolder
) -> None:
    log_in(state, homeserver_of_alice.url)
    async with login_lock(state):
        leaving = asyncio.ensure_future(account.logout(context(state)))
        await turns(300)
        assert homeserver_of_alice.asked == []
        state.save_login(Login(homeserver_of_alice.url, ALICE, "NEW", "new-token"))
    await leaving
    assert homeserver_of_alice.asked == ["logout"]
    assert not state.has_login()


async def test_logout_that_the_homeserver_knows_nothing_of_says_so(
    delegating: FakeLoginServer, state: StateFolder
) -> None:
    """A revocation is answered as if all were well whatever becomes of it."""
    await log_in_by_code(delegating, state)
    delegating.answers["revoke"] = [(200, {})]
    with pytest.raises(ClientError, match="the homeserver still takes it; remove the session DEVICE") as caught:
        await account.logout(context(state), pauses_s=(0.0,))
    assert caught.value.code is Exit.RETRY
    assert not state.has_login()
