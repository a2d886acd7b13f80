"""Verification of two devices by short authentication strings: the machine of ``m.sas.v1``, both roles.

Everything that affects its transitions is in this file; the client-server API, "Short Authentication String (SAS)
verification", is its specification. The machine knows nothing of the way that messages take, and does no key agreement
itself: the secret is an argument.

What it guards against: a key chosen after the other one was seen (the commitment is checked before anything is shown);
keys that nobody has compared (nothing is vouched for before our person has said that both sides show the same, and the
other side's codes over its keys are right); a verification that never ends (ten minutes).

It ends exactly once, with ``VerificationEnded``; keys are the other side's only if ``VerifiedKeys`` has come
before.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections import deque
from collections.abc import Mapping
from enum import Enum
from typing import assert_never

from mxrtc_bridge.core.crypto import sas_events as events
from mxrtc_bridge.core.crypto import sas_values as values
from mxrtc_bridge.core.crypto.sas_codes import ShortCode
from mxrtc_bridge.core.crypto.sas_events import CODES, HASH, KEY_AGREEMENT, MAC_METHOD, METHOD, TYPES, SasEvent
from mxrtc_bridge.core.crypto.sas_values import Effect
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import DeviceId

TIMEOUT_S = 600.0
"""From the request on, as the specification says."""


class Stage(Enum):
    """How far it has come."""

    BEGINNING = "beginning"
    ASKED = "asked"
    """We have asked; nobody has accepted yet."""
    READY = "ready"
    """Both want to; nobody has started."""
    STARTED = "started"
    """We have started."""
    ACCEPTED = "accepted"
    """They have started and have our commitment."""
    KEY_SENT = "key_sent"
    """We have started, have their commitment, and have shown our key."""
    COMPARING = "comparing"
    """Both show the same to their people, if nobody is in between."""
    THEY_AGREE = "they_agree"
    """As before, and their person has said yes."""
    WE_AGREE = "we_agree"
    """As before, and ours has said yes."""
    VERIFIED = "verified"
    """Both have; theirs has still to say that it has checked everything."""
    ENDED = "ended"


EXPECTED: Mapping[Stage, frozenset[type[SasEvent]]] = {
    Stage.BEGINNING: frozenset({events.Request}),
    Stage.ASKED: frozenset({events.Ready, events.Cancel}),
    Stage.READY: frozenset({events.Start, events.Cancel}),
    Stage.STARTED: frozenset({events.Accept, events.Start, events.Cancel}),
    Stage.ACCEPTED: frozenset({events.Key, events.Cancel}),
    Stage.KEY_SENT: frozenset({events.Key, events.Cancel}),
    Stage.COMPARING: frozenset({events.Mac, events.Cancel}),
    Stage.THEY_AGREE: frozenset({events.Cancel}),
    Stage.WE_AGREE: frozenset({events.Mac, events.Cancel}),
    Stage.VERIFIED: frozenset({events.Done, events.Cancel}),
    Stage.ENDED: frozenset(),
}
"""What the other side may send."""


class Verification:
    """One verification.

    Args:
        ours: our end.
        theirs: the other user.
        reference: the fields that name the verification in each message.
        transaction: what they name it.
        secret: our ephemeral key, for this verification only.
        now: monotonic seconds.
    """

    def __init__(
        self,
        ours: values.LocalKeys,
        theirs: values.RemoteKeys,
        *,
        reference: Mapping[str, object],
        transaction: str,
        secret: values.Secret,
        now: float,
    ) -> None:
        self.stage = Stage.BEGINNING
        self.device: DeviceId | None = None
        """Theirs, once it is known."""
        self.code: ShortCode | None = None
        """What is to be compared, once it is known."""
        self._deadline = now + TIMEOUT_S
        self._effects: deque[Effect] = deque()
        self._ours = ours
        self._theirs = theirs
        self._reference = dict(reference)
        self._transaction = transaction
        self._secret = secret
        self._asked: tuple[DeviceId, ...] = ()
        self._taken: list[SasEvent] = []
        """One of each type at most."""
        self._our_start: events.Start | None = None
        self._commitment = ""
        self._start: events.Start | None = None
        """The one that counts."""
        self._agreement: values.Agreement | None = None
        self._mac_keys: tuple[DeviceId, str | None] | None = None

    def poll_effect(self) -> Effect | None:
        """Return the next thing to be done, or None."""
        return self._effects.popleft() if self._effects else None

    def next_deadline(self) -> float | None:
        """Return when a VerificationTick is due, or None."""
        return None if self.stage is Stage.ENDED else self._deadline

    def handle(self, now: float, event: values.VerificationEvent) -> None:
        """Take in what has happened; then poll all effects. Never raises for what the other side does."""
        if self.stage is not Stage.ENDED:
            self._effects += self._dispatch(now, event)

    def _dispatch(self, now: float, event: values.VerificationEvent) -> list[Effect]:
        if now >= self._deadline:
            return self._cancel("m.timeout", "it took too long")
        match event:
            case values.Ask(at_ms=at_ms):
                return self._ask(at_ms)
            case values.Received():
                return self._received(event)
            case values.Compared(same=same):
                return self._compared(same)
            case values.GiveUp():
                return self._cancel("m.user", "the other side has ended it")
            case values.VerificationTick():
                return []
            case _:
                assert_never(event)

    # --- what the other side says

    def _received(self, event: values.Received) -> list[Effect]:
        try:
            said = events.parse_sas_event(event.type, event.content)
        except EventError as error:
            return self._cancel("m.invalid_message", str(error))
        if said in self._taken:
            return []  # The homeserver may deliver a message twice; none of them is sent twice on purpose.
        if isinstance(said, events.Ready) and self.device not in (None, said.device):
            return []  # Another device that was asked: it is told that it came late.
        if type(said) not in EXPECTED[self.stage]:
            return self._cancel("m.unexpected_message", f"{event.type} came where it does not belong")
        self._taken.append(said)
        return self._take(said)

    def _take(self, said: SasEvent) -> list[Effect]:  # noqa: PLR0911 - one row for each message
        match said:
            case events.Request():
                return self._accept_request(said)
            case events.Ready():
                return self._begin(said)
            case events.Start():
                return self._accept_start(said)
            case events.Accept():
                return self._accepted(said)
            case events.Key():
                return self._show(said.key)
            case events.Mac():
                return self._check(said)
            case events.Done():
                return self._end(values.VerificationEnded("", by_them=False))
            case events.Cancel(code=code, reason=reason):
                others = self._devices() if self.stage is Stage.ASKED else ()
                told: list[Effect] = [self._send_cancel(others, code, "another device has ended it")] if others else []
                return told + self._end(values.VerificationEnded(code, by_them=True, reason=reason))
            case _:
                assert_never(said)

    # --- request

    def _ask(self, at_ms: int) -> list[Effect]:
        if self.stage is not Stage.BEGINNING:
            return []
        self.stage = Stage.ASKED
        self._asked = tuple(self._theirs.devices)
        return [self._send(events.Request, events.request_content(self._ours.device, at_ms))]

    def _accept_request(self, request: events.Request) -> list[Effect]:
        self.device = request.device
        if METHOD not in request.methods:
            return self._cancel("m.unknown_method", f"only {METHOD} is known here")
        if request.device not in self._theirs.devices:
            return self._cancel("m.invalid_message", "there is no such device")
        self.stage = Stage.READY
        return [self._send(events.Ready, events.ready_content(self._ours.device))]

    def _begin(self, ready: events.Ready) -> list[Effect]:
        if METHOD not in ready.methods:
            return self._cancel("m.unknown_method", f"only {METHOD} is known here")
        if ready.device not in self._theirs.devices:
            return self._cancel("m.invalid_message", "there is no such device")
        self.device = ready.device
        self.stage = Stage.STARTED
        others = tuple(each for each in self._asked if each != ready.device)
        content = events.start_content(self._ours.device)
        said = events.parse_sas_event(TYPES[events.Start], {**content, **self._reference})
        assert isinstance(said, events.Start)
        self._our_start = said
        told: list[Effect] = []
        if others:
            told = [self._send_cancel(others, "m.accepted", "another device has accepted it")]
        return [*told, self._send(events.Start, content)]

    # --- key agreement

    def _accept_start(self, start: events.Start) -> list[Effect]:
        if start.device != self.device:
            return self._cancel("m.invalid_message", "another device has started it")
        ours = (self._ours.user, self._ours.device)
        if self.stage is Stage.STARTED and ours < (self._theirs.user, start.device):
            return []  # Both have started: that of the smaller user, then device, counts.
        codes = tuple(each for each in CODES if each in start.codes)
        if start.method != METHOD or not (
            KEY_AGREEMENT in start.key_agreements and HASH in start.hashes and MAC_METHOD in start.macs and codes
        ):
            return self._cancel("m.unknown_method", f"only {METHOD} with {KEY_AGREEMENT} and {MAC_METHOD} is known")
        self._start = start
        self.stage = Stage.ACCEPTED
        return [self._send(events.Accept, events.accept_content(codes, _commitment(self._secret.public, start)))]

    def _accepted(self, accept: events.Accept) -> list[Effect]:
        chosen = (accept.key_agreement, accept.hash, accept.mac)
        if chosen != (KEY_AGREEMENT, HASH, MAC_METHOD) or not set(accept.codes) & set(CODES):
            return self._cancel("m.unknown_method", "something was chosen that was not offered")
        self._start = self._our_start
        self._commitment = accept.commitment
        self.stage = Stage.KEY_SENT
        return [self._send(events.Key, {"key": self._secret.public})]

    def _show(self, key: str) -> list[Effect]:
        assert self._start is not None
        we_started = self.stage is Stage.KEY_SENT
        if we_started and not hmac.compare_digest(_commitment(key, self._start), self._commitment):
            return self._cancel("m.mismatched_commitment", "the key is not the one that was committed to")
        try:
            self._agreement = self._secret.agree(key)
        except ValueError:
            return self._cancel("m.invalid_message", "that is no key")
        ends = [
            f"{self._ours.user}|{self._ours.device}|{self._secret.public}",
            f"{self._theirs.user}|{self.device}|{key}",
        ]
        starter, accepter = ends if we_started else reversed(ends)
        self.code = self._agreement.code(f"MATRIX_KEY_VERIFICATION_SAS|{starter}|{accepter}|{self._transaction}")
        self.stage = Stage.COMPARING
        answer: list[Effect] = [] if we_started else [self._send(events.Key, {"key": self._secret.public})]
        return [*answer, values.Compare(self.code)]

    # --- comparison

    def _compared(self, same: bool) -> list[Effect]:
        if self.stage not in (Stage.COMPARING, Stage.THEY_AGREE):
            return []
        if not same:
            return self._cancel("m.mismatched_sas", "the two sides show different things")
        own = [self._send(events.Mac, events.mac_content(self._codes(self._ours.keys, mine=True)))]
        if self.stage is Stage.COMPARING:
            self.stage = Stage.WE_AGREE
            return [*own]
        return [*own, *self._vouch()]

    def _codes(self, keys: Mapping[str, str], *, mine: bool) -> events.Mac:
        assert self._agreement is not None
        ours, theirs = f"{self._ours.user}{self._ours.device}", f"{self._theirs.user}{self.device}"
        sender, receiver = (ours, theirs) if mine else (theirs, ours)
        info = f"MATRIX_KEY_VERIFICATION_MAC{sender}{receiver}{self._transaction}"
        macs = {name: self._agreement.mac(key, info + name) for name, key in keys.items()}
        return events.Mac(macs, self._agreement.mac(",".join(sorted(keys)), info + "KEY_IDS"))

    def _check(self, said: events.Mac) -> list[Effect]:
        assert self.device is not None
        device_name, master = f"ed25519:{self.device}", self._theirs.master
        if self.device == master:
            # A code over the one would be one over the other.
            return self._cancel("m.key_mismatch", "a device has the name of an identity")
        known = {device_name: self._theirs.devices[self.device]}
        if master is not None:
            known[f"ed25519:{master}"] = master
        # Of keys that we do not know only the names count: they are in the list, and nothing is vouched for.
        wanted = self._codes({name: known.get(name, "") for name in said.macs}, mine=False)
        right = hmac.compare_digest(wanted.keys, said.keys) and all(
            hmac.compare_digest(wanted.macs[name], said.macs[name]) for name in said.macs if name in known
        )
        if not right or device_name not in said.macs:
            return self._cancel("m.key_mismatch", "the keys are not those that are known here")
        self._mac_keys = (self.device, master if f"ed25519:{master}" in said.macs else None)
        if self.stage is Stage.WE_AGREE:
            return self._vouch()
        self.stage = Stage.THEY_AGREE
        return []

    def _vouch(self) -> list[Effect]:
        assert self._mac_keys is not None
        self.stage = Stage.VERIFIED
        return [values.VerifiedKeys(*self._mac_keys), self._send(events.Done, {})]

    # --- sending

    def _devices(self) -> tuple[DeviceId, ...]:
        return self._asked if self.device is None else (self.device,)

    def _send(self, kind: type[SasEvent], content: Mapping[str, object]) -> values.SendToDevices:
        return values.SendToDevices(self._devices(), TYPES[kind], {**content, **self._reference})

    def _send_cancel(self, devices: tuple[DeviceId, ...], code: str, reason: str) -> values.SendToDevices:
        return values.SendToDevices(
            devices, TYPES[events.Cancel], {**events.cancel_content(code, reason), **self._reference}
        )

    def _cancel(self, code: str, reason: str) -> list[Effect]:
        if self.stage is Stage.VERIFIED:
            # Nothing can be taken back; what is missing is only that they say so.
            return self._end(values.VerificationEnded("", by_them=False))
        devices = self._devices()
        told: list[Effect] = [self._send_cancel(devices, code, reason)] if devices else []
        return told + self._end(values.VerificationEnded(code, by_them=False, reason=reason))

    def _end(self, ended: values.VerificationEnded) -> list[Effect]:
        self.stage = Stage.ENDED
        return [ended]


def _commitment(key: str, start: events.Start) -> str:
    digest = hashlib.sha256(key.encode() + start.canonical).digest()
    return base64.b64encode(digest).decode().rstrip("=")
