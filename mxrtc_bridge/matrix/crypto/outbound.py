"""Megolm, sending: one session a room, given to the devices that may have it, and replaced when one may no longer.

Must never encrypt with a state that is not saved, and never give a session to a device below the trust that policy
asks for. A device that gets no key is told so once for each session (``m.room_key.withheld``), so that its user reads
a reason and not "waiting for this message".

What is said in a room does not wait for a slow server of some members (:mod:`mxrtc_bridge.matrix.crypto.patience`). Who
was left out gets the key as it was then, and so can read the message, as soon as their server has answered; or, where
that cannot be waited for, the key as it is with the next message.

How a key gets to a device is said in :mod:`mxrtc_bridge.matrix.crypto.key_sharing`.

One file: whether a session may still be used, and who gets its key, is one decision with each message.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.crypto.records import Changes, OutboundRecord, RoomEncryption, Trust
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import DeviceId, RoomId, UserId, server_of
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.binding import vodozemac
from mxrtc_bridge.matrix.crypto.claims import Claims
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists
from mxrtc_bridge.matrix.crypto.key_requests import KeyRequest, parse_request
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.key_sharing import KeySharing, Letter, RoomSession, key_of, without_it
from mxrtc_bridge.matrix.crypto.keyed_locks import KeyedLocks
from mxrtc_bridge.matrix.crypto.store import DeviceStore
from mxrtc_bridge.matrix.crypto.values import MEGOLM, DeviceIdentity, UserDevices

log = logging.getLogger(__name__)

Later = Callable[[UserId, Callable[[], Awaitable[object]]], bool]
"""Does something for a user that others need not wait for; False, and it is dropped, where there is no place for it."""
_Result = TypeVar("_Result")

MAX_ROOMS_CACHED = 1000
GIVE_AGAIN_S = 20.0
"""How long it may take to give a device the key of a room again: two questions to another server."""
GIVE_AGAIN_MS = 60 * 1000
"""The key of a room is given again to a device at most this often."""
SERVE_LATE_S = 30.0
"""How long a slow server is waited for, of whose users some were left out."""


@dataclass(slots=True)
class _Recipients:
    """The devices of a room, as they were known at a time."""

    members: Collection[UserId]
    began_s: float
    """When they were asked for."""
    admitted: list[DeviceIdentity] = field(default_factory=list)
    refused: list[DeviceIdentity] = field(default_factory=list)
    stale: list[DeviceIdentity] = field(default_factory=list)
    """Of users whose devices could not be asked for in time, as they were: who has a key keeps it and gets no other."""
    late: list[UserId] = field(default_factory=list)
    """Those users."""


class OutboundSessions:
    """Our Megolm sessions.

    They change under the lock of our device, and nobody is asked under it: the devices of a room are asked for before,
    and their one-time keys as well; what was encrypted is sent after it. What is said in a room goes in the order of
    the calls.
    """

    def __init__(
        self,
        account: OwnAccount,
        claims: Claims,
        lists: DeviceLists,
        store: DeviceStore,
        server: KeyServer,
        pickle_key: bytes,
        *,
        wall_ms: Callable[[], int],
        later: Later,
    ) -> None:
        self._account = account
        self._later = later
        self._serving: set[tuple[str, UserId]] = set()
        self._keys = KeySharing(account, claims.olm, store, wall_ms=wall_ms)
        self._claims = claims
        self._order = KeyedLocks()
        self._lists = lists
        self._store = store
        self._server = server
        self._pickle_key = pickle_key
        self._wall_ms = wall_ms
        self._sessions = Latest[RoomId, RoomSession](MAX_ROOMS_CACHED)
        self._seldom = RateLimitedLog(log)
        self._given = Latest[tuple[RoomId, UserId, DeviceId], int](MAX_ROOMS_CACHED)
        # A session of the run before may be one of a copy of the database that was put back: what it would encrypt next
        # has perhaps been used already.
        self._began_ms = wall_ms()

    def forget(self) -> None:
        """Know no session any more, as the store does."""
        self._sessions.clear()

    async def encrypt(
        self,
        encryption: RoomEncryption,
        members: Collection[UserId],
        event_type: str,
        content: Mapping[str, Any],
        *,
        least: Trust,
    ) -> dict[str, Any]:
        """Return the content of an ``m.room.encrypted`` event; whoever may read it has the key by then.

        Raises:
            HomeserverError: the devices or their keys could not be asked for, or the key could not be sent.
        """

        async def use(
            letters: list[Letter], recipients: _Recipients, asked: Collection[DeviceIdentity]
        ) -> dict[str, Any]:
            session = await self._prepare(encryption, least, letters, recipients, asked)
            return await self._encrypt(session, event_type, content)

        return await self._with_devices(encryption, members, least, use)

    async def prepare(self, encryption: RoomEncryption, members: Collection[UserId], *, least: Trust) -> None:
        """Have a session that the devices of all members have: before the first message, so that this one is quick."""
        await self._with_devices(encryption, members, least, functools.partial(self._prepare, encryption, least))

    async def _with_devices(
        self,
        encryption: RoomEncryption,
        members: Collection[UserId],
        least: Trust,
        use: Callable[[list[Letter], _Recipients, frozenset[DeviceIdentity]], Awaitable[_Result]],
    ) -> _Result:
        async with self._order.alone_with([encryption.room]):
            began_s, left_out, letters = asyncio.get_running_loop().time(), set[str](), list[Letter]()
            result = await self._claims.run(
                lambda: self._recipients(members, least, began_s, left_out),
                lambda recipients: self._lacking(encryption, recipients),
                functools.partial(use, letters),
                began_s=began_s,
                others=lambda recipients, missing: len(recipients.admitted) > len(missing),
            )
            await self._post(letters)
            return result

    async def _post(self, letters: Sequence[Letter]) -> None:
        """Send what was encrypted, and then note who has it.

        Raises:
            HomeserverError: it was not taken; with the next message it is sent again.
        """
        for letter in letters:
            name = secrets.token_hex(12)
            await self._server.send_to_device(self._account.device, letter.event_type, letter.messages, name)
            async with self._claims.lock:
                session = letter.session
                # Not where another one has taken its place meanwhile.
                if self._sessions.get(session.record.room) is session:
                    shared, withheld = session.record.shared | letter.shared, session.record.withheld | letter.withheld
                    await self._save(session, shared=shared, withheld=withheld)

    async def _encrypt(self, session: RoomSession, event_type: str, content: Mapping[str, Any]) -> dict[str, Any]:
        payload: dict[str, Any] = {"type": event_type, "content": content, "room_id": session.record.room}
        message = session.olm.encrypt(json.dumps(payload, separators=(",", ":")).encode())
        await self._save(session, messages=session.record.messages + 1)
        encrypted: dict[str, Any] = {
            "algorithm": MEGOLM,
            "sender_key": self._account.curve25519,
            "device_id": self._account.device,
            "session_id": session.record.session_id,
            "ciphertext": message.to_base64(),
        }
        if "m.relates_to" in content:
            encrypted["m.relates_to"] = content["m.relates_to"]
        return encrypted

    async def _prepare(
        self,
        encryption: RoomEncryption,
        least: Trust,
        letters: list[Letter],
        recipients: _Recipients,
        asked: Collection[DeviceIdentity],
    ) -> RoomSession:
        session = await self._load(encryption.room)
        if session is None or self._is_spent(session.record, encryption, recipients):
            session = await self._begin(encryption.room)
        key = key_of(session)
        left_out = await self._keys.share(session, key, recipients.admitted, asked, letters)
        self._keys.withhold(session, recipients.refused, "m.unverified", letters)
        for user in {*recipients.late, *(device.user for device in left_out)}:
            self._serve_later(session, key, user, least)
        return session

    async def _lacking(self, encryption: RoomEncryption, recipients: _Recipients) -> list[DeviceIdentity] | None:
        """Who must be asked for a key, to get that of the room; None if some devices have changed meanwhile."""
        if any(self._lists.changed_since(user, recipients.began_s) for user in recipients.members):
            return None
        session = await self._load(encryption.room)
        if session is None or self._is_spent(session.record, encryption, recipients):
            return await self._keys.to_ask(recipients.admitted)
        return await self._keys.to_ask(without_it(session.record, recipients.admitted))

    async def _recipients(
        self, members: Collection[UserId], least: Trust, began_s: float, left_out: set[str]
    ) -> _Recipients:
        """Who gets the key; servers that do not answer in time are added to those that are left out, and not asked."""
        recipients = _Recipients(members, elapsed_s())
        by_server: dict[str, list[UserId]] = {}
        for user in members:
            by_server.setdefault(server_of(user), []).append(user)

        def is_enough(answers: Mapping[str, Mapping[UserId, UserDevices]]) -> bool:
            return any(
                not self._is_ours(each)
                for known in answers.values()
                for user in known.values()
                for each in user.devices
            )

        questions = {
            server: functools.partial(self._lists.of, users)
            for server, users in by_server.items()
            if server not in left_out
        }
        answers = await self._claims.patience.ask("devices", questions, began_s, is_enough)
        left_out.update(by_server.keys() - answers)
        found = {user: known for answer in answers.values() for user, known in answer.items()}
        for device in (each for known in found.values() for each in known.devices if not self._is_ours(each)):
            (recipients.admitted if device.trust.meets(least) else recipients.refused).append(device)
        recipients.late = [user for user in members if user not in found]
        for user in recipients.late:
            known = await self._lists.stored(user)
            recipients.stale += [each for each in known.devices if each.trust.meets(least)] if known is not None else []
        return recipients

    def _is_ours(self, device: DeviceIdentity) -> bool:
        return (device.user, device.device) == (self._account.user, self._account.device)

    def _is_spent(self, record: OutboundRecord, encryption: RoomEncryption, recipients: _Recipients) -> bool:
        if record.messages >= encryption.rotate_after_messages or record.created_ms < self._began_ms:
            return True
        if self._wall_ms() - record.created_ms >= encryption.rotate_after_ms:
            return True
        # Somebody who has it may have it no more: has left, was deleted, or is trusted less than before.
        return bool(
            record.shared
            - {(each.user, each.device, each.curve25519) for each in (*recipients.admitted, *recipients.stale)}
        )

    async def _load(self, room: RoomId) -> RoomSession | None:
        session = self._sessions.get(room)
        if session is None and (record := await self._store.outbound(room)) is not None:
            olm = vodozemac.GroupSession.from_pickle(record.pickle, self._pickle_key)
            self._sessions[room] = session = RoomSession(record, olm)
        return session

    async def _begin(self, room: RoomId) -> RoomSession:
        olm = vodozemac.GroupSession()
        record = OutboundRecord(
            room=room,
            session_id=olm.session_id,
            pickle=olm.pickle(self._pickle_key),
            created_ms=self._wall_ms(),
            messages=0,
            shared=frozenset(),
        )
        await self._store.save(Changes(outbound=[record]))
        self._sessions[room] = session = RoomSession(record, olm)
        return session

    async def _save(self, session: RoomSession, **changes: Any) -> None:
        session.record = replace(session.record, pickle=session.olm.pickle(self._pickle_key), **changes)
        await self._store.save(Changes(outbound=[session.record]))

    def give_again_later(self, sender: UserId, content: Mapping[str, Any]) -> None:
        """Give a device the key of a room again that it has had, from now on; what was said before stays lost to it."""
        wanted = parse_request(content)
        if wanted is not None:
            self._later(sender, functools.partial(self._answer, wanted, sender))

    async def _answer(self, wanted: KeyRequest, sender: UserId) -> None:
        try:
            async with asyncio.timeout(GIVE_AGAIN_S):
                given = await self.give_again(wanted, sender)
        except (HomeserverError, StorageError, TimeoutError) as error:
            self._seldom.info(sender, "the key of a room was not given again to %s: %s", sender, error)
        else:
            what = "given" if given else "not given"
            self._seldom.info(sender, "= the key of a room was asked for by %s, and %s", sender, what)

    async def give_again(self, wanted: KeyRequest, user: UserId) -> bool:
        """Give the key of a room, as it is now, to a device that has had it; False if it has not.

        Raises:
            HomeserverError: its keys could not be asked for, or it could not be sent.
        """
        async with self._claims.lock:
            if not await self._may_have_again(wanted, user):
                return False

        async def look() -> Sequence[DeviceIdentity]:
            return [each for each in (await self._lists.of([user]))[user].devices if each.device == wanted.device]

        letters: list[Letter] = []
        given = await self._claims.run(
            look, self._keys.to_ask, lambda devices, asked: self._give_again(wanted, user, devices, asked, letters)
        )
        await self._post(letters)
        return given

    async def _may_have_again(self, wanted: KeyRequest, user: UserId) -> bool:
        """Whether a device has had the key, and was not given it again a moment ago; from now on it counts as given."""
        name, now = (wanted.room, user, wanted.device), self._wall_ms()
        session = await self._session_of(wanted)
        if session is None or not _had(session.record, wanted, user):
            return False
        if now - self._given.get(name, -GIVE_AGAIN_MS) < GIVE_AGAIN_MS:
            return False
        self._given[name] = now
        return True

    async def _give_again(
        self,
        wanted: KeyRequest,
        user: UserId,
        known: Sequence[DeviceIdentity],
        asked: Collection[DeviceIdentity],
        letters: list[Letter],
    ) -> bool:
        session = await self._session_of(wanted)
        if session is None:
            return False
        had = _had(session.record, wanted, user)
        devices = [each for each in known if (user, each.device, each.curve25519) in had]
        if devices:
            await self._save(session, shared=session.record.shared - had)
            await self._keys.share(session, key_of(session), devices, asked, letters)
        return bool(devices)

    async def _session_of(self, wanted: KeyRequest) -> RoomSession | None:
        session = await self._load(wanted.room)
        return session if session is not None and session.record.session_id == wanted.session_id else None

    def _serve_later(self, session: RoomSession, key: Mapping[str, object], user: UserId, least: Trust) -> None:
        """Give the devices of a user the key as it is now, once their server has answered; it may be long gone then."""
        room, name = session.record.room, (session.record.session_id, user)

        async def look() -> Sequence[DeviceIdentity]:
            devices = (await self._lists.of([user]))[user].devices
            return [each for each in devices if each.trust.meets(least) and not self._is_ours(each)]

        async def lacking(devices: Sequence[DeviceIdentity]) -> list[DeviceIdentity]:
            current = await self._load(room)
            return [] if current is None else await self._keys.to_ask(without_it(current.record, devices))

        async def use(devices: Sequence[DeviceIdentity], asked: Collection[DeviceIdentity]) -> None:
            current = await self._load(room)
            if current is not None and current.record.session_id == name[0]:
                await self._keys.share(current, key, devices, asked, letters)

        letters: list[Letter] = []

        async def serve() -> None:
            try:
                async with asyncio.timeout(SERVE_LATE_S):
                    await self._claims.run(look, lacking, use)
                    await self._post(letters)
            except (HomeserverError, StorageError, TimeoutError) as error:
                log.debug("the devices of %s do not have the key of a room yet: %s", user, error)
            finally:
                self._serving.discard(name)

        if name not in self._serving and self._later(user, serve):
            self._serving.add(name)


def _had(record: OutboundRecord, wanted: KeyRequest, user: UserId) -> set[tuple[UserId, DeviceId, str]]:
    """As what the device that asks for a key has had it."""
    return {each for each in record.shared if each[:2] == (user, wanted.device)}
