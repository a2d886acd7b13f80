"""Messages that were decrypted and are not dealt with yet.

A message can be decrypted once only: its session has moved on. So where an answer of the homeserver comes again, as
the database has refused in between or a handler has failed, what was in it is taken from here. And it is stored with
the state of its session, whenever that is, until it was dealt with: a crash loses nothing that the homeserver will not
give again. Must hold nothing longer than until its answer is settled, or its sender was looked up.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import secrets
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from mxrtc_bridge.core.crypto.records import OpenedRecord
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.text.foreign_json import inside
from mxrtc_bridge.matrix.crypto.keys import derive
from mxrtc_bridge.matrix.crypto.olm_message import OlmMessage
from mxrtc_bridge.matrix.crypto.signed_json import parse_device_keys

log = logging.getLogger(__name__)

_NONCE_BYTES = 12


@dataclass(slots=True)
class OpenedMessage:
    """What became of one message when it was decrypted."""

    name: str
    sender: UserId
    outcome: OlmMessage | EventError
    opened_ms: int
    waits: bool = False
    """Whether it waits for its sender to be looked up; the answer that has brought it may be settled before."""
    stored: bool = False
    handed_on: int = 0
    """The reading in which it was handed on last, so that it is so once in each."""

    def message(self) -> OlmMessage:
        """The message.

        Raises:
            EventError: it says nothing that could be used.
        """
        if isinstance(self.outcome, EventError):
            raise self.outcome
        return self.outcome


class OpenedMessages:
    """See the head of this module.

    Args:
        pickle_key: secrets in the store are encrypted with it.
    """

    def __init__(self, pickle_key: bytes) -> None:
        self._cipher = AESGCM(derive(pickle_key, "opened"))
        self._opened: dict[str, OpenedMessage] = {}
        self._ended: dict[str, None] = {}
        """Those that are dealt with, and stored."""
        self._given: tuple[tuple[OpenedMessage, ...], tuple[str, ...]] = ((), ())

    def __len__(self) -> int:
        return len(self._opened)

    def get(self, name: str) -> OpenedMessage | None:
        """What became of a message; None if it was not decrypted yet."""
        return self._opened.get(name)

    async def open(self, name: str, sender: UserId, decrypting: Awaitable[OlmMessage], now_ms: int) -> OpenedMessage:
        """Decrypt a message, once, and keep what becomes of it.

        Raises:
            StorageError: its session could not be read, and nothing has happened.
        """
        outcome: OlmMessage | EventError
        try:
            outcome = await decrypting
        except EventError as error:
            outcome = error
        return self.add(name, sender, outcome, now_ms)

    def add(self, name: str, sender: UserId, outcome: OlmMessage | EventError, now_ms: int) -> OpenedMessage:
        """Keep what became of a message."""
        opened = self._opened[name] = OpenedMessage(name, sender, outcome, now_ms)
        return opened

    def end(self, opened: OpenedMessage) -> None:
        """A message is dealt with."""
        if self._opened.get(opened.name) is opened:
            del self._opened[opened.name]
        if opened.stored:
            self._ended[opened.name] = None

    def settle(self) -> None:
        """The answer is dealt with, and does not come again."""
        for opened in [each for each in self._opened.values() if not each.waits]:
            self.end(opened)

    # The store

    def to_store(self, *, settles: bool) -> tuple[list[OpenedRecord], list[str]]:
        """What is to be stored with the state of sessions, and what is to be forgotten; :meth:`stored` follows.

        Args:
            settles: the answer is dealt with by it, so that only what waits is left.
        """
        new = [
            each
            for each in self._opened.values()
            if not each.stored and (each.waits or not settles) and isinstance(each.outcome, OlmMessage)
        ]
        gone = [*self._ended]
        if settles:
            gone += [each.name for each in self._opened.values() if each.stored and not each.waits]
        self._given = (tuple(new), tuple(gone))
        return [self._sealed(each) for each in new], gone

    def stored(self) -> None:
        """What was given last is stored."""
        new, gone = self._given
        for each in new:
            each.stored = True
            if self._opened.get(each.name) is not each:  # it was dealt with meanwhile
                self._ended[each.name] = None
        for name in gone:
            self._ended.pop(name, None)
            if (opened := self._opened.get(name)) is not None:
                opened.stored = False

    @property
    def has_ended(self) -> bool:
        """Whether something that is dealt with is still stored."""
        return bool(self._ended)

    def restore(self, records: Iterable[OpenedRecord]) -> list[OpenedMessage]:
        """Take over what an earlier run has left; returns what is new here, the oldest first."""
        found: list[OpenedMessage] = []
        for record in sorted(records, key=lambda each: each.opened_ms):
            if record.name in self._opened or record.name in self._ended:
                continue
            try:
                message = self._unsealed(record)
            except (ValueError, InvalidTag, EventError, KeyError, TypeError):
                # Of another key, or of another version.
                self._ended[record.name] = None
                continue
            opened = OpenedMessage(record.name, UserId(record.user), message, record.opened_ms, stored=True)
            self._opened[record.name] = opened
            found.append(opened)
        return found

    def _sealed(self, opened: OpenedMessage) -> OpenedRecord:
        message = opened.message()
        content = {
            "type": message.type,
            "content": message.content,
            "curve25519": message.curve25519,
            "ed25519": message.ed25519,
            "device_keys": None if message.device_keys is None else message.device_keys.signed,
        }
        nonce, about = secrets.token_bytes(_NONCE_BYTES), f"{opened.sender} {opened.name}".encode()
        sealed = self._cipher.encrypt(nonce, json.dumps(content, separators=(",", ":")).encode(), about)
        return OpenedRecord(opened.name, opened.sender, base64.b64encode(nonce + sealed).decode(), opened.opened_ms)

    def _unsealed(self, record: OpenedRecord) -> OlmMessage:
        sealed, about = base64.b64decode(record.sealed), f"{record.user} {record.name}".encode()
        text = self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], about)
        content = json.loads(text)
        proof = content["device_keys"]
        return OlmMessage(
            content["type"],
            content["content"],
            content["curve25519"],
            content["ed25519"],
            None if proof is None else parse_device_keys(proof, UserId(record.user)),
            chars=len(text),
        )


def name_of(sender: UserId, content: Mapping[str, Any], curve25519: str) -> str:
    """The name of an encrypted message to our device, by what it consists of."""
    body = inside(content, "ciphertext", curve25519, "body")
    text = f"{sender}\0{content.get('sender_key')}\0{body}"
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
