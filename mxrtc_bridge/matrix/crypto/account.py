"""The Olm account of our device: its keys, and what of them the homeserver is given to hand out.

One-time keys are given once each; when all are gone, the fallback key is given to everybody until it is replaced. So a
flood of claims costs forward secrecy of first messages and never the reachability of the device. How many are made in
an hour is bounded, because each may leave a session behind.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mxrtc_bridge.core.crypto.records import AccountRecord
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.matrix.crypto.binding import vodozemac
from mxrtc_bridge.matrix.crypto.signed_json import with_signature
from mxrtc_bridge.matrix.crypto.values import MEGOLM, OLM

KEYS_WANTED = 50
"""One-time keys that the homeserver has after an upload."""
KEYS_LOW = 25
KEYS_PER_HOUR = 200
"""One-time keys that are made in an hour: whoever uses them up orders no more; the fallback key serves meanwhile."""
HOUR_MS = 3600 * 1000
FALLBACK_EVERY_MS = 3600 * 1000
"""A fallback key that was used is replaced at most this often: each replacement ends the life of the one before."""


class OwnAccount:
    """A live account; whatever changes it must be followed by saving :meth:`record`."""

    def __init__(self, user: UserId, record: AccountRecord, pickle_key: bytes) -> None:
        self.user = user
        self._record = record
        self._pickle_key = pickle_key
        self.olm = vodozemac.Account.from_pickle(record.pickle, pickle_key)
        self.ed25519 = self.olm.ed25519_key.to_base64()
        self.curve25519 = self.olm.curve25519_key.to_base64()
        self._hour_began_ms = 0
        self._made = 0

    @classmethod
    def new(cls, user: UserId, device: DeviceId, pickle_key: bytes) -> OwnAccount:
        """An account with new keys."""
        return cls(user, AccountRecord(device, vodozemac.Account().pickle(pickle_key)), pickle_key)

    @property
    def device(self) -> DeviceId:
        """Our device."""
        return self._record.device

    def record(self, **changes: Any) -> AccountRecord:
        """The account as it is to be saved, with some fields replaced for good."""
        self._record = replace(self._record, pickle=self.olm.pickle(self._pickle_key), **changes)
        return self._record

    @property
    def stored(self) -> AccountRecord:
        """The record without a new pickle."""
        return self._record

    def sign(self, message: bytes) -> str:
        """Sign with the key of the device."""
        return self.olm.sign(message).to_base64()

    def device_keys(self) -> dict[str, Any]:
        """The signed keys of the device, as they are uploaded and sent along with Olm messages (MSC4147)."""
        keys = {
            "user_id": self.user,
            "device_id": self.device,
            "algorithms": [OLM, MEGOLM],
            "keys": {f"curve25519:{self.device}": self.curve25519, f"ed25519:{self.device}": self.ed25519},
        }
        return with_signature(keys, self.user, self.device, self.sign)

    def make_keys(self, on_server: int | None, *, fallback_used: bool, now_ms: int, at_least: int = 0) -> bool:
        """Make the keys that the homeserver lacks; returns whether there is something to upload.

        Args:
            on_server: one-time keys that it has; None where it did not say.
            fallback_used: whether it has no unused fallback key.
            now_ms: milliseconds since the epoch.
            at_least: one-time keys to be uploaded although it has enough.
        """
        lacking = KEYS_WANTED - on_server if on_server is not None and on_server < KEYS_LOW else 0
        if (lacking := max(lacking, at_least) - len(self.olm.one_time_keys)) > 0:
            if not 0 <= now_ms - self._hour_began_ms < HOUR_MS:
                self._hour_began_ms, self._made = now_ms, 0
            wanted = min(lacking, KEYS_PER_HOUR - self._made)
            if wanted > 0:
                self.olm.generate_one_time_keys(wanted)
                self._made += wanted
        # One that was made in the future, as the clock was ahead, is of no known age.
        is_old = not 0 <= now_ms - self._record.fallback_ms < FALLBACK_EVERY_MS
        # While one waits to be uploaded the homeserver gives everybody the one before, and an account keeps two.
        if fallback_used and is_old and not self._fallback_keys():
            self.olm.generate_fallback_key()  # type: ignore[attr-defined] # missing in the library's stubs
            self.record(fallback_ms=now_ms)
        return bool(self.olm.one_time_keys or self._fallback_keys())

    def _fallback_keys(self) -> dict[str, Any]:
        keys: dict[str, Any] = self.olm.fallback_key  # type: ignore[attr-defined]
        return keys

    def keys_to_upload(self) -> dict[str, Any]:
        """The body of ``/keys/upload`` for everything that is not published; call :meth:`published` afterwards."""
        content: dict[str, Any] = {}
        if one_time := self.olm.one_time_keys:
            content["one_time_keys"] = {
                f"signed_curve25519:{name}": self._signed({"key": key.to_base64()}) for name, key in one_time.items()
            }
        if fallback := self._fallback_keys():
            content["fallback_keys"] = {
                f"signed_curve25519:{name}": self._signed({"key": key.to_base64(), "fallback": True})
                for name, key in fallback.items()
            }
        return content

    def use_up(self, key: str) -> bool:
        """Use up one of our one-time keys that was handed out to ourselves; False if it is none of ours.

        A fallback key stays, as it does when others use it.
        """
        other = vodozemac.Account()
        try:
            session = other.create_outbound_session(
                self.olm.curve25519_key, vodozemac.Curve25519PublicKey.from_base64(key)
            )
            first = session.encrypt(b"").to_pre_key()
            assert first is not None
            self.olm.create_inbound_session(other.curve25519_key, first)
        except ValueError:
            return False
        return True

    def published(self) -> None:
        """Say that the homeserver has what :meth:`keys_to_upload` gave."""
        self.olm.mark_keys_as_published()

    def _signed(self, value: dict[str, Any]) -> dict[str, Any]:
        return with_signature(value, self.user, self.device, self.sign)
