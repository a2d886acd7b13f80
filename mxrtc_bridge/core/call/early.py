"""What is said of a call before its invite has come: servers and senders do not keep the order.

Candidates that alone tell the way, a hangup of a caller who has thought better of it, or the selection of another
party would be lost otherwise. Kept for the lifetime of an invite, and bounded: an event of a room has 64 KiB at most.
"""

from __future__ import annotations

from collections import Counter

from mxrtc_bridge.core.call.events import DEFAULT_LIFETIME_MS, CallEvent, CallMessage
from mxrtc_bridge.core.call.route import CallRoute
from mxrtc_bridge.core.ids import CallId, UserId

KEPT_FOR_S = DEFAULT_LIFETIME_MS / 1000
MAX_EARLY = 256
"""Of all callers; the oldest goes."""
MAX_EARLY_OF_USER = 16
"""The rest is left out."""

_Call = tuple[CallRoute, CallId, UserId, UserId, str | None]


def _call_of(event: CallEvent, local: UserId) -> _Call:
    """What must be the same in the invite: also the key of the device, as what another one sends is of no call."""
    key = None if event.device is None else event.device.ed25519
    return (event.route, event.message.call_id, local, event.sender, key)


class EarlyMessages:
    """See the head of this module. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, _Call, CallMessage]] = []

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, now: float, event: CallEvent, local: UserId) -> None:
        """Keep a message of a call that is not known."""
        self._forget(now)
        if Counter(call[3] for _, call, _ in self._kept)[event.sender] < MAX_EARLY_OF_USER:
            self._kept = [*self._kept[-MAX_EARLY + 1 :], (now, _call_of(event, local), event.message)]

    def take(self, now: float, invite: CallEvent, local: UserId) -> list[CallMessage]:
        """Return what the caller has said of the call before, in the order of its coming, and keep it no more."""
        self._forget(now)
        wanted = _call_of(invite, local)
        taken = [message for _, call, message in self._kept if call == wanted]
        self._kept = [each for each in self._kept if each[1] != wanted]
        return taken

    def _forget(self, now: float) -> None:
        self._kept = [each for each in self._kept if now - each[0] < KEPT_FOR_S]
