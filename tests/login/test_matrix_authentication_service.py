"""``mxrtc login`` as it is typed, where a real matrix-authentication-service has people log in.

The user is found by ``.well-known`` and everything goes by TLS. Long, as the service takes minutes to be built.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
import ssl
import stat
import sys
import urllib.error
import urllib.request
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import pytest_asyncio

from mxrtc_bridge.demo.processes import ManagedProcess
from tests.login import person
from tests.login.mas import PASSWORD, TOKENS_S, AccountService, account_service
from tests.login.person import Person
from tests.long import LONG
from tests.other_user import needs_root
from tests.waiting import until

# The port of .well-known is that of https, and only root may listen there.
pytestmark = [pytest.mark.real, needs_root, pytest.mark.timeout(600)]

BIN = Path(sys.executable).parent
WHOAMI = "/_matrix/client/v3/account/whoami"
NUMBERS = itertools.count(1)
TYPED = r"open (\S+) in any browser and type this code: (\S+)"
END_SESSION = "mutation ($id: ID!) { endOauth2Session(input: {oauth2SessionId: $id}) { status } }"


@dataclass
class Alice:
    """In front of a terminal, with a browser at hand."""

    folder: Path
    service: AccountService
    person: Person
    runs: int = 0

    @property
    def user(self) -> str:
        return f"@{self.person.name}:{self.service.front.server}"

    @property
    def path(self) -> Path:
        return self.folder / "state" / "login.json"

    @property
    def kept(self) -> dict[str, Any]:
        assert stat.S_IMODE(self.path.stat().st_mode) == 0o600
        found: dict[str, Any] = json.loads(self.path.read_text())
        return found

    def mxrtc(self, *words: str, stdin: bytes = b"", browser: bool = False) -> ManagedProcess:
        self.runs += 1
        env = {
            "MXRTC_STATE": str(self.folder / "state"),
            "MXRTC_INTERFACES": "lo",
            "SSL_CERT_FILE": str(self.service.front.certificate),
            "BROWSER": f"{sys.executable} {person.__file__} %s" if browser else "",
            "DISPLAY": "",
            person.WHO: self.person.name,
            person.PASSWORD: PASSWORD,
        }
        return ManagedProcess(f"mxrtc-{self.runs}", [BIN / "mxrtc", *words], folder=self.folder, env=env, stdin=stdin)

    async def run(self, *words: str, **options: Any) -> tuple[int, str]:
        async with self.mxrtc(*words, **options) as process:
            code = await process.wait(90)
            return code, process.output("stdout").decode() + process.output("stderr").decode()

    async def log_in(self) -> dict[str, Any]:
        """By a code that she types elsewhere."""
        async with self.mxrtc("login", self.user) as process:
            address, code = (await process.wait_for_line(TYPED, 60)).groups()
            await asyncio.to_thread(self.person.type_code, address, code)
            assert await process.wait(60) == 0, self.said()
        return self.kept

    def change(self, **changes: object) -> None:
        """Write something else into what is kept of how the token is renewed."""
        login = self.kept
        login["renewal"] |= changes
        self.path.write_text(json.dumps(login))

    def owner(self, token: str) -> tuple[int, dict[str, Any]]:
        """Whom the homeserver takes the one for who has a token."""
        request = urllib.request.Request(
            f"{self.service.front.matrix}{WHOAMI}", headers={"Authorization": f"Bearer {token}"}
        )
        context = ssl.create_default_context(cafile=str(self.service.front.certificate))
        try:
            with urllib.request.urlopen(request, timeout=30, context=context) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read())

    async def sessions(self) -> list[str]:
        return await self.service.sessions(self.person.name)

    def is_out(self, token: str) -> bool:
        return self.owner(token)[1].get("errcode") == "M_UNKNOWN_TOKEN"

    def said(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("mxrtc-*.std*")))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AccountService]:
    async with account_service(tmp_path_factory.mktemp("service")) as service:
        yield service


@pytest.fixture
async def alice(tmp_path: Path, service: AccountService, monkeypatch: pytest.MonkeyPatch) -> Alice:
    # For the browser, which is a part of the test.
    monkeypatch.setenv("SSL_CERT_FILE", str(service.front.certificate))
    return Alice(tmp_path, service, await service.make_user(f"alice{next(NUMBERS)}"))


if LONG:

    async def test_code_logs_in_is_renewed_by_one_of_many_and_ends_everywhere(alice: Alice) -> None:
        first = await alice.log_in()
        assert first["homeserver"] == alice.service.front.matrix, "by .well-known"
        status, owner = alice.owner(first["access_token"])
        assert (status, owner["user_id"], owner["device_id"]) == (200, alice.user, first["device_id"])
        (device,) = (
            await alice.service.homeserver.request("GET", "/_matrix/client/v3/devices", token=first["access_token"])
        )["devices"]
        assert device["display_name"].startswith("mxrtc on ")
        # The device shows its keys, for which nobody has to agree to anything.
        code, said = await alice.run("devices")
        assert (code, first["device_id"] in said) == (0, True), said
        alice.change(renew_at=1.0)
        answers = await asyncio.gather(*(alice.run("status") for _ in range(4)))
        assert [code for code, _ in answers] == [0] * 4, answers
        second = alice.kept
        assert second["access_token"] != first["access_token"]
        assert second["renewal"]["refresh_token"] != first["renewal"]["refresh_token"]
        assert len(await alice.sessions()) == 1
        code, said = await alice.run("logout")
        assert (code, f"logged out {alice.user}" in said) == (0, True), said
        assert alice.is_out(second["access_token"])
        assert await alice.sessions() == []
        assert not [path.name for path in alice.path.parent.iterdir() if path.name.startswith("login")]
        secrets = [each[key] for each in (first, second) for key in ("access_token",)]
        secrets += [each["renewal"]["refresh_token"] for each in (first, second)]
        assert not [secret for secret in secrets if secret in alice.said()]

    async def test_code_that_is_refused_logs_nobody_in(alice: Alice) -> None:
        async with alice.mxrtc("login", alice.user) as process:
            address, code = (await process.wait_for_line(TYPED, 60)).groups()
            await asyncio.to_thread(alice.person.type_code, address, code, allow=False)
            assert await process.wait(60) == 2
        assert "login was refused where the code was typed" in alice.said()
        assert (alice.path.exists(), await alice.sessions()) == (False, [])

    async def test_login_that_is_interrupted_leaves_nothing_behind(alice: Alice) -> None:
        async with alice.mxrtc("login", alice.user) as process:
            address, code = (await process.wait_for_line(TYPED, 60)).groups()
            process.send_signal(signal.SIGINT)
            assert await process.wait(10) == 130
        await asyncio.to_thread(alice.person.type_code, address, code)
        assert (alice.path.exists(), await alice.sessions()) == (False, [])

    async def test_browser_logs_in_with_a_code_that_is_of_use_to_nobody_else(alice: Alice) -> None:
        code, said = await alice.run("login", alice.user, "--by", "browser", browser=True)
        assert (code, "code_challenge_method=S256" in said) == (0, True), said
        login = alice.kept
        assert alice.owner(login["access_token"])[1]["device_id"] == login["device_id"]
        assert login["access_token"] not in alice.said()
        assert (await alice.run("logout"))[0] == 0

    @pytest.mark.parametrize("words", [("--by", "password"), ("--password-file", "-")])
    async def test_password_logs_in_where_the_service_takes_programs_of_before(
        alice: Alice, words: tuple[str, ...]
    ) -> None:
        code, said = await alice.run("login", alice.user, *words, stdin=f"{PASSWORD}\n".encode())
        assert code == 0, said
        login = alice.kept
        assert (login["renewal"], alice.owner(login["access_token"])[0]) == (None, 200)
        assert (await alice.run("status"))[0] == 0
        assert (await alice.run("logout"))[0] == 0
        # The service tells the homeserver a moment later.
        await until(lambda: alice.is_out(login["access_token"]), 30)

    async def test_wrong_password_is_told_as_that(alice: Alice) -> None:
        code, said = await alice.run("login", alice.user, "--by", "password", stdin=b"wrong\n")
        assert (code, "does not accept this user and password" in said) == (2, True), said

    async def test_token_that_has_come_to_its_end_is_renewed_when_it_is_refused(alice: Alice) -> None:
        """As with a clock that is wrong: nothing says here that it is due."""
        login = await alice.log_in()
        alice.change(renew_at=9e11, expires_at=9e11)
        assert not alice.is_out(login["access_token"])
        await until(lambda: alice.is_out(login["access_token"]), TOKENS_S + 60)
        code, said = await alice.run("status")
        assert code == 0, said
        assert alice.kept["access_token"] != login["access_token"]

    async def test_renewal_whose_answer_is_lost_is_no_end(alice: Alice) -> None:
        login = await alice.log_in()
        renewal = login["renewal"]
        form = {"grant_type": "refresh_token", "refresh_token": renewal["refresh_token"]}
        body = urlencode({**form, "client_id": renewal["client_id"]}).encode()

        def ask() -> bytes:
            found: bytes = urllib.request.urlopen(f"{alice.service.inside}/oauth2/token", body, timeout=30).read()
            return found

        lost = json.loads(await asyncio.to_thread(ask))
        alice.change(renew_at=1.0)
        code, said = await alice.run("status")
        assert code == 0, said
        assert alice.kept["access_token"] not in (login["access_token"], lost["access_token"])

    async def test_session_that_is_ended_at_the_account_page_says_to_log_in_again(alice: Alice) -> None:
        login = await alice.log_in()
        (code, said) = await alice.run("devices")
        assert code == 0, said
        (session,) = await alice.sessions()
        address = f"{alice.service.front.account}/graphql"
        ended = await asyncio.to_thread(alice.person.ask, address, END_SESSION, id=f"oauth2_session:{session}")
        assert ended["endOauth2Session"]["status"] == "ENDED"
        await until(lambda: alice.is_out(login["access_token"]), 10)
        code, said = await alice.run("status")
        assert (code, "log in again with 'mxrtc login'" in said) == (2, True), said
        assert alice.kept["access_token"] == login["access_token"]
        assert (alice.path.parent / "crypto.db").exists(), "what it knows of others stays"
        again = await alice.log_in()
        assert (await alice.run("devices"))[0] == 0
        assert again["device_id"] != login["device_id"]

    async def test_account_that_is_locked_is_told_as_that_and_works_again_later(alice: Alice) -> None:
        await alice.log_in()
        user = await alice.service.id_of(alice.person.name)
        await alice.service.admin("POST", f"/users/{user}/lock")
        # The homeserver remembers for two minutes that the token was good; a new one it does not know yet.
        alice.change(renew_at=1.0)
        code, said = await alice.run("status")
        assert (code, "the account is locked, or this device was removed" in said) == (2, True), said
        await alice.service.admin("POST", f"/users/{user}/unlock")
        code, said = await alice.run("status")
        assert code == 0, said

    async def test_second_login_takes_the_place_of_the_first_at_the_service_too(alice: Alice) -> None:
        first = await alice.log_in()
        second = await alice.log_in()
        assert first["device_id"] != second["device_id"]
        assert len(await alice.sessions()) == 1
        assert (alice.is_out(first["access_token"]), alice.is_out(second["access_token"])) == (True, False)

    async def test_service_that_is_away_ends_nothing(alice: Alice) -> None:
        login = await alice.log_in()
        assert (await alice.run("status"))[0] == 0
        async with alice.service.away():
            alice.change(renew_at=1.0)
            code, said = await alice.run("status")
            assert (code, alice.kept["access_token"]) == (0, login["access_token"]), said
            alice.change(expires_at=1.0)
            code, said = await alice.run("status")
            assert (code, "a proxy in front of it does not reach it" in said) == (1, True), said
            # Nobody is told that there is no such login where it is not known.
            other = Alice(alice.folder / "other", alice.service, alice.person)
            other.folder.mkdir()
            code, said = await other.run("login", alice.user)
            assert (code, "a proxy in front of it does not reach it" in said) == (1, True), said
        code, said = await alice.run("status")
        assert code == 0, said
        assert alice.kept["access_token"] != login["access_token"]
