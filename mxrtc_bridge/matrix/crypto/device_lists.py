"""Whose devices there are, and how far each is trusted.

The identity of a user that is seen first is pinned. When the homeserver shows another one, or none, the devices of the
user count as unsigned until somebody accepts the change (:meth:`DeviceLists.accept_identity`): a homeserver that wants
to listen in cannot do so without being seen. What is known is used until the homeserver says that it has changed; then
it is asked anew, and when it does not answer, the old list is used rather than none.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from mxrtc_bridge.core.errors import EventError, HomeserverError
from mxrtc_bridge.core.ids import UserId, parse_user_id
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.signed_json import (
    identity_of,
    is_signed_by_owner,
    parse_cross_signing,
    parse_device_keys,
    parse_devices,
)
from mxrtc_bridge.matrix.crypto.store import Changes, CryptoStore, UserRecord
from mxrtc_bridge.matrix.crypto.values import CrossSigningKeys, DeviceIdentity, DeviceKeys, Trust, UserDevices

_log = logging.getLogger(__name__)

MAX_AGE_MS = 24 * 3600 * 1000
"""After this long a list is asked for again, whatever the homeserver has said."""
MAX_CACHED = 1000
_EVERYBODY = UserId("")
MAX_CHANGED = 10_000
"""Users of one answer that are looked at; a device shares rooms with far fewer."""


class DeviceLists:
    """The devices of all users that one device of ours deals with."""

    def __init__(
        self,
        server: KeyServer,
        store: CryptoStore,
        *,
        wall_ms: Callable[[], int],
        known: Mapping[UserId, str] | None = None,
    ) -> None:
        """Make the lists.

        Args:
            server: asked for keys.
            store: remembers them.
            wall_ms: milliseconds since the epoch.
            known: master keys that were compared by hand: their users' devices count as verified.
        """
        self._server = server
        self._store = store
        self._wall_ms = wall_ms
        self._known = dict(known or {})
        self._cache: dict[UserId, UserDevices] = {}
        self._changes = 0
        self._changed_at: dict[UserId, int] = {}
        self._asking = asyncio.Lock()

    def know(self, known: Mapping[UserId, str]) -> None:
        """Take over which master keys were compared by hand; everybody is judged again by them."""
        self._known = dict(known)
        self._cache.clear()

    async def receive(self, section: object) -> frozenset[UserId]:
        """Take ``device_lists`` of a sync answer; returns the users whose devices have changed."""
        changed = section.get("changed") if isinstance(section, dict) else None
        users: list[UserId] = []
        for user in (changed if isinstance(changed, list) else ())[:MAX_CHANGED]:
            try:
                users.append(parse_user_id(user))
            except EventError:
                continue
        await self.mark_outdated(users)
        return frozenset(users)

    async def mark_outdated(self, users: Sequence[UserId]) -> None:
        """Ask for these users' devices anew when they are needed next."""
        if not users:
            return
        self._changes += 1
        for user in users:
            self._cache.pop(user, None)
            self._changed_at[user] = self._changes
        if len(self._changed_at) > MAX_CHANGED:
            self._changed_at = {_EVERYBODY: self._changes}
        await self._store.mark_outdated(users)

    async def mark_all_outdated(self) -> None:
        """Ask for everybody's devices anew: nobody has told us of changes for a while."""
        self._changes += 1
        self._cache.clear()
        self._changed_at = {_EVERYBODY: self._changes}
        await self._store.mark_outdated(None)

    async def of(self, users: Iterable[UserId], *, fresh: bool = False) -> dict[UserId, UserDevices]:
        """The devices of some users, asked for where they are not known.

        Args:
            users: whose.
            fresh: ask in any case: for users with whom no room is shared, whose changes nobody tells us of.

        Raises:
            HomeserverError: it does not answer, and some user was never asked for before.
        """
        wanted = list(dict.fromkeys(users))
        missing = [user for user in wanted if fresh or user not in self._cache]
        if missing:
            async with self._asking:
                await self._fill(missing, fresh=fresh)
        return {user: self._cache.get(user) or UserDevices(user, (), None, None) for user in wanted}

    async def _fill(self, users: Sequence[UserId], *, fresh: bool) -> None:
        records = {user: await self._store.user(user) for user in users}
        oldest = self._wall_ms() - MAX_AGE_MS
        ask = [
            user
            for user, record in records.items()
            if fresh or record is None or record.outdated or not record.keys_json or record.queried_ms < oldest
        ]
        if ask:
            before = self._changes
            try:
                answer = await self._server.query_keys(None, ask)
            except HomeserverError as error:
                if any(record is None or not record.keys_json for record in records.values()):
                    raise
                _log.warning("! the devices of %d users are not up to date: %s", len(ask), error)
            else:
                updated = [self._record(user, records[user], answer, before) for user in ask]
                fetched = [record for record in updated if record is not None]
                await self._store.save(Changes(users=fetched))
                records |= {record.user: record for record in fetched}
        for record in records.values():
            if record is not None and record.keys_json:
                self._keep(self._judge(record))

    def _record(
        self, user: UserId, old: UserRecord | None, answer: Mapping[str, object], before: int
    ) -> UserRecord | None:
        devices = parse_devices(_of(answer, "device_keys", user), user)
        if _of(answer, "device_keys", user) is None and _of(answer, "master_keys", user) is None and old is not None:
            # The user's server did not answer ours: what was known stays, and is asked for again.
            return replace(old, outdated=True) if old.keys_json else None
        master, signing = (_of(answer, section, user) for section in ("master_keys", "self_signing_keys"))
        identity = parse_cross_signing(master, signing, user)
        keys = {
            "master": master if identity else None,
            "self_signing": signing if identity else None,
            "devices": {each.device: each.signed for each in devices},
        }
        pinned = old.pinned_master if old is not None else None
        if pinned is None and identity is not None:
            pinned = identity.master
        return UserRecord(
            user=user,
            keys_json=json.dumps(keys, separators=(",", ":")),
            queried_ms=self._wall_ms(),
            outdated=max(self._changed_at.get(user, 0), self._changed_at.get(_EVERYBODY, 0)) > before,
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
            record.user, tuple(devices), None if identity is None else identity.master, record.pinned_master
        )

    def _trust(self, device: DeviceKeys, identity: CrossSigningKeys | None, record: UserRecord) -> Trust:
        if identity is None or not is_signed_by_owner(device, identity):
            return Trust.UNSIGNED
        if record.user in self._known:
            return Trust.VERIFIED if self._known[record.user] == identity.master else Trust.UNSIGNED
        if record.verified_master is not None:
            return Trust.VERIFIED if record.verified_master == identity.master else Trust.UNSIGNED
        return Trust.CROSS_SIGNED if record.pinned_master == identity.master else Trust.UNSIGNED

    def _keep(self, devices: UserDevices) -> None:
        self._cache.pop(devices.user, None)
        self._cache[devices.user] = devices
        while len(self._cache) > MAX_CACHED:
            del self._cache[next(iter(self._cache))]

    async def find(self, user: UserId, curve25519: str, ed25519: str) -> DeviceIdentity | None:
        """The device with these two keys; the homeserver is asked once more if it is not known."""
        for again in (False, True):
            if again:
                await self.mark_outdated([user])
            try:
                known = await self.of([user])
            except HomeserverError as error:
                _log.info("the devices of %s could not be asked for: %s", user, error)
                return None
            for device in known[user].devices:
                if (device.curve25519, device.ed25519) == (curve25519, ed25519):
                    return device
        return None

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
        async with self._asking:
            record = await self._store.user(user) or UserRecord(user, "", 0, outdated=True)
            changed = replace(record, pinned_master=pinned, verified_master=verified)
            await self._store.save(Changes(users=[changed]))
            self._cache.pop(user, None)
            if changed.keys_json:
                self._keep(self._judge(changed))


def _of(answer: Mapping[str, object], section: str, user: UserId) -> Any:
    found = answer.get(section)
    return found.get(user) if isinstance(found, dict) else None
