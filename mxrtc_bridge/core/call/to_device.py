"""``io.mxrtc.signal``: events of a call as messages between two devices (docs/reference/signal.md).

:func:`parse_call_to_device` is the border: its content comes decrypted from a device that Olm vouches for, and is
hostile all the same. :class:`CallOrder` puts the messages of each call into their order, and is bounded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mxrtc_bridge.core.bounds.fair_table import FairTable
from mxrtc_bridge.core.call.codec import content_of, parse_message
from mxrtc_bridge.core.call.events import CallMessage, Hangup, Reject, Version
from mxrtc_bridge.core.errors import EventError, RefusalCode
from mxrtc_bridge.core.ids import CallId, DeviceId, UserId

SIGNAL_TYPE = "io.mxrtc.signal"
UNTRUSTED_DEVICE = "untrusted_device"
"""Reason of a reject: the policy asks for more than is known of the calling device."""
CHANGED_IDENTITY = "changed_identity"
"""The same, because its user shows another identity than before."""
UNLISTED_DEVICE = "unlisted_device"
"""Reason of a reject: the caller's homeserver does not list the calling device with this key, or not yet."""
UNKNOWN_DEVICE = "unknown_device"
"""Reason of a reject: the caller's homeserver does not say which devices there are; try again."""
PEER_IDENTITY = "peer_identity"
"""Reason of a reject, in a room: the callee's homeserver shows another identity of the callee than its own."""
STALE_INVITE = "stale_invite"
"""Reason of a reject: the invite is too old, or of the future; with ``sent_ms`` of both, the clocks are apart."""
MAX_SEQ = 9_999
MAX_SENT_MS = 2**53 - 1
MAX_EARLY = 16
"""Messages of one call that wait for those before them."""
MAX_EARLY_OF_USER, MAX_EARLY_OF_ALL = 64, 2000
"""The same of all calls of one user, as each may be as large as an event; the next ones are not heard. And of all, as a
rule may give any number of users a right; then one of the server and the user with most of them is forgotten."""
MAX_CALLS, MAX_CALLS_OF_STRANGERS = 20_000, 1000
"""Calls whose order is remembered, twice as many as may live (``limits.calls_total``), and those of users who may not
call; then one of the server and the user with most of them is forgotten."""


@dataclass(frozen=True, slots=True)
class CallToDevice:
    """One message."""

    seq: int
    sent_ms: int
    message: CallMessage


def parse_call_to_device(content: Mapping[str, object]) -> CallToDevice:
    """Read the content of a message.

    Raises:
        EventError: it is none; the codes are those of :func:`mxrtc_bridge.core.call.codec.parse_message`.
    """
    event_type = content.get("type")
    if not isinstance(event_type, str):
        raise EventError(RefusalCode.BAD_CONTENT, "type must be a text")
    message = parse_message(event_type, content.get("content"))
    if message.version is not Version.V1:
        raise EventError(RefusalCode.BAD_VERSION, "version 0 of the call protocol does not exist between devices")
    return CallToDevice(_count("seq", content, MAX_SEQ), _count("sent_ms", content, MAX_SENT_MS), message)


def call_to_device_content(signal: CallToDevice) -> dict[str, object]:
    """Write a message; the inverse of :func:`parse_call_to_device`."""
    event_type, content = content_of(signal.message)
    return {"type": event_type, "content": content, "seq": signal.seq, "sent_ms": signal.sent_ms}


def _count(name: str, content: Mapping[str, object], limit: int) -> int:
    value = content.get(name)
    if type(value) is not int or not 0 <= value <= limit:
        raise EventError(RefusalCode.BAD_CONTENT, f"{name} must be a whole number from 0 to {limit}")
    return value


@dataclass(slots=True)
class _Call:
    next_seq: int = 0
    over: bool = False


class CallOrder:
    """Messages of many calls, each put into its order.

    Args:
        max_calls: see :data:`MAX_CALLS`.
    """

    def __init__(self, *, max_calls: int = MAX_CALLS) -> None:
        self._calls: FairTable[tuple[DeviceId, CallId], _Call] = FairTable(max_calls)
        self._of_strangers: FairTable[tuple[DeviceId, CallId], _Call] = FairTable(
            min(max_calls, MAX_CALLS_OF_STRANGERS)
        )
        self._early: FairTable[tuple[DeviceId, CallId, int], CallToDevice] = FairTable(MAX_EARLY_OF_ALL)

    def put(
        self, user: UserId, device: DeviceId, signal: CallToDevice, *, has_right: bool = True
    ) -> list[CallToDevice]:
        """Take a message; returns what can be handled now, in order.

        Args:
            user: who has sent it.
            device: by which device.
            signal: the message.
            has_right: whether they may call at all; the calls of those who may not have a table of their own, and what
                comes too early of them is not kept.

        Raises:
            EventError: with the code ``gap``: too much is missing, and nothing of this call is handled any more.
        """
        key = (device, signal.message.call_id)
        call = self._calls.pop(user, key) or self._of_strangers.pop(user, key) or _Call()
        (self._calls if has_right else self._of_strangers).put(user, key, call)
        if call.over:
            return []
        if isinstance(signal.message, Hangup | Reject):
            # They only end something, so it does not matter what they have overtaken.
            self._end(user, key, call)
            return [signal]
        if signal.seq < call.next_seq or self._early.get(user, (*key, signal.seq)) is not None:
            return []
        if signal.seq > call.next_seq + MAX_EARLY:
            self._end(user, key, call)
            raise EventError(RefusalCode.GAP, f"message {signal.seq} came where {call.next_seq} is next")
        if signal.seq > call.next_seq:
            if has_right and len(tuple(self._early.of(user))) < MAX_EARLY_OF_USER:
                self._early.put(user, (*key, signal.seq), signal)
            return []
        ready: list[CallToDevice] = []
        following: CallToDevice | None = signal
        while following is not None:
            ready.append(following)
            call.next_seq += 1
            following = self._early.pop(user, (*key, call.next_seq))
        return ready

    def _end(self, user: UserId, key: tuple[DeviceId, CallId], call: _Call) -> None:
        call.over = True
        for seq in _seqs_behind(call):
            self._early.pop(user, (*key, seq))

    def waits(self, user: UserId, device: DeviceId, call_id: CallId) -> bool:
        """Whether messages of this call wait for others."""
        call = self._calls.get(user, (device, call_id))
        return call is not None and any(self._early.get(user, (device, call_id, seq)) for seq in _seqs_behind(call))

    def __len__(self) -> int:
        return len(self._calls) + len(self._of_strangers)


def _seqs_behind(call: _Call) -> range:
    """The numbers of messages that may wait for the next one."""
    return range(call.next_seq + 1, call.next_seq + MAX_EARLY + 1)
