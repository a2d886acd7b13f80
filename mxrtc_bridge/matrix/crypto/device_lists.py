"""Whose devices there are, and how far each is trusted.

The identity of a user that is seen first is pinned. When the homeserver shows another one, or none, the devices of the
user count as unsigned until somebody accepts the change (:meth:`DeviceLists.accept_identity`): a homeserver that wants
to listen in cannot do so without being seen.

What is known serves until the homeserver says that it has changed: good for whom a message is encrypted, as those share
an encrypted room with us, and the homeserver tells of their changes. It tells of nobody else. Who may call is therefore
never judged by what is known, but by an answer that was asked for (:meth:`DeviceLists.ask`, :meth:`DeviceLists.learn`).
Nothing is locked while the homeserver is waited for but the users who are asked for.

One file: trust in a device is decided where its list is kept, so that no copy of it grows old.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mxrtc_bridge.core.bounds.latest import Latest
from mxrtc_bridge.core.call.limits import RateLimit
from mxrtc_bridge.core.crypto.records import Changes, Trust, UserRecord
from mxrtc_bridge.core.errors import EventError, HomeserverError, StorageError
from mxrtc_bridge.core.ids import UserId, parse_user_id
from mxrtc_bridge.core.text.foreign_json import list_inside
from mxrtc_bridge.engine.clock import elapsed_s
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog
from mxrtc_bridge.matrix.crypto.key_answers import UserKeys, keys_in
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.keyed_locks import KeyedLocks
from mxrtc_bridge.matrix.crypto.signed_json import (
    identity_of,
    is_signed_by_owner,
    kept,
    parse_cross_signing,
    parse_device_keys,
    parse_devices,
)
from mxrtc_bridge.matrix.crypto.store import DeviceStore
from mxrtc_bridge.matrix.crypto.values import CrossSigningKeys, DeviceIdentity, DeviceKeys, UserDevices

log = logging.getLogger(__name__)

MAX_AGE_MS = 24 * 3600 * 1000
"""After this long a list is asked for again, whatever the homeserver has said."""
ASK_AGAIN_MS = 60 * 1000
"""After this long whoever could not be asked for is asked for again; until then the old list serves."""
MAX_CACHED = 1000
_EVERYBODY = UserId("")
MAX_CHANGED = 10_000
"""Users of one answer that are looked at; a device shares rooms with far fewer."""
FILLS = 3
"""How often a list is asked for that changes while it is asked for; then the last answer serves."""
FINDS_A_MINUTE, FINDS_A_MINUTE_OF_SERVER = 6, 60
"""Questions for devices that nobody knows: what a stranger sends makes us ask no more often."""


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a user, as it was judged."""

    devices: UserDevices
    verified: str | None
    digest: bytes
    """Of the answer that it comes from; empty if it comes from the database."""
    began_s: float
    """When that was asked for, by the monotonic clock; minus infinity for what comes from the database."""
    at_ms: int
    """The same by the wall clock, which goes on while the machine sleeps."""


@dataclass(frozen=True, slots=True)
class DeviceListsStatus:
    """What :meth:`DeviceLists.status` says."""

    users: int
    """Users whose devices are held in memory."""
    asked: int
    """Users whose devices are asked for."""


class DeviceLists:
    """The devices of all users that one device of ours deals with."""

    def __init__(
        self,
        server: KeyServer,
        store: DeviceStore,
        *,
        wall_ms: Callable[[], int],
        known: Mapping[UserId, str] | None = None,
        monotonic: Callable[[], float] = elapsed_s,
        own_server: str = "",
        compared: Mapping[UserId, str] | None = None,
        seldom: RateLimitedLog | None = None,
    ) -> None:
        """Make the lists.

        Args:
            server: asked for keys.
            store: remembers them.
            wall_ms: milliseconds since the epoch.
            known: master keys that were compared by hand: their users' devices count as verified.
            monotonic: seconds that only ever grow.
            own_server: our homeserver, whose users together may have more asked for than those of another.
            compared: master keys that were compared with any device of ours; whoever changes it has to tell each
                device, by :meth:`vouch_for` or :meth:`accept_identity`. What a device itself has compared comes first.
            seldom: shared with others.
        """
        self._server = server
        self._store = store
        self._wall_ms = wall_ms
        self._monotonic = monotonic
        self._seldom = (seldom or RateLimitedLog(log)).of(log)
        self._known = dict(known or {})
        self._compared: Mapping[UserId, str] = {} if compared is None else compared
        self._cache = Latest[UserId, _Known](MAX_CACHED)
        self._changed_at: dict[UserId, float] = {}
        # Between a record's being read and being written again; never while somebody is asked.
        self._writing = asyncio.Lock()
        # So that whoever asks for the same user waits, and then finds the answer.
        self._asking = KeyedLocks()
        self._finds = RateLimit(FINDS_A_MINUTE, FINDS_A_MINUTE_OF_SERVER, own_server)

    def know(self, known: Mapping[UserId, str]) -> None:
        """Take over which master keys were compared by hand; everybody is judged again by them."""
        self._known = dict(known)
        self._cache.clear()

    # --- what the homeserver announces

    async def receive(self, section: object) -> frozenset[UserId]:
        """Take ``device_lists`` of a sync answer; returns the users whose devices have changed, or are not told of."""
        users: dict[UserId, None] = {}
        for name in ("changed", "left"):
            for user in list_inside(section, name)[:MAX_CHANGED]:
                try:
                    users[parse_user_id(user)] = None
                except EventError:
                    continue
        await self.mark_outdated(list(users))
        return frozenset(users)

    async def mark_outdated(self, users: Sequence[UserId]) -> None:
        """Ask for these users' devices anew when they are needed next."""
        if not users:
            return
        now = self._monotonic()
        for user in users:
            self._cache.pop(user, None)
            self._changed_at[user] = now
        if len(self._changed_at) > MAX_CHANGED:
            self._changed_at = {_EVERYBODY: now}
        await self._store.mark_outdated(users)

    async def mark_all_outdated(self) -> None:
        """Ask for everybody's devices anew: nobody has told us of changes for a while."""
        self._cache.clear()
        self._changed_at = {_EVERYBODY: self._monotonic()}
        await self._store.mark_outdated(None)

    def changed_since(self, user: UserId, began_s: float) -> bool:
        """Whether the homeserver has announced a change since then, so that an answer of then may be an old one."""
        never = float("-inf")
        return max(self._changed_at.get(user, never), self._changed_at.get(_EVERYBODY, never)) >= began_s

    # --- what is known

    def status(self) -> DeviceListsStatus:
        """How much is held in memory."""
        return DeviceListsStatus(len(self._cache), len(self._asking))

    async def of(self, users: Iterable[UserId], *, fresh: bool = False) -> dict[UserId, UserDevices]:
        """The devices of some users, asked for where they are not known.

        Args:
            users: whose.
            fresh: ask in any case: for users with whom no room is shared, whose changes nobody tells us of.

        Raises:
            HomeserverError: it does not answer, and some user was never asked for before.
        """
        wanted = list(dict.fromkeys(users))
        found: dict[UserId, UserDevices] = {}
        for _ in range(FILLS):
            began_s = self._monotonic()
            missing = []
            for user in wanted:
                known = None if fresh else self._cached(user)
                if known is None:
                    missing.append(user)
                else:
                    found[user] = known.devices
            if missing:
                async with self._asking.alone_with(missing):
                    found |= await self._fill(missing, fresh=fresh)
            # Others' devices may have changed while these were asked for.
            wanted = [user for user in wanted if self.changed_since(user, began_s)]
            if not wanted:
                break
        return found

    def _cached(self, user: UserId) -> _Known | None:
        known = self._cache.get(user)
        return known if known is not None and 0 <= self._wall_ms() - known.at_ms < MAX_AGE_MS else None

    async def _fill(self, users: Sequence[UserId], *, fresh: bool) -> dict[UserId, UserDevices]:
        if not fresh and all(self._cached(user) for user in users):
            # Somebody else has asked while we waited.
            return {user: self._cache[user].devices for user in users}
        read_s = self._monotonic()
        records = {user: await self._store.user(user) for user in users}
        oldest = self._wall_ms() - MAX_AGE_MS
        ask = [
            user
            for user, record in records.items()
            if fresh or record is None or record.outdated or not record.keys_json or record.queried_ms < oldest
        ]
        found: dict[UserId, UserDevices] = {}
        if ask:
            began_s = self._monotonic()
            try:
                answer = await self.ask(ask)
            except HomeserverError as error:
                if any(record is None or not record.keys_json for record in records.values()):
                    raise
                self._seldom.warning(str(error), "! the devices of %d users are not up to date: %s", len(ask), error)
            else:
                found = await self.learn(ask, answer, began_s)
        for user, record in records.items():
            if user in found:
                continue
            if record is None or not record.keys_json:
                found[user] = UserDevices(user, (), None, self._pinned(user, record))
                continue
            found[user] = self._judge(record)
            if not self.changed_since(user, read_s):
                at_ms = record.queried_ms if user not in ask else self._wall_ms() - MAX_AGE_MS + ASK_AGAIN_MS
                self._keep(found[user], record.verified_master, at_ms=at_ms)
        return found

    def recent(self, user: UserId, age_ms: int) -> UserDevices | None:
        """What the last answer said, if it is not older than that and nothing has changed since by all we know."""
        known = self._cache.get(user)
        if known is None or self._monotonic() - known.began_s > age_ms / 1000:
            return None
        return known.devices if 0 <= self._wall_ms() - known.at_ms <= age_ms else None

    def last(self, user: UserId) -> UserDevices | None:
        """What was known last, without asking anybody; None if it is not at hand."""
        known = self._cache.get(user)
        return None if known is None else known.devices

    async def stored(self, user: UserId) -> UserDevices | None:
        """What was known last, also if it has changed since; None if nothing ever was.

        Raises:
            StorageError: the database cannot be used.
        """
        record = await self._store.user(user)
        return None if record is None or not record.keys_json else self._judge(record)

    async def known(self, user: UserId) -> UserDevices | None:
        """What is known, as far as nobody has said that it has changed, without asking the homeserver.

        Raises:
            StorageError: the database cannot be used.
        """
        if (cached := self._cached(user)) is not None:
            return cached.devices
        record = await self._store.user(user)
        if record is None or record.outdated or not record.keys_json:
            return None
        return self._judge(record) if self._wall_ms() - record.queried_ms < MAX_AGE_MS else None

    # --- what is asked for

    async def ask(self, users: Collection[UserId]) -> Mapping[str, object]:
        """Ask the homeserver for the keys of users; the answer is good for :meth:`learn`, of other lists as well.

        Raises:
            HomeserverError: it does not answer.
        """
        return await self._server.query_keys(tuple(users))

    async def learn(
        self, users: Iterable[UserId], answer: Mapping[str, object], began_s: float
    ) -> dict[UserId, UserDevices]:
        """Take an answer over; returns what it says, without those of whom it says nothing.

        An answer that was asked for earlier than the one that is known changes nothing. What cannot be stored counts
        all the same, and is asked for again.

        Args:
            users: of whom it is to be learned.
            answer: the homeserver's.
            began_s: when it was asked for, by the monotonic clock.
        """
        found: dict[UserId, UserDevices] = {}
        for user in users:
            keys = keys_in(answer, user)
            if keys is not None:
                async with self._writing:
                    found[user] = await self._learn(user, keys, began_s)
                # Signatures take time: others have their turn between two users.
                await asyncio.sleep(0)
        return found

    async def _learn(self, user: UserId, keys: UserKeys, began_s: float) -> UserDevices:
        known = self._cache.get(user)
        if known is not None and known.began_s > began_s:
            return known.devices
        now_ms = self._wall_ms()
        try:
            digest = keys.digest()
        except (ValueError, RecursionError):
            digest = b""
        if known is not None and digest and known.digest == digest:
            self._keep(known.devices, known.verified, digest, began_s=began_s, at_ms=now_ms)
            return known.devices
        try:
            old = await self._store.user(user)
            record = self._record(user, old, keys, began_s)
            await self._store.save(Changes(users=[record]))
        except StorageError as error:
            self._seldom.warning(user, "! the devices of %s were not stored: %s", user, error)
            if known is None:
                # Without what was pinned nobody knows whether it is the right identity.
                found = self._judge(self._record(user, None, keys, began_s))
                return replace(found, devices=tuple(replace(each, trust=Trust.UNSIGNED) for each in found.devices))
            pinned, verified = known.devices.pinned, known.verified
            old = UserRecord(user, "", 0, outdated=True, pinned_master=pinned, verified_master=verified)
            return self._judge(self._record(user, old, keys, began_s))
        found = self._judge(record)
        if not record.outdated:
            self._keep(found, record.verified_master, digest, began_s=began_s, at_ms=now_ms)
        return found

    def _record(self, user: UserId, old: UserRecord | None, keys: UserKeys, began_s: float) -> UserRecord:
        identity = parse_cross_signing(keys.master, keys.self_signing, user)
        chain = [kept(each, user) if identity and isinstance(each, dict) else None for each in keys.identity]
        listed = {
            "master": chain[0],
            "self_signing": chain[1],
            "devices": {each.device: each.signed for each in parse_devices(keys.devices, user)},
        }
        pinned = old.pinned_master if old is not None else None
        if pinned is None and identity is not None:
            pinned = identity.master
        return UserRecord(
            user=user,
            keys_json=json.dumps(listed, separators=(",", ":")),
            queried_ms=self._wall_ms(),
            outdated=self.changed_since(user, began_s),
            pinned_master=pinned,
            verified_master=None if old is None else old.verified_master,
        )

    def _judge(self, record: UserRecord) -> UserDevices:
        keys = json.loads(record.keys_json)
        identity = parse_cross_signing(keys["master"], keys["self_signing"], record.user)
        devices: list[DeviceIdentity] = []
        for name, signed in keys["devices"].items():
            device = parse_device_keys(signed, record.user, name)
            devices.append(identity_of(device, self._trust(device, identity, record)))
        return UserDevices(
            record.user,
            tuple(devices),
            None if identity is None else identity.master,
            self._pinned(record.user, record),
        )

    def _pinned(self, user: UserId, record: UserRecord | None) -> str | None:
        """The identity by which a user is known."""
        if record is None or record.verified_master is None:
            compared = self._compared.get(user)
            if compared is not None:
                return compared
        return None if record is None else record.pinned_master

    def _trust(self, device: DeviceKeys, identity: CrossSigningKeys | None, record: UserRecord) -> Trust:
        if identity is None or not is_signed_by_owner(device, identity):
            return Trust.UNSIGNED
        if record.user in self._known:
            return Trust.VERIFIED if self._known[record.user] == identity.master else Trust.UNSIGNED
        verified = record.verified_master or self._compared.get(record.user)
        if verified is not None:
            return Trust.VERIFIED if verified == identity.master else Trust.UNSIGNED
        return Trust.CROSS_SIGNED if record.pinned_master == identity.master else Trust.UNSIGNED

    def _keep(
        self,
        devices: UserDevices,
        verified: str | None = None,
        digest: bytes = b"",
        *,
        began_s: float = float("-inf"),
        at_ms: int | None = None,
    ) -> None:
        at_ms = self._wall_ms() if at_ms is None else at_ms
        self._cache[devices.user] = _Known(devices, verified, digest, began_s, at_ms)

    async def find(self, user: UserId, curve25519: str, ed25519: str) -> DeviceIdentity | None:
        """The device with these two keys; the homeserver is asked once more if it is not known.

        None also where the homeserver does not answer.
        """
        try:
            return await self.look_for(user, curve25519, ed25519)
        except HomeserverError as error:
            self._seldom.info(user, "the devices of %s could not be asked for: %s", user, error)
            return None

    async def look_for(self, user: UserId, curve25519: str, ed25519: str) -> DeviceIdentity | None:
        """The same; what others send leads here, so each user, and all of a server together, have a limit of questions.

        Raises:
            HomeserverError: it does not answer.
            StorageError: the database cannot be used.
        """
        known = await self.known(user)
        device = None if known is None else device_with(known, curve25519, ed25519)
        if device is None and self._finds.allow(user, self._monotonic()):
            device = device_with((await self.of([user], fresh=True))[user], curve25519, ed25519)
        return device

    # --- identities

    async def accept_identity(self, user: UserId, *, verified: str | None = None) -> UserDevices:
        """Take the identity that the homeserver shows now for the right one.

        Args:
            user: whose.
            verified: the master key as it was compared over another way; None to accept it unseen.
        """
        shown = (await self.of([user], fresh=True))[user]
        if shown.master is not None and (verified is None or verified == shown.master):
            await self._remember(user, shown.master, verified)
        return (await self.of([user]))[user]

    async def vouch_for(self, user: UserId, master: str) -> None:
        """Take an identity for the right one that was compared over another way, whatever the homeserver shows.

        Raises:
            StorageError: the database refuses.
        """
        await self._remember(user, master, master)

    async def _remember(self, user: UserId, pinned: str, verified: str | None) -> None:
        # Not between a list's being read and being written again.
        async with self._writing:
            record = await self._store.user(user) or UserRecord(user, "", 0, outdated=True)
            changed = replace(record, pinned_master=pinned, verified_master=verified)
            await self._store.save(Changes(users=[changed]))
            known = self._cache.pop(user, None)
            if changed.keys_json and known is not None:
                at_ms, began_s = known.at_ms, known.began_s
                self._keep(self._judge(changed), verified, known.digest, began_s=began_s, at_ms=at_ms)


def device_with(known: UserDevices, curve25519: str, ed25519: str) -> DeviceIdentity | None:
    """The device of a list with these two keys."""
    keys = (curve25519, ed25519)
    return next((each for each in known.devices if (each.curve25519, each.ed25519) == keys), None)
