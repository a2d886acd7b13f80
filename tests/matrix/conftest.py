"""A real homeserver with an application service registered, a receiver for its transactions, and a scripted one."""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPMethod as Method
from typing import Any

import pytest
import pytest_asyncio
from aiohttp import web

from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.room_event import RoomEvent, parse_room_event
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy, Transport
from tests.catch_all import answering
from tests.honesty import Honesty
from tests.synapse import Synapse

APPSERVICE_ID = "mxrtc-test"
_names = itertools.count(1)


@dataclass
class Receiver:
    """Takes the homeserver's transactions and hands the events on, in order."""

    hs_token: str
    handler: Callable[[RoomEvent], Awaitable[None]] | None = None
    seen: list[RoomEvent] = field(default_factory=list)
    pings: list[object] = field(default_factory=list)
    port: int = 0

    async def transaction(self, request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {self.hs_token}"
        for raw in (await request.json())["events"]:
            event = parse_room_event(raw)
            self.seen.append(event)
            if self.handler is not None:
                await self.handler(event)
        return web.json_response({})

    async def ping(self, request: web.Request) -> web.Response:
        self.pings.append((await request.json()).get("transaction_id"))
        return web.json_response({})

    async def unknown(self, request: web.Request) -> web.Response:
        return web.json_response({"errcode": "M_NOT_FOUND", "error": ""}, status=404)


@dataclass
class BridgeWorld:
    """A homeserver and its application service."""

    synapse: Synapse
    as_token: str
    receiver: Receiver

    def peer(self, name: str = "") -> UserId:
        """A user id of the namespace, a new one unless named."""
        return UserId(f"@rtc_{name or f'p{next(_names)}'}:{self.synapse.server_name}")

    def bridge(self, retry: RetryPolicy | None = None) -> Homeserver:
        """The homeserver with the application service's token."""
        return Homeserver(Transport(self.synapse.url, self.as_token, RequestPolicy(retry)))


@dataclass
class Person:
    """A user with a token."""

    user_id: UserId
    homeserver: Homeserver
    name: str
    password: str

    async def state(self, room: RoomId, kind: str, content: dict[str, Any]) -> None:
        path = f"_matrix/client/v3/rooms/{room}/state/{kind}/"
        await self.homeserver._transport.request("set state", Method.PUT, path, content=content)

    async def timeline(self, room: RoomId, kind: str) -> list[dict[str, Any]]:
        """Events of one type, oldest first."""
        query = {"dir": "f", "limit": "200", "filter": json.dumps({"types": [kind]})}
        path = f"_matrix/client/v3/rooms/{room}/messages"
        return (await self.homeserver._transport.request("read", Method.GET, path, query=query))["chunk"]

    async def wait_for(self, room: RoomId, user: UserId, membership: str | None) -> None:
        """Wait until ``user`` has the given membership in ``room``."""
        async with asyncio.timeout(20):
            while await self.homeserver.membership(room, user) != membership:
                await asyncio.sleep(0.05)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def bridge_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[BridgeWorld]:
    """One homeserver for all tests of this folder; the tests that use it run in the session's event loop."""
    folder = tmp_path_factory.mktemp("bridge-world")
    as_token = secrets.token_hex(16)
    receiver = Receiver(secrets.token_hex(16))
    app = web.Application(client_max_size=64 << 20)
    app.router.add_put("/_matrix/app/v1/transactions/{id}", receiver.transaction)
    app.router.add_post("/_matrix/app/v1/ping", receiver.ping)
    app.router.add_get("/_matrix/app/v1/users/{id}", receiver.unknown)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    receiver.port = runner.addresses[0][1]
    registration = folder / "registration.yaml"
    registration.write_text(
        json.dumps(
            {
                "id": APPSERVICE_ID,
                "url": f"http://127.0.0.1:{receiver.port}",
                "as_token": as_token,
                "hs_token": receiver.hs_token,
                "sender_localpart": "sender_of_the_bridge",
                "rate_limited": False,
                "namespaces": {"users": [{"exclusive": True, "regex": r"^@rtc_[a-z0-9._-]+:example\.test$"}]},
            }
        )
    )
    try:
        async with Synapse(folder, app_services=[registration]) as synapse:
            yield BridgeWorld(synapse, as_token, receiver)
    finally:
        await runner.cleanup()


@pytest_asyncio.fixture(loop_scope="session")
async def bridge(bridge_world: BridgeWorld) -> AsyncIterator[Homeserver]:
    async with bridge_world.bridge() as homeserver:
        yield homeserver


MakePerson = Callable[[], Awaitable[Person]]


@pytest_asyncio.fixture(loop_scope="session")
async def make_person(bridge_world: BridgeWorld) -> AsyncIterator[MakePerson]:
    """A factory for users with an account of their own."""
    people: list[Person] = []

    async def make() -> Person:
        name, password = f"person{next(_names)}", secrets.token_hex(8)
        await bridge_world.synapse.register_user(name, password)
        login = await bridge_world.synapse.login(name, password)
        homeserver = Homeserver(Transport(bridge_world.synapse.url, login.access_token))
        people.append(Person(UserId(login.user_id), homeserver, name, password))
        return people[-1]

    yield make
    for person in people:
        await person.homeserver.close()


@dataclass
class ScriptedServer:
    """A web server that gives prepared answers, one a request, and keeps what it was asked.

    A test that needs no more than a lie sets ``honesty``: *silent* refuses with 502, *wrong* answers with a text. What
    else it needs it prepares, also what is stale.
    """

    url: str = ""
    answers: list[web.Response | Callable[[web.Request], Awaitable[web.StreamResponse]]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    honesty: Honesty = Honesty.TRUE

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.requests.append((request.method, request.raw_path, dict(request.headers), json.loads(body or b"null")))
        if self.honesty is Honesty.SILENT:
            return web.json_response({"errcode": "M_UNKNOWN", "error": "away"}, status=502)
        if self.honesty is Honesty.WRONG:
            return web.json_response("no answer")
        assert self.answers, f"no answer prepared for {request.method} {request.raw_path}"
        prepared = self.answers.pop(0)
        return await prepared(request) if callable(prepared) else prepared


@pytest_asyncio.fixture
async def scripted() -> AsyncIterator[ScriptedServer]:
    server = ScriptedServer()
    async with answering(server.answer) as server.url:
        yield server
