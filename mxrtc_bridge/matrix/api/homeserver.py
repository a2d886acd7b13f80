"""The homeserver as typed methods, for the bridge (acting as its virtual users) and for a user with a token.

It must never let raw JSON out where a value will do: what comes back is checked for type, form, size and count here,
so that nobody behind this border has to. The one exception is the answer to ``/sync``, which its reader parses.

With the token of an application service, ``as_user`` selects the virtual user a request is made for; with the token of
a user it stays None. Sections name the Matrix client-server API unless they say otherwise.

One file: a list of short methods, one for each request, that are looked up by name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPMethod as Method
from typing import Any, Self, TypeVar

from mxrtc_bridge.core.errors import EventError, HomeserverError
from mxrtc_bridge.core.ids import (
    EventId,
    RoomId,
    UserId,
    localpart_of,
    parse_event_id,
    parse_room_id,
    parse_user_id,
)
from mxrtc_bridge.core.text.foreign_json import inside, list_inside
from mxrtc_bridge.core.webrtc.ice_servers import IceServer
from mxrtc_bridge.engine.side_by_side import each
from mxrtc_bridge.matrix.api.path import ApiPath, Path
from mxrtc_bridge.matrix.api.room_event import MAX_TYPE_CHARS
from mxrtc_bridge.matrix.api.transport import ARRAY, Repeat, Transport

_IdT = TypeVar("_IdT")

MAX_TURN_URIS = 16
MAX_TURN_URI_CHARS = 512
"""Twice a host name of the greatest length."""
_JOIN_TIMEOUT_S = 40.0
"""A join over federation waits for another server."""
_PING_TIMEOUT_S = 30.0
_MAX_FLOWS = 64


@dataclass(frozen=True, slots=True)
class TokenOwner:
    """Whom an access token stands for."""

    user_id: UserId
    device_id: str | None


@dataclass(frozen=True, slots=True)
class RoomFacts:
    """What decides whether a room is fit for calls, apart from its members."""

    encrypted: bool
    join_rule: str
    """``invite`` when the room has no join rule event, as the specification says."""
    room_type: str | None
    """``m.space`` for a space, None for an ordinary room."""
    replaced_by: RoomId | None = None
    """The room that its tombstone names, if it has one and that was asked for."""
    predecessor: RoomId | None = None
    """The room whose place it has taken, as it says itself."""


class QuietHomeserver:
    """All requests but those that say something in a room: who has it can send no plain text where it must not be.

    One homeserver with one access token. Must be made inside a running event loop.
    """

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    @property
    def clock_offset_s(self) -> float | None:
        """By how many seconds its clock is ahead of ours, to the second; None before it has said."""
        return self._transport.clock_offset_s

    async def close(self) -> None:
        """Close the connections; may be called twice."""
        await self._transport.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # --- the server, accounts

    async def versions(self, repeat: Repeat = Repeat.ALWAYS) -> tuple[str, ...]:
        """Versions of the specification that the server speaks (``/versions``); needs no token."""
        answer = await self._get("ask the homeserver for its versions", Path.versions, repeat=repeat)
        versions = answer.get("versions")
        if not isinstance(versions, list):
            raise HomeserverError("the answer to /versions holds no versions; is this a Matrix homeserver?")
        return tuple(version for version in versions[:64] if isinstance(version, str) and len(version) <= 32)

    async def whoami(self, as_user: UserId | None = None, repeat: Repeat = Repeat.ALWAYS) -> TokenOwner:
        """The user that the token stands for (``/account/whoami``)."""
        answer = await self._get("check the access token", Path.v3.account.whoami, as_user=as_user, repeat=repeat)
        device = answer.get("device_id")
        return TokenOwner(_user_id(answer), device if isinstance(device, str) and len(device) <= 255 else None)

    async def login_flows(self) -> frozenset[str]:
        """The kinds of login that the server offers itself (``GET /login``); none where another server does that."""
        try:
            answer = await self._get("ask how to log in", Path.v3.login)
        except HomeserverError as error:
            if error.status == 404 and error.errcode == "M_UNRECOGNIZED":
                return frozenset()
            raise
        kinds = [inside(flow, "type") for flow in list_inside(answer, "flows")[:_MAX_FLOWS]]
        return frozenset(kind for kind in kinds if isinstance(kind, str))

    async def login_password(self, user: str, password: str, device_name: str) -> tuple[UserId, str, str]:
        """Log in with a password (``m.login.password``); returns user, new device and token."""
        identifier = {"type": "m.id.user", "user": user}
        return await self._login("m.login.password", device_name, identifier=identifier, password=password)

    async def login_token(self, token: str, device_name: str) -> tuple[UserId, str, str]:
        """Log in with the token that single sign-on ends with (``m.login.token``)."""
        return await self._login("m.login.token", device_name, token=token)

    async def _login(self, kind: str, device_name: str, **content: object) -> tuple[UserId, str, str]:
        content = {"type": kind, "initial_device_display_name": device_name, **content}
        answer = await self._post("log in", Path.v3.login, content, repeat=Repeat.IF_UNTOUCHED)
        token, device = answer.get("access_token"), answer.get("device_id")
        # What no header can hold would fail at each later use.
        usable = isinstance(token, str) and 0 < len(token) <= 8192 and token.isascii() and token.isprintable()
        if not usable or not isinstance(device, str) or len(device) > 255:
            raise HomeserverError("could not log in: the answer holds no access token and device")
        assert isinstance(token, str)
        return _user_id(answer), device, token

    async def name_device(self, device: str, name: str) -> None:
        """Give our device the name that the user sees in the list of sessions."""
        await self._put("name the device", Path.v3.devices[device], {"display_name": name})

    async def logout(self) -> None:
        """End the session of this token; the device is removed with it."""
        await self._post("log out", Path.v3.logout)

    async def register_user(self, user: UserId) -> bool:
        """Register a virtual user (application service API, "Server admin style permissions").

        Returns:
            False if the user existed already.
        """
        content = {
            "type": "m.login.application_service",
            "username": localpart_of(user),
            # Without a session of its own no device is made, and servers with delegated login accept it as well.
            "inhibit_login": True,
        }
        try:
            await self._post(f"register {user}", Path.v3.register, content)
        except HomeserverError as error:
            if error.errcode == "M_USER_IN_USE":
                return False
            raise
        return True

    async def displayname(self, user: UserId, as_user: UserId | None = None) -> str | None:
        """The display name in a profile.

        Raises:
            HomeserverError: with status 404 when there is no such user, as far as the server tells.
        """
        answer = await self._get(f"read the profile of {user}", Path.v3.profile[user], as_user=as_user)
        name = answer.get("displayname")
        return name if isinstance(name, str) else None

    async def set_displayname(self, user: UserId, name: str) -> bool:
        """Give a virtual user its display name, unless it has it: each change is sent to all its rooms.

        Returns:
            Whether anything was changed.
        """
        try:
            if await self.displayname(user, as_user=user) == name:
                return False
        except HomeserverError as error:
            if error.status != 404:
                raise
        await self._put(f"name {user}", Path.v3.profile[user].displayname, {"displayname": name}, as_user=user)
        return True

    async def ping_appservice(self, appservice_id: str, txn_id: str) -> int:
        """Have the homeserver call our endpoint (application service API, "Pinging"); sent once, never repeated.

        Synapse also takes it as the sign to deliver at once what it held back while the bridge was away.

        Returns:
            Milliseconds that the homeserver measured.
        """
        answer = await self._transport.request(
            "have the homeserver reach the bridge",
            Method.POST,
            Path.v1.appservice[appservice_id].ping,
            content={"transaction_id": txn_id},
            timeout_s=_PING_TIMEOUT_S,
            repeat=Repeat.NEVER,
        )
        duration = answer.get("duration_ms")
        return duration if type(duration) is int and duration >= 0 else 0

    async def turn_server(self, as_user: UserId | None = None) -> tuple[IceServer, ...]:
        """STUN and TURN servers with fresh credentials (``/voip/turnServer``); empty if the server has none.

        URIs that are none are among them, so that whoever uses them can say so.
        """
        try:
            answer = await self._get("ask for TURN servers", Path.v3.voip.turnServer, as_user=as_user)
        except HomeserverError as error:
            if _is_missing(error):  # how some servers say that they have none; others have an empty answer (MSC4166)
                return ()
            raise
        uris, username, password = answer.get("uris"), answer.get("username"), answer.get("password")
        if not isinstance(uris, list):
            return ()
        urls = tuple(uri[:MAX_TURN_URI_CHARS] for uri in uris[:MAX_TURN_URIS] if isinstance(uri, str))
        return (IceServer(urls, _credential(username), _credential(password)),) if urls else ()

    # --- rooms

    async def joined_rooms(self, as_user: UserId | None = None) -> tuple[RoomId, ...]:
        """All rooms that the user is in."""
        rooms = await self._list("list the joined rooms", Path.v3.joined_rooms, "joined_rooms", as_user)
        return tuple(_parsed_room(room) for room in rooms)

    async def joined_members(self, room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]:
        """The users joined to a room. Ids of any form are kept: an odd member is a member all the same."""
        answer = await self._get(f"list the members of {room}", _room(room).joined_members, as_user=as_user)
        joined = answer.get("joined")
        if not isinstance(joined, dict):
            raise HomeserverError(f"could not list the members of {room}: the answer holds no list")
        return frozenset(UserId(user) for user in joined)

    async def invited_members(self, room: RoomId, as_user: UserId | None = None) -> frozenset[UserId]:
        """The users who are invited to a room, of any form."""
        what, invited = f"list who is invited to {room}", {"membership": "invite"}
        events = await self._list(what, _room(room).members, "chunk", as_user, invited)
        # Whatever else is in an event: one that names nobody would be somebody who is not seen.
        if not all(isinstance(event, dict) and isinstance(event.get("state_key"), str) for event in events):
            raise HomeserverError(f"could not {what}: an event names nobody")
        return frozenset(UserId(event["state_key"]) for event in events)

    async def membership(self, room: RoomId, user: UserId, as_user: UserId | None = None) -> str | None:
        """``join``, ``invite``, ``leave``, ``ban``, ``knock``, or None when the user never had to do with the room."""
        content = await self.state(room, "m.room.member", user, as_user=as_user)
        value = None if content is None else content.get("membership")
        return value if isinstance(value, str) else None

    async def state(
        self, room: RoomId, event_type: str, state_key: str = "", as_user: UserId | None = None
    ) -> dict[str, object] | None:
        """Content of a state event, or None when the room has none of that type and key."""
        path = _room(room).state[event_type]
        try:
            return await self._get(
                f"read {event_type} of {room}", path[state_key] if state_key else path, as_user=as_user
            )
        except HomeserverError as error:
            if _is_missing(error):
                return None
            raise

    async def all_state(
        self, room: RoomId, types: Collection[str], as_user: UserId | None = None
    ) -> list[tuple[str, str, dict[str, object]]]:
        """Type, state key and content of a room's state events of some types; what is malformed is left out."""
        events = await self._list(f"read the state of {room}", _room(room).state, ARRAY, as_user)
        return [
            (event["type"], event["state_key"], event["content"])
            for event in events
            if isinstance(event, dict)
            and isinstance(event.get("type"), str)
            and event["type"] in types
            and isinstance(event.get("state_key"), str)
            and len(event["state_key"]) <= MAX_TYPE_CHARS
            and isinstance(event.get("content"), dict)
        ]

    async def room_facts(self, room: RoomId, as_user: UserId | None = None, *, succession: bool = False) -> RoomFacts:
        """Read what decides whether a room is fit for calls: three requests at the same time.

        Args:
            room: the room.
            as_user: who asks, and is in it.
            succession: whether to ask by which room it was replaced as well, which is one more.
        """
        found: dict[str, dict[str, object]] = {}
        is_encrypted = False

        async def read(event_type: str) -> None:
            nonlocal is_encrypted
            content = await self.state(room, event_type, as_user=as_user)
            is_encrypted |= event_type == "m.room.encryption" and content is not None
            found[event_type] = content or {}

        types = ("m.room.encryption", "m.room.join_rules", "m.room.create", *(("m.room.tombstone",) * succession))
        await each(types, read, len(types))
        rule, create = found["m.room.join_rules"].get("join_rule", "invite"), found["m.room.create"]
        kind = create.get("type")
        return RoomFacts(
            encrypted=is_encrypted,
            join_rule=rule if isinstance(rule, str) else "unknown",
            room_type=None if kind is None else str(kind),
            replaced_by=_named_room(inside(found, "m.room.tombstone", "replacement_room")),
            predecessor=_named_room(inside(create, "predecessor", "room_id")),
        )

    async def replaced_by(self, room: RoomId, as_user: UserId | None = None) -> RoomId | None:
        """The room that has taken the place of this one, as its tombstone says; None if it has none."""
        tombstone = await self.state(room, "m.room.tombstone", as_user=as_user) or {}
        return _named_room(tombstone.get("replacement_room"))

    async def join(self, room: RoomId, as_user: UserId | None = None) -> None:
        """Join a room, by an invitation as a rule."""
        await self._post(f"join {room}", _room(room).join, as_user=as_user, timeout_s=_JOIN_TIMEOUT_S)

    async def join_by(self, room: RoomId, server: str, as_user: UserId | None = None) -> None:
        """Join a room that this homeserver does not know, by another one that is in it."""
        await self._transport.request(
            f"join {room} by {server}",
            Method.POST,
            Path.v3.join[room],
            query={"via": server, "server_name": server},  # the second is its name before Matrix 1.12
            as_user=as_user,
            timeout_s=_JOIN_TIMEOUT_S,
        )

    async def resolve_alias(self, alias: str, as_user: UserId | None = None) -> RoomId:
        """The room that an alias stands for."""
        answer = await self._get(f"look up {alias}", Path.v3.directory.room[alias], as_user=as_user)
        return _parsed_room(answer.get("room_id"))

    async def join_alias(self, alias: str, as_user: UserId | None = None) -> RoomId:
        """Join the room that an alias stands for, also one that this homeserver does not know yet; returns the room."""
        answer = await self._post(f"join {alias}", Path.v3.join[alias], as_user=as_user, timeout_s=_JOIN_TIMEOUT_S)
        return _parsed_room(answer.get("room_id"))

    async def leave(self, room: RoomId, as_user: UserId | None = None, reason: str | None = None) -> None:
        """Leave a room, or decline the invitation to it."""
        content = {"reason": reason} if reason else None
        await self._post(f"leave {room}", _room(room).leave, content, as_user=as_user, timeout_s=_JOIN_TIMEOUT_S)

    async def invite(self, room: RoomId, user: UserId, as_user: UserId | None = None) -> None:
        """Invite a user to a room."""
        await self._post(f"invite {user} to {room}", _room(room).invite, {"user_id": user}, as_user=as_user)

    async def create_direct_room(self, user: UserId, as_user: UserId | None = None) -> RoomId:
        """Make a private room with one other user, who is invited as to a direct chat.

        The preset is ``private_chat``: ``trusted_private_chat`` would make the other side a creator of the room, which
        in room version 12 is a rank that can never be taken back.
        """
        content = {"preset": "private_chat", "visibility": "private", "is_direct": True, "invite": [user]}
        answer = await self._post(
            f"create a room with {user}", Path.v3.createRoom, content, as_user=as_user, repeat=Repeat.IF_UNTOUCHED
        )
        return _parsed_room(answer.get("room_id"))

    # --- events

    async def redact(self, room: RoomId, event: EventId, txn_id: str, as_user: UserId | None = None) -> EventId:
        """Redact an event."""
        return _parsed_event(
            await self._put(f"redact an event in {room}", _room(room).redact[event][txn_id], {}, as_user)
        )

    async def sync(
        self, *, filter_json: Mapping[str, object], since: str | None, wait_s: float, timeout_s: float
    ) -> dict[str, object]:
        """One ``/sync``, not repeated on failure: its caller has a loop of its own.

        Args:
            filter_json: filter of the events wanted.
            since: token of the last answer.
            wait_s: seconds that the server may hold the request when it has nothing.
            timeout_s: seconds until the attempt counts as failed.
        """
        query = {"filter": json.dumps(filter_json, separators=(",", ":")), "timeout": str(int(wait_s * 1000))}
        if since is not None:
            query["since"] = since
        return await self._transport.request(
            "receive events", Method.GET, Path.v3.sync, query=query, timeout_s=timeout_s, repeat=Repeat.NEVER
        )

    # --- direct chats (account data "m.direct")

    async def direct_rooms(self, user: UserId) -> dict[str, object]:
        """Content of the user's ``m.direct``: by other user, a list of rooms. Unchecked, so that it can be put back."""
        try:
            return await self._get("read the list of direct chats", Path.v3.user[user].account_data["m.direct"])
        except HomeserverError as error:
            if _is_missing(error):
                return {}
            raise

    async def set_direct_rooms(self, user: UserId, content: Mapping[str, object]) -> None:
        """Replace the content of the user's ``m.direct``."""
        await self._put("write the list of direct chats", Path.v3.user[user].account_data["m.direct"], content)

    # --- requests

    async def _list(
        self, what: str, path: ApiPath, key: str, as_user: UserId | None, query: Mapping[str, str] | None = None
    ) -> list[Any]:
        """The list that an answer holds under ``key``."""
        answer = await self._transport.request(what, Method.GET, path, query=query, as_user=as_user)
        found = answer.get(key)
        if not isinstance(found, list):
            raise HomeserverError(f"could not {what}: the answer holds no list")
        return found

    async def _get(
        self, what: str, path: ApiPath, as_user: UserId | None = None, repeat: Repeat = Repeat.ALWAYS
    ) -> dict[str, object]:
        return await self._transport.request(what, Method.GET, path, as_user=as_user, repeat=repeat)

    async def _put(
        self, what: str, path: ApiPath, content: Mapping[str, object], as_user: UserId | None = None
    ) -> dict[str, object]:
        return await self._transport.request(what, Method.PUT, path, content=content, as_user=as_user)

    async def _post(
        self,
        what: str,
        path: ApiPath,
        content: Mapping[str, object] | None = None,
        *,
        as_user: UserId | None = None,
        timeout_s: float | None = None,
        repeat: Repeat = Repeat.ALWAYS,
    ) -> dict[str, object]:
        return await self._transport.request(
            what, Method.POST, path, content=content, as_user=as_user, timeout_s=timeout_s, repeat=repeat
        )


class Homeserver(QuietHomeserver):
    """The whole client-server API."""

    async def send_event(
        self,
        room: RoomId,
        event_type: str,
        content: Mapping[str, object],
        txn_id: str,
        as_user: UserId | None = None,
    ) -> EventId:
        """Send an event. The same ``txn_id`` again gives the same event, for about an hour at least.

        Synapse keeps the transaction ids of an application service for all its users together: the id must depend on
        the sender.
        """
        answer = await self._put(f"send {event_type} to {room}", _room(room).send[event_type][txn_id], content, as_user)
        return _parsed_event(answer)


def _named_room(value: object) -> RoomId | None:
    """The room that somebody's event names; None where that cannot be one."""
    try:
        return parse_room_id(value)
    except EventError:
        return None


def rooms_with(direct: Mapping[str, object], user: UserId, limit: int) -> Sequence[RoomId]:
    """Rooms that ``m.direct`` lists for ``user``, newest first, at most ``limit``; what is not a room id is skipped."""
    rooms: list[RoomId] = []
    for value in reversed(list_inside(direct, user)):
        try:
            rooms.append(parse_room_id(value))
        except EventError:
            continue
        if len(rooms) == limit:
            break
    return rooms


def _room(room: RoomId) -> ApiPath:
    return Path.v3.rooms[room]


def _is_missing(error: HomeserverError) -> bool:
    """Whether a homeserver says that there is no such thing; a proxy that knows no way says the same by 404 alone."""
    return error.status == 404 and error.errcode == "M_NOT_FOUND"


def _parsed(parse: Callable[[object], _IdT], what: str, value: object) -> _IdT:
    try:
        return parse(value)
    except EventError as error:
        raise HomeserverError(f"the homeserver's answer holds a bad {what} id: {error}") from error


def _parsed_room(value: object) -> RoomId:
    return _parsed(parse_room_id, "room", value)


def _parsed_event(answer: Mapping[str, object]) -> EventId:
    return _parsed(parse_event_id, "event", answer.get("event_id"))


def _user_id(answer: Mapping[str, object]) -> UserId:
    return _parsed(parse_user_id, "user", answer.get("user_id"))


def _credential(value: object) -> str:
    return value if isinstance(value, str) and len(value) <= 1024 else ""
