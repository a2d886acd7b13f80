"""A homeserver in memory, as far as a bridge needs one to start, and a configuration that leads to it.

It tells who is in ``members`` and which ``rules`` there are. A test that needs a lie sets ``honesty`` for all rooms, or
``silent``, ``wrong`` and ``stale`` for some; ``away`` is for one that answers nothing at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from aiohttp import ClientSession, web

from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.demo.processes import PortReservation
from tests.honesty import Honesty
from tests.hostile_json import to_body
from tests.storage.made_tables import give_tables

DOMAIN = "example.org"
PEER = f"@rtc_build:{DOMAIN}"
ALICE = f"@alice:{DOMAIN}"
ROOM = f"!room:{DOMAIN}"
AS_TOKEN, HS_TOKEN = "as" * 24, "hs" * 24


@dataclass
class FakeHomeserver:
    """Answers what the bridge asks at its start; rooms are those of ``members``."""

    folder: Path
    as_token: str = AS_TOKEN
    away: bool = False
    """Answer everything with 503."""
    pages: dict[str, int] = field(default_factory=dict)
    """By the last word of a path, how a proxy answers its next request, with a page."""
    misled: set[str] = field(default_factory=set)
    """Last words of paths that a proxy leads to a server which does not know them."""
    members: dict[str, list[str]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    sent: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """Type and content of each event that the bridge has sent."""
    left: list[str] = field(default_factory=list)
    silent: set[str] = field(default_factory=set)
    """Rooms of which it does not say who is in them, and which rules."""
    wrong: set[str] = field(default_factory=set)
    """Rooms of which it says what is no answer."""
    stale: dict[str, list[str]] = field(default_factory=dict)
    """Whom it says to be in a room instead of ``members``."""
    rules: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """State events of policy lists."""
    stale_rules: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """What it says to be in a policy list instead of ``rules``."""
    profile: object = None
    """What it says of each member of a room."""

    @property
    def honesty(self) -> Honesty:
        """About who is in all rooms, and about all rules."""
        told = ((self.silent, Honesty.SILENT), (self.wrong, Honesty.WRONG), (self.stale, Honesty.STALE))
        return next((honesty for rooms, honesty in told if rooms), Honesty.TRUE)

    @honesty.setter
    def honesty(self, honesty: Honesty) -> None:
        rooms = self.members.keys() | self.rules.keys()
        self.silent = set(rooms) if honesty is Honesty.SILENT else set()
        self.wrong = set(rooms) if honesty is Honesty.WRONG else set()
        stale = honesty is Honesty.STALE
        self.stale = {room: list(members) for room, members in self.members.items()} if stale else {}
        self.stale_rules = {room: list(rules) for room, rules in self.rules.items()} if stale else {}

    async def __aenter__(self) -> FakeHomeserver:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        self.reserved = PortReservation()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.reserved.close()
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        parts = unquote(request.raw_path.partition("?")[0]).removeprefix("/_matrix/client/").split("/")
        self.asked.append("/".join(parts))
        if self.away:
            return web.json_response({"errcode": "M_UNKNOWN", "error": "away"}, status=503)
        if parts[-1] in self.misled:
            return web.json_response({"errcode": "M_UNRECOGNIZED", "error": "Unrecognized request"}, status=404)
        if (status := self.pages.pop(parts[-1], None)) is not None:
            return web.Response(status=status, text="<html>soon back</html>", content_type="text/html")
        if parts == ["versions"]:
            return web.json_response({"versions": ["v1.11"]})
        if request.headers.get("Authorization") != f"Bearer {self.as_token}":
            return web.json_response({"errcode": "M_UNKNOWN_TOKEN", "error": "unknown"}, status=401)
        body = json.loads(await request.read() or b"{}")
        return self._authorized(parts[1:], request.query.get("user_id", ""), body)

    def _authorized(self, parts: list[str], user: str, body: dict[str, Any]) -> web.Response:
        match parts:
            case ["account", "whoami"]:
                answer: dict[str, Any] = {"user_id": f"@sender:{DOMAIN}"}
            case ["profile", whose, *_]:
                answer = {"displayname": "build" if whose == PEER else "RTC bridge"}
            case ["joined_rooms"]:
                answer = {"joined_rooms": [room for room, members in self.members.items() if user in members]}
            case ["rooms", room, "joined_members" | "state"] if room in self.silent:
                return web.json_response({"errcode": "M_UNKNOWN", "error": "away"}, status=502)
            case ["rooms", room, "joined_members" | "state"] if room in self.wrong:
                return web.json_response({"joined": sorted(self.members.get(room, [])), "state": 5})
            case ["rooms", room, "joined_members"]:
                now = self.stale.get(room, self.members.get(room, []))
                return _json({"joined": dict.fromkeys(now, self.profile)})
            case ["rooms", _, "members"]:
                answer = {"chunk": []}
            case ["rooms", room, "state"] if room in self.rules:
                return _json(self.stale_rules.get(room, self.rules[room]))
            case ["rooms", _, "state", *_]:
                return web.json_response({"errcode": "M_NOT_FOUND", "error": ""}, status=404)
            case ["rooms", _, "send", kind, _]:
                self.sent.append((kind, body))
                answer = {"event_id": f"$sent{len(self.sent)}"}
            case ["rooms", room, "leave"]:
                self.left.append(room)
                self.members.get(room, [user]).remove(user)
                answer = {}
            case _:
                answer = {}
        return web.json_response(answer)

    # The bridge's side

    def config(self, **changes: Any) -> Config:
        """Write a configuration and load it."""
        grant = {"id": "alice", "from": [ALICE], "to": ["build/echo"]}
        content = {
            "version": 2,
            "homeserver": {"address": f"http://127.0.0.1:{self.port}", "domain": DOMAIN},
            "appservice": {"listen": f"127.0.0.1:{self.reserved.port}", "as_token": AS_TOKEN, "hs_token": HS_TOKEN},
            "database": f"sqlite:{give_tables(self.folder / 'bridge.db')}",
            "peers": {"build": {"services": {"echo": {"target": "tcp:127.0.0.1:1"}}}},
            "grants": [grant],
            # What the devices of peers do is tested against a real homeserver.
            "encryption": {"enabled": "off"},
            **changes,
        }
        path = self.folder / "config.yaml"
        path.touch(mode=0o600)
        path.write_text(json.dumps(content))
        return load_config(path)

    async def push(self, *events: dict[str, Any]) -> int:
        """Send the bridge a transaction; returns the status of its answer."""
        url = f"http://127.0.0.1:{self.reserved.port}/_matrix/app/v1/transactions/t{len(self.asked)}"
        async with (
            ClientSession(headers={"Authorization": f"Bearer {HS_TOKEN}"}) as http,
            http.put(url, data=to_body({"events": list(events)})) as response,
        ):
            return response.status


def _json(value: object) -> web.Response:
    return web.Response(body=to_body(value), content_type="application/json")
