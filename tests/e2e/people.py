"""People in rooms, for the end-to-end tests: what they write, and what is said to them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from aiohttp import ClientSession

from mxrtc_bridge.core.bot import greeting
from tests.e2e.world import DOMAIN, PASSWORD, World, echo

BOT = f"@rtcbot:{DOMAIN}"
NAMES = ("alice", "bob", "carol")


@dataclass
class Person:
    """A user with a client of the simplest kind: it sends, and reads what a room holds."""

    user_id: str
    _http: ClientSession
    _address: str
    _token: str
    _sent: int = 0
    _seen: dict[str, int] = field(default_factory=dict)

    @classmethod
    async def log_in(cls, world: World, name: str, http: ClientSession) -> Self:
        """Log in as a registered user."""
        content = {"type": "m.login.password", "user": name, "password": PASSWORD}
        address = f"{world.homeserver.url}/_matrix/client/v3"
        async with http.post(f"{address}/login", json=content) as response:
            answer = await response.json()
        return cls(world.homeserver.user_id(name), http, address, answer["access_token"])

    async def ask(self, method: str, path: str, content: Any = None, *, status: int = 200) -> Any:
        """One request to the client-server API."""
        headers = {"Authorization": f"Bearer {self._token}"}
        async with self._http.request(method, f"{self._address}/{path}", json=content, headers=headers) as response:
            answer = await response.json()
            assert response.status == status, (path, answer)
            return answer

    async def direct(self, other: str, **options: Any) -> str:
        """Make a direct chat; returns when the other has joined."""
        made = await self.ask(
            "POST", "createRoom", {"preset": "private_chat", "is_direct": True, "invite": [other], **options}
        )
        room = str(made["room_id"])
        await self.until_member(room, other)
        return room

    async def gather(self, name: str, *others: Person) -> str:
        """Make a private room that others are in; its maker has power level 100, as it was before room version 12."""
        users = [other.user_id for other in others]
        options = {"preset": "private_chat", "name": name, "room_version": "11", "invite": users}
        made = await self.ask("POST", "createRoom", options)
        room = str(made["room_id"])
        for other in others:
            await other.ask("POST", f"join/{quote(room)}", {})
        return room

    async def until_member(self, room: str, user: str, membership: str = "join") -> None:
        """Wait until a user has some membership."""
        async with asyncio.timeout(20):
            while True:
                state = await self.ask("GET", f"rooms/{quote(room)}/state")
                events = [e for e in state if (e["type"], e.get("state_key")) == ("m.room.member", user)]
                found = [e["content"]["membership"] for e in events]
                if found == [membership]:
                    return
                await asyncio.sleep(0.05)

    async def send(self, room: str, content: dict[str, Any], kind: str = "m.room.message") -> str:
        """Send an event; returns its id."""
        self._sent += 1
        path = f"rooms/{quote(room)}/send/{kind}/t{self._sent}-{id(self)}"
        return str((await self.ask("PUT", path, content))["event_id"])

    async def write(self, room: str, body: str, **content: Any) -> str:
        """Write a message."""
        return await self.send(room, {"msgtype": "m.text", "body": body, **content})

    async def react(self, room: str, event: str, key: str) -> str:
        """React to an event."""
        relation = {"rel_type": "m.annotation", "event_id": event, "key": key}
        return await self.send(room, {"m.relates_to": relation}, "m.reaction")

    async def notices(self, room: str) -> list[dict[str, Any]]:
        """All notices of the bridge in a room, oldest first; not the greeting, which answers nobody."""
        return [e for e in await self._all_notices(room) if greeting.FIELD not in e["content"]]

    async def greetings(self, room: str) -> list[str]:
        """What peers have said in a room without being asked."""
        return [str(e["content"]["body"]) for e in await self._all_notices(room) if greeting.FIELD in e["content"]]

    async def _all_notices(self, room: str) -> list[dict[str, Any]]:
        found = await self.ask("GET", f"rooms/{quote(room)}/messages?dir=b&limit=100")
        messages = [e for e in reversed(found["chunk"]) if e["type"] == "m.room.message"]
        return [e for e in messages if e["content"].get("msgtype") == "m.notice" and e["sender"].startswith("@rtc")]

    async def hears(self, room: str) -> dict[str, Any]:
        """The next notice of a room that this person has not been given yet."""
        seen = self._seen.get(room, 0)
        async with asyncio.timeout(20):
            while len(notices := await self.notices(room)) <= seen:
                await asyncio.sleep(0.05)
        self._seen[room] = seen + 1
        return notices[seen]

    async def told(self, room: str, body: str, **content: Any) -> str:
        """Write a message and return the plain text of the next notice."""
        await self.write(room, body, **content)
        return str((await self.hears(room))["content"]["body"])

    async def heard_nothing(self, room: str) -> bool:
        """Whether there is no notice that this person has not been given."""
        return len(await self.notices(room)) == self._seen.get(room, 0)


@asynccontextmanager
async def world_of_three(folder: Path) -> AsyncIterator[World]:
    """A bridge with a service and three users; it must have logged no defect in the end."""
    async with AsyncExitStack() as stack:
        world = await World.start(folder, stack)
        await world.serve("echo", echo)
        for name in NAMES:
            await world.add_user(name)
        await world.start_bridge()
        yield world
        assert world.bridge is not None
        await world.bridge.terminate(20)
        assert "Traceback" not in world.log_text()


@asynccontextmanager
async def three_people(world: World) -> AsyncIterator[tuple[Person, ...]]:
    """All of them, logged in."""
    async with ClientSession() as http:
        yield tuple([await Person.log_in(world, name, http) for name in NAMES])


async def let_in(person: Person, room: str) -> None:
    """Invite the bot to a room; returns when it has joined."""
    await person.ask("POST", f"rooms/{quote(room)}/invite", {"user_id": BOT})
    await person.until_member(room, BOT)


async def upgrade(person: Person, room: str, *invited: str) -> str:
    """Have a new room take the place of another one, and invite to it; returns its id."""
    answer = await person.ask("POST", f"rooms/{quote(room)}/upgrade", {"new_version": "12"})
    new = str(answer["replacement_room"])
    for user in invited:
        await person.ask("POST", f"rooms/{quote(new)}/invite", {"user_id": user})
    return new


async def until_ping(world: World, user: str, code: int) -> None:
    """Call until that ends with some exit code."""
    async with asyncio.timeout(30):
        while (await world.run_mxrtc(user, "ping", "-c", "1", "build"))[0] != code:
            await asyncio.sleep(0.2)
