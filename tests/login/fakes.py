"""A homeserver and its authorization server in one, which say what a test wants them to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.catch_all import answering

ALICE = "@alice:example.test"


@dataclass
class FakeLoginServer:
    """Answers by the last part of the path; each token that it gives has a number."""

    url: str = ""
    answers: dict[str, list[tuple[int, object]]] = field(default_factory=dict)
    """What is answered next, instead of the usual."""
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """What was asked, and the form or object in it."""
    user: str = ALICE
    flows: tuple[str, ...] = ("m.login.password",)
    delegates: bool = True
    logs_in_too: bool = False
    """Whether one that delegates has the logins of before as well, by a proxy in front of it."""
    seconds: float | None = 300
    given: int = 0
    known: set[str] = field(default_factory=set)
    """The access tokens that are good."""
    lost: int = 0
    """How many of the next answers with tokens do not arrive."""
    locked: bool = False
    """Whether the account is locked: it is given tokens all the same, and none of them is taken."""
    hold: str = ""
    """What is done at once and answered when ``go_on`` is set; ``holding`` says that it was done."""
    holding: asyncio.Event = field(default_factory=asyncio.Event)
    go_on: asyncio.Event = field(default_factory=asyncio.Event)

    def said(self, what: str) -> list[dict[str, Any]]:
        return [content for name, content in self.asked if name == what]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        what = request.path.rpartition("/")[2]
        what = "flows" if (request.method, what) == ("GET", "login") else what
        answer = await self._answer(request, what)
        if what == self.hold:
            self.holding.set()
            await self.go_on.wait()
        return answer

    async def _answer(self, request: web.Request, what: str) -> web.StreamResponse:
        kind = request.content_type
        content = (
            dict(await request.post()) if "form" in kind else (await request.json() if request.can_read_body else {})
        )
        self.asked.append((what, content))
        if self.answers.get(what):
            status, answer = self.answers[what].pop(0)
            return web.json_response(answer, status=status)
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if what in ("whoami", "DEVICE") and bearer not in self.known:
            return web.json_response({"errcode": "M_UNKNOWN_TOKEN", "error": "not active"}, status=401)
        found = getattr(self, f"_{what}", None)
        return (
            web.json_response({"errcode": "M_UNRECOGNIZED"}, status=404) if found is None else found(request, content)
        )

    def _versions(self, _request: web.Request, _content: object) -> web.Response:
        return web.json_response({"versions": ["v1.11"]})

    def _auth_metadata(self, _request: web.Request, _content: object) -> web.Response:
        if not self.delegates:
            return web.json_response({"errcode": "M_UNRECOGNIZED"}, status=404)
        return web.json_response(
            {
                "issuer": f"{self.url}/",
                "token_endpoint": f"{self.url}/token",
                "registration_endpoint": f"{self.url}/register",
                "authorization_endpoint": f"{self.url}/authorize",
                "device_authorization_endpoint": f"{self.url}/device",
                "revocation_endpoint": f"{self.url}/revoke?tenant=1",
                "grant_types_supported": ["authorization_code", "urn:ietf:params:oauth:grant-type:device_code"],
            }
        )

    def _register(self, _request: web.Request, _content: object) -> web.Response:
        return web.json_response({"client_id": "client"}, status=201)

    def _device(self, _request: web.Request, _content: object) -> web.Response:
        code = {"device_code": "devicecode", "user_code": "AB-CD", "verification_uri": f"{self.url}/link"}
        return web.json_response({**code, "expires_in": 60, "interval": 5})

    def _token(self, _request: web.Request, _content: object) -> web.Response:
        self.given += 1
        if self.lost:
            self.lost -= 1
            raise web.HTTPInternalServerError
        access = f"access-{self.given}"
        self.known = set() if self.locked else {access}
        answer = {"access_token": access, "refresh_token": f"refresh-{self.given}", "token_type": "Bearer"}
        return web.json_response({**answer, **({} if self.seconds is None else {"expires_in": self.seconds})})

    def _revoke(self, request: web.Request, _content: object) -> web.Response:
        assert request.query == {"tenant": "1"}
        self.known.clear()
        return web.Response(status=200)

    def _flows(self, _request: web.Request, _content: object) -> web.Response:
        if self.delegates and not self.logs_in_too:
            return web.json_response({"errcode": "M_UNRECOGNIZED"}, status=404)
        return web.json_response({"flows": [{"type": flow} for flow in self.flows]})

    def _login(self, _request: web.Request, _content: object) -> web.Response:
        self.known.add("legacy")
        return web.json_response({"user_id": self.user, "device_id": "DEVICE", "access_token": "legacy"})

    def _logout(self, _request: web.Request, _content: object) -> web.Response:
        self.known.clear()
        return web.json_response({})

    def _whoami(self, _request: web.Request, _content: object) -> web.Response:
        return web.json_response({"user_id": self.user, "device_id": "DEVICE"})

    def _DEVICE(self, _request: web.Request, _content: object) -> web.Response:  # noqa: N802 - the last part of the path
        return web.json_response({})


@asynccontextmanager
async def fake_login_server() -> AsyncIterator[FakeLoginServer]:
    server = FakeLoginServer()
    async with answering(server.answer) as server.url:
        yield server
