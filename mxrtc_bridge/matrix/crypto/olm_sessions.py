"""Olm: messages between our device and one other device (client-server API, "m.olm.v1.curve25519-aes-sha2").

Must never use the state of a session twice: it is saved before what it has encrypted is sent. What a message has
changed is saved together with what it has brought, by the caller, who knows both (:meth:`OlmSessions.changes`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mxrtc_bridge.core.crypto.records import Changes, OlmRecord
from mxrtc_bridge.core.errors import EventError, RefusalCode
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.core.text.foreign_json import inside, read_foreign_json
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.binding import vodozemac
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from mxrtc_bridge.matrix.crypto.olm_message import OlmMessage
from mxrtc_bridge.matrix.crypto.opened_messages import OpenedMessages
from mxrtc_bridge.matrix.crypto.signed_json import (
    from_unpadded,
    is_key,
    parse_device_keys,
    parse_one_time_key,
    unpadded,
)
from mxrtc_bridge.matrix.crypto.store import DeviceStore
from mxrtc_bridge.matrix.crypto.values import OLM, DeviceIdentity

MAX_CIPHERTEXT_CHARS = 128 * 1024
"""An event has at most 64 KiB; to-device messages have no limit of their own."""
MAX_DEPTH = 64
"""Levels of what a message says; it is written again before it is dealt with, from wherever something is saved."""
MAX_SESSIONS = 8
"""Sessions with one device that are tried; a new one is made only when an old one is broken."""
MAX_SESSIONS_OF_KEY = 32
"""The same for all users together whose devices have one key: only one of them can have it, the others say so."""
MAX_CACHED = 512
"""Devices whose sessions are held in memory."""


class UnknownKeyError(EventError):
    """A message was encrypted with a key of ours that we do not have: perhaps the homeserver has handed it out."""


@dataclass(slots=True)
class _Live:
    olm: Any
    used_ms: int
    user: str
    kept: bool = True
    """Whether it is saved: one that a stranger has begun is not before it has brought something of use."""


@dataclass(frozen=True, slots=True)
class ClaimedKey:
    """A one-time key of another device, signed by it."""

    device: DeviceIdentity
    key: str


class OlmSessions:
    """All Olm sessions of our device. Not for two tasks at the same time, :meth:`claim` aside: the owner has a lock."""

    def __init__(
        self,
        account: OwnAccount,
        store: DeviceStore,
        server: KeyServer,
        pickle_key: bytes,
        *,
        opened: OpenedMessages,
        wall_ms: Callable[[], int],
    ) -> None:
        self._opened = opened
        self._account = account
        self._store = store
        self._server = server
        self._pickle_key = pickle_key
        self._wall_ms = wall_ms
        self._live: dict[str, list[_Live]] = {}
        self._dirty: dict[tuple[str, str], _Live] = {}
        self._account_dirty = False

    def changes(self, *, settles: bool = False, **more: Any) -> Changes:
        """What has to be saved, as one transaction, together with ``more``; :meth:`saved` follows.

        Args:
            settles: what has come with an answer is dealt with by it.
            more: what else is saved.
        """
        olm = [
            OlmRecord(key, session_id, live.olm.pickle(self._pickle_key), live.used_ms, live.user)
            for (key, session_id), live in self._dirty.items()
        ]
        if self._account_dirty and "account" not in more:
            more["account"] = self._account.record()
        opened, dealt_with = self._opened.to_store(settles=settles)
        return Changes(olm=olm, opened=opened, dealt_with=dealt_with, **more)

    def saved(self) -> None:
        """Say that what :meth:`changes` gave has been saved; only now may sessions leave the memory."""
        self._dirty.clear()
        self._account_dirty = False
        self._opened.stored()
        while len(self._live) > MAX_CACHED:
            del self._live[next(iter(self._live))]

    def forget(self) -> None:
        """Know no session any more, as the store does."""
        self._live.clear()
        self._dirty.clear()

    # --- receiving

    async def decrypt(self, sender: UserId, content: Mapping[str, Any]) -> OlmMessage:
        """Decrypt an ``m.room.encrypted`` to-device event; where it was of use, :meth:`keep` its session.

        Raises:
            EventError: with the code ``bad_event`` for a message that is malformed, not for us or not from ``sender``,
                and ``undecryptable`` where the session is broken.
        """
        sender_key, kind, body = self._parse(content)
        plaintext, session_id = await self._plaintext(sender, sender_key, kind, body)
        return replace(self._read(sender, sender_key, plaintext), session_id=session_id)

    def keep(self, message: OlmMessage) -> None:
        """Save the session of a message that was of use; until then it is forgotten with the memory."""
        for live in self._live.get(message.curve25519, ()):
            if live.olm.session_id == message.session_id and not live.kept:
                live.kept = True
                self._dirty[message.curve25519, message.session_id] = live

    def _read(self, sender: UserId, sender_key: str, plaintext: bytes) -> OlmMessage:
        payload = _json_object(plaintext)
        ed25519, ours = inside(payload, "keys", "ed25519"), inside(payload, "recipient_keys", "ed25519")
        event_type, inner = payload.get("type"), payload.get("content")
        if payload.get("sender") != sender or not is_key(ed25519):
            raise EventError(RefusalCode.BAD_EVENT, "the message inside names another sender")
        if payload.get("recipient") != self._account.user or ours != self._account.ed25519:
            raise EventError(RefusalCode.BAD_EVENT, "the message inside was meant for another device")
        if not isinstance(event_type, str) or len(event_type) > 255 or not isinstance(inner, dict):
            raise EventError(RefusalCode.BAD_EVENT, "the message inside is no event")
        proof = payload.get("sender_device_keys") or payload.get("org.matrix.msc4147.device_keys")
        device_keys = None
        if proof is not None:
            device_keys = parse_device_keys(proof, sender)
            if (device_keys.curve25519, device_keys.ed25519) != (sender_key, ed25519):
                raise EventError(RefusalCode.BAD_EVENT, "the message carries the keys of another device")
        return OlmMessage(event_type, inner, sender_key, str(ed25519), device_keys, chars=len(plaintext))

    def _parse(self, content: Mapping[str, Any]) -> tuple[str, int, bytes]:
        sender_key, ciphertext = content.get("sender_key"), content.get("ciphertext")
        if content.get("algorithm") != OLM:
            raise EventError(RefusalCode.BAD_EVENT, "the message is encrypted in a way that is not known here")
        if not is_key(sender_key) or not isinstance(ciphertext, dict):
            raise EventError(RefusalCode.BAD_EVENT, "the encrypted message is malformed")
        ours = ciphertext.get(self._account.curve25519)
        if not isinstance(ours, dict):
            raise EventError(RefusalCode.BAD_EVENT, "the message was encrypted for another device")
        kind, body = ours.get("type"), ours.get("body")
        if type(kind) is not int or kind not in (0, 1):
            raise EventError(RefusalCode.BAD_EVENT, "the encrypted message is of no known kind")
        if not isinstance(body, str) or len(body) > MAX_CIPHERTEXT_CHARS:
            raise EventError(RefusalCode.BAD_EVENT, "the encrypted message is malformed or too long")
        return str(sender_key), kind, from_unpadded(body)

    async def _plaintext(self, sender: UserId, sender_key: str, kind: int, body: bytes) -> tuple[bytes, str]:
        """What a message says, and the session that has brought it."""
        try:
            message = vodozemac.AnyOlmMessage.from_parts(kind, body)
            if kind == 0:
                return await self._first_plaintext(sender, sender_key, message)
        except ValueError as error:
            raise EventError(RefusalCode.UNDECRYPTABLE, "the message fits no session with its sender") from error
        for live in await self._with(sender_key):
            try:
                plaintext: bytes = live.olm.decrypt(message)
            except ValueError:
                continue
            self._used(sender, sender_key, live)
            return plaintext, live.olm.session_id
        raise EventError(RefusalCode.UNDECRYPTABLE, "the message fits no session with its sender")

    async def _first_plaintext(self, sender: UserId, sender_key: str, message: Any) -> tuple[bytes, str]:
        """Decrypt a message of a sender that has not heard of us yet: it holds what a session is made of."""
        pre_key = message.to_pre_key()
        for live in await self._with(sender_key):
            if live.olm.session_matches(pre_key):
                plaintext: bytes = live.olm.decrypt(message)
                self._used(sender, sender_key, live)
                return plaintext, live.olm.session_id
        try:
            olm, plaintext = self._account.olm.create_inbound_session(
                vodozemac.Curve25519PublicKey.from_base64(sender_key), pre_key
            )
        except ValueError as error:
            raise UnknownKeyError(
                RefusalCode.UNDECRYPTABLE, "the message was encrypted with a key that is not ours any more"
            ) from error
        self._account_dirty = True
        self._add(sender, sender_key, olm, kept=False)
        return plaintext, olm.session_id

    # --- sending

    async def lacking(self, devices: Sequence[DeviceIdentity]) -> list[DeviceIdentity]:
        """The devices that there is no session with."""
        return [device for device in devices if not await self._for(device)]

    async def claim(self, devices: Sequence[DeviceIdentity]) -> list[ClaimedKey]:
        """Ask for a key of each of the devices; those that have none left are left out.

        It may take long, as other servers are asked, and touches no session: the lock must not be held.

        Raises:
            HomeserverError: it did not answer.
        """
        wanted: dict[UserId, list[DeviceId]] = {}
        for device in devices:
            wanted.setdefault(device.user, []).append(device.device)
        if not wanted:
            return []
        claimed = await self._server.claim_keys(self._account.device, wanted)
        keys = [
            (device, parse_one_time_key(claimed.get(device.user, {}).get(device.device), device)) for device in devices
        ]
        return [ClaimedKey(device, key) for device, key in keys if key is not None]

    async def begin(self, claimed: Sequence[ClaimedKey], *, anew: bool = False) -> None:
        """Begin sessions by keys that were claimed.

        Args:
            claimed: what :meth:`claim` gave.
            anew: with devices that have a session as well, because it is broken. Else the key is dropped: a session
                has come meanwhile, and a second one would only make both ends change over.
        """
        for each in claimed:
            device = each.device
            # Read in any case: what is added must not hide the sessions that are in the database.
            if await self._for(device) and not anew:
                continue
            try:
                olm = self._account.olm.create_outbound_session(
                    vodozemac.Curve25519PublicKey.from_base64(device.curve25519),
                    vodozemac.Curve25519PublicKey.from_base64(each.key),
                )
            except ValueError:
                continue
            self._add(device.user, device.curve25519, olm)

    async def encrypt(
        self, device: DeviceIdentity, event_type: str, content: Mapping[str, Any]
    ) -> dict[str, Any] | None:
        """Encrypt for one device; None where there is no session. Save :meth:`changes` before sending it."""
        sessions = await self._for(device)
        if not sessions:
            return None
        payload = {
            "type": event_type,
            "content": content,
            "sender": self._account.user,
            "recipient": device.user,
            "recipient_keys": {"ed25519": device.ed25519},
            "keys": {"ed25519": self._account.ed25519},
            "sender_device_keys": self._account.device_keys(),
        }
        live = sessions[0]
        kind, body = live.olm.encrypt(json.dumps(payload, separators=(",", ":")).encode()).to_parts()
        live.kept = True
        self._dirty[device.curve25519, live.olm.session_id] = live
        return {
            "algorithm": OLM,
            "sender_key": self._account.curve25519,
            "ciphertext": {device.curve25519: {"type": kind, "body": unpadded(body)}},
        }

    # --- memory

    async def _for(self, device: DeviceIdentity) -> list[_Live]:
        """Sessions to encrypt with for a device, the best one first.

        Anybody can list a key of somebody else as one of their own: what was begun for them is of no use for its owner.
        """
        return [live for live in await self._with(device.curve25519) if live.user in ("", device.user)]

    async def _with(self, key: str) -> list[_Live]:
        """Sessions with a device, the one to encrypt with first."""
        found = self._live.get(key)
        if found is None:
            records = (await self._store.olm_sessions(key))[:MAX_SESSIONS]
            loaded = [
                _Live(vodozemac.Session.from_pickle(record.pickle, self._pickle_key), record.used_ms, record.user)
                for record in records
            ]
            # Somebody else may have loaded or made them meanwhile.
            found = self._live.setdefault(key, loaded)
        return found

    def _add(self, user: UserId, key: str, olm: Any, *, kept: bool = True) -> None:
        live = _Live(olm, self._wall_ms(), user, kept)
        sessions = self._live.setdefault(key, [])
        sessions.insert(0, live)
        if kept:
            self._dirty[key, olm.session_id] = live
        for surplus in [each for each in sessions if each.user == user][MAX_SESSIONS:]:
            sessions.remove(surplus)
        del sessions[MAX_SESSIONS_OF_KEY:]

    def _used(self, sender: UserId, key: str, live: _Live) -> None:
        live.used_ms = self._wall_ms()
        live.user = live.user or sender
        sessions = self._live[key]
        sessions.remove(live)
        sessions.insert(0, live)
        if live.kept:
            self._dirty[key, live.olm.session_id] = live


def _json_object(text: bytes) -> Mapping[str, Any]:
    try:
        value = read_foreign_json(text, MAX_DEPTH)
    except ValueError as error:
        raise EventError(RefusalCode.BAD_EVENT, "the message inside is not JSON") from error
    if not isinstance(value, dict):
        raise EventError(RefusalCode.BAD_EVENT, "the message inside is not an object")
    return value
