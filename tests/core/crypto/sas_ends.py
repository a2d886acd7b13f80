"""Two ends of a verification joined in memory, with a toy key agreement that has the properties that matter."""

from __future__ import annotations

import base64
import hashlib
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from mxrtc_bridge.core.crypto.sas import Verification
from mxrtc_bridge.core.crypto.sas_codes import ShortCode
from mxrtc_bridge.core.crypto.sas_events import TYPES, Request
from mxrtc_bridge.core.crypto.sas_values import (
    Agreement,
    Ask,
    Compare,
    Compared,
    Effect,
    LocalKeys,
    Received,
    RemoteKeys,
    SendToDevices,
    VerificationEnded,
    VerificationEvent,
    VerifiedKeys,
)
from mxrtc_bridge.core.ids import DeviceId, UserId

ALICE, PEER = UserId("@alice:example.org"), UserId("@rtc_build:example.org")
PHONE, LAPTOP, BUILD = DeviceId("PHONE"), DeviceId("LAPTOP"), DeviceId("BUILD")
TRANSACTION = "t" * 32
REFERENCE = {"transaction_id": TRANSACTION}


def key(name: str) -> str:
    """A key of 32 bytes in unpadded base64."""
    return base64.b64encode(hashlib.sha256(name.encode()).digest()).decode().rstrip("=")


class ToyAgreement:
    """Depends on both keys, and on nothing of their order."""

    def __init__(self, *keys: str) -> None:
        self._shared = "|".join(sorted(keys))

    def code(self, info: str) -> ShortCode:
        digest = hashlib.sha256(f"{self._shared}{info}".encode()).digest()
        numbers = [1000 + int.from_bytes(digest[at : at + 2], "big") % 8192 for at in (10, 12, 14)]
        return ShortCode(tuple(each % 64 for each in digest[:7]), (numbers[0], numbers[1], numbers[2]))

    def mac(self, text: str, info: str) -> str:
        return key(f"{self._shared}{info}{text}")


@dataclass
class ToySecret:
    """Implements :class:`mxrtc_bridge.core.crypto.sas_values.Secret`."""

    public: str

    def agree(self, other: str) -> Agreement:
        if other == key("no key"):
            raise ValueError("no key")
        return ToyAgreement(self.public, other)


@dataclass
class End:
    """One end, and what it has done."""

    machine: Verification
    codes: list[ShortCode] = field(default_factory=list)
    vouched: list[VerifiedKeys] = field(default_factory=list)
    ended: list[VerificationEnded] = field(default_factory=list)
    sent: list[SendToDevices] = field(default_factory=list)

    def feed(self, event: VerificationEvent, now: float = 1.0) -> list[SendToDevices]:
        """Feed an event; returns the messages that go out."""
        out: list[SendToDevices] = []
        self.machine.handle(now, event)
        for effect in iter(self.machine.poll_effect, None):
            self._note(effect, out)
        self.sent += out
        return out

    def _note(self, effect: Effect, out: list[SendToDevices]) -> None:
        match effect:
            case SendToDevices():
                out.append(effect)
            case Compare(code=code):
                self.codes.append(code)
            case VerifiedKeys():
                self.vouched.append(effect)
            case VerificationEnded():
                self.ended.append(effect)

    @property
    def cancelled(self) -> str | None:
        """The code of the cancellation that went out."""
        codes = [str(each.content["code"]) for each in self.sent if each.type == "m.key.verification.cancel"]
        return codes[-1] if codes else None


MASTERS = {ALICE: key("master of alice"), PEER: key("master of build")}
DEVICES = {ALICE: {PHONE: key("phone"), LAPTOP: key("laptop")}, PEER: {BUILD: key("build")}}


def make_end(
    user: UserId,
    device: DeviceId,
    other: UserId,
    *,
    identity: bool = True,
    known: RemoteKeys | None = None,
    reference: dict[str, object] | None = None,
    secret: str | None = None,
    keys: dict[str, str] | None = None,
) -> End:
    """An end that knows of the other one what is true."""
    keys = {f"ed25519:{device}": DEVICES[user][device]} if keys is None else keys
    if identity:
        keys[f"ed25519:{MASTERS[user]}"] = MASTERS[user]
    devices = {name: each for name, each in DEVICES[other].items() if (other, name) != (user, device)}
    return End(
        Verification(
            LocalKeys(user, device, keys),
            known or RemoteKeys(other, devices, MASTERS[other]),
            reference=reference or REFERENCE,
            transaction=TRANSACTION,
            secret=ToySecret(secret or key(f"secret of {device}")),
            now=0.0,
        )
    )


class Pair:
    """Alice's phone asks the peer's device; what is sent waits until it is delivered."""

    def __init__(self, a: End | None = None, b: End | None = None) -> None:
        self.a = a or make_end(ALICE, PHONE, PEER)
        self.b = b or make_end(PEER, BUILD, ALICE)
        self.wires: dict[int, deque[SendToDevices]] = {id(self.a): deque(), id(self.b): deque()}

    def feed(self, end: End, event: VerificationEvent, now: float = 1.0) -> None:
        """Feed an event to one end; what it sends waits for the other."""
        self.wires[id(self.other(end))] += end.feed(event, now)

    def other(self, end: End) -> End:
        return self.b if end is self.a else self.a

    def deliver(self, end: End) -> None:
        """Deliver the oldest message for an end."""
        sent = self.wires[id(end)].popleft()
        self.feed(end, Received(sent.type, sent.content))

    def run(self) -> None:
        """Deliver everything."""
        while any(self.wires.values()):
            for end in (self.a, self.b):
                while self.wires[id(end)]:
                    self.deliver(end)

    def begin(self) -> None:
        self.feed(self.a, Ask(1000))
        self.run()

    def agree(self) -> None:
        for end in (self.a, self.b):
            self.feed(end, Compared(same=True))
        self.run()


REQUEST = Received(TYPES[Request], {"from_device": PHONE, "methods": ["m.sas.v1"], "timestamp": 1, **REFERENCE})


def compared_end() -> tuple[Pair, dict[str, Any]]:
    """Alice's end waits for the codes of the other side; with the codes that would be right."""
    pair = Pair()
    pair.begin()
    pair.feed(pair.b, Compared(same=True))
    return pair, dict(pair.wires[id(pair.a)].popleft().content)


def start_of(machine: Verification) -> dict[str, Any]:
    end = End(machine)
    end.feed(Ask(1))
    (start,) = end.feed(
        Received("m.key.verification.ready", {"from_device": BUILD, "methods": ["m.sas.v1"], **REFERENCE})
    )
    return dict(start.content)


GOOD: dict[str, dict[str, Any]] = {
    "request": dict(REQUEST.content),
    "ready": {"from_device": BUILD, "methods": ["m.sas.v1"], **REFERENCE},
    "start": start_of(make_end(ALICE, PHONE, PEER).machine),
    "accept": {
        "key_agreement_protocol": "curve25519-hkdf-sha256",
        "hash": "sha256",
        "message_authentication_code": "hkdf-hmac-sha256.v2",
        "short_authentication_string": ["emoji"],
        "commitment": key("x"),
        **REFERENCE,
    },
    "key": {"key": key("x"), **REFERENCE},
    "mac": {"mac": {"ed25519:X": key("x")}, "keys": key("x"), **REFERENCE},
    "done": {**REFERENCE},
    "cancel": {"code": "m.user", "reason": "", **REFERENCE},
}

ANOTHER: dict[str, dict[str, Any]] = {
    "request": {"timestamp": 2},
    "ready": {"methods": ["m.sas.v1", "m.other"]},
    "start": {"another": True},
    "accept": {"commitment": key("y")},
    "key": {"key": key("y")},
    "mac": {"keys": key("y")},
}
"""Makes of each message another one, which is no repetition."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
FIELDS = sorted({name for content in GOOD.values() for name in content})
CONTENT = st.one_of(
    st.sampled_from(list(GOOD.values())),
    st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), JSON, max_size=6),
    st.tuples(st.sampled_from(list(GOOD.values())), st.sampled_from(FIELDS), JSON).map(
        lambda drawn: {**drawn[0], drawn[1]: drawn[2]}
    ),
)
