"""Whose turn it is to send, and how much credit each stream of a session may offer.

:class:`Scheduler` decides the first. All channels of a session share one send queue, so what is queued for a bulk
stream delays everybody else: streams are therefore let in one message at a time, in turn (deficit round robin with a
quantum of one message; payload can be cut anywhere, so that no deficit ever remains). A stream that has had little to
say lately goes before the bulk, but cannot starve it: after one quantum of such traffic the bulk has its turn.

:class:`WindowBudget` decides the second: few streams get large windows, many get small ones.

Neither knows streams; both work on keys. Time is measured in bytes sent, because an idle line needs no scheduler.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from mxrtc_bridge.core.errors import StateError
from mxrtc_bridge.core.stream import messages

KeyT = TypeVar("KeyT", bound=Hashable)

QUANTUM_BYTES = messages.MAX_PAYLOAD_BYTES
INTERACTIVE_PENDING_BYTES = 4 * messages.KIB
"""A stream with this much waiting is bulk, whatever it did before."""
INTERACTIVE_RECENT_BYTES = 32 * messages.KIB
"""So is one that was granted this much lately: a screenful is interactive, a file in small pieces is not."""
EPOCH_BYTES = 256 * messages.KIB
"""Every time the session has sent this much, what a stream had before counts half."""
MESSAGE_OVERHEAD_BYTES = 512
"""What the smallest message is charged: its packet, and the work for it. Thousands of 1-byte messages are no trifle."""
MAX_STREAMS = 1024
"""Above any number of channels that a session may have; more is a leak in the caller."""

SESSION_BUDGET_BYTES = 8 * messages.LARGEST_WINDOW
MAX_EARLY_BYTES = 1 * messages.KIB * messages.KIB
"""Payload that all streams of a session together may send before they are accepted."""


@dataclass(slots=True)
class _Account:
    recent: int = 0
    """Bytes granted, older ones counting less."""
    epoch: int = 0
    """When ``recent`` was last brought up to date."""


class Scheduler(Generic[KeyT]):
    """Gives turns to streams.

    A stream that is ready gets one turn; to get another it must say that it is ready again.
    """

    def __init__(self) -> None:
        self._accounts: dict[KeyT, _Account] = {}
        self._interactive: OrderedDict[KeyT, int] = OrderedDict()
        self._bulk: OrderedDict[KeyT, int] = OrderedDict()
        self._granted = 0
        self._overtaken = 0
        """What the interactive streams were charged since the last turn of a bulk stream."""

    def __len__(self) -> int:
        """The number of streams that wait for a turn."""
        return len(self._interactive) + len(self._bulk)

    def ready(self, key: KeyT, pending: int = QUANTUM_BYTES) -> None:
        """Put a stream in line; one that is in line already keeps its place, with the new ``pending``.

        Args:
            key: names the stream.
            pending: how many bytes it could send now.

        Raises:
            StateError: more than 1024 streams, or nothing pending.
        """
        if pending <= 0:
            raise StateError(f"a stream with {pending} bytes to send is not ready")
        account = self._accounts.get(key)
        if account is None:
            if len(self._accounts) >= MAX_STREAMS:
                raise StateError(f"the scheduler has {MAX_STREAMS} streams already")
            account = self._accounts[key] = _Account(epoch=self._epoch)
        self._age(account)
        interactive = pending < INTERACTIVE_PENDING_BYTES and account.recent < INTERACTIVE_RECENT_BYTES
        # Only ever from the fast line to the slow one: moving back would lose the place in line.
        if interactive and key not in self._bulk:
            self._interactive[key] = pending
        else:
            self._interactive.pop(key, None)
            self._bulk[key] = pending

    def remove(self, key: KeyT) -> None:
        """Forget a stream; harmless if it is unknown."""
        self._interactive.pop(key, None)
        self._bulk.pop(key, None)
        self._accounts.pop(key, None)

    def next(self) -> tuple[KeyT, int] | None:
        """Return whose turn it is and how many bytes it may send, or None when nobody is ready."""
        if self._interactive and not (self._bulk and self._overtaken >= QUANTUM_BYTES):
            key, pending = self._interactive.popitem(last=False)
            if self._bulk:
                self._overtaken += max(pending, MESSAGE_OVERHEAD_BYTES)
        elif self._bulk:
            key, pending = self._bulk.popitem(last=False)
            self._overtaken = 0
        else:
            return None
        limit = min(pending, QUANTUM_BYTES)
        self._granted += limit
        account = self._accounts[key]
        self._age(account)
        account.recent += limit
        return key, limit

    @property
    def _epoch(self) -> int:
        return self._granted // EPOCH_BYTES

    def _age(self, account: _Account) -> None:
        if account.epoch != self._epoch:
            account.recent >>= self._epoch - account.epoch
            account.epoch = self._epoch


class WindowBudget(Generic[KeyT]):
    """Shares out the memory of a session among its streams.

    Windows add up to at most ``total``, plus the smallest window for each stream that comes when all is given out: a
    stream without any window could never speak.

    Args:
        total: bytes for the windows of all streams.
        early_total: bytes that may be held for streams that are not accepted yet.
    """

    def __init__(self, total: int = SESSION_BUDGET_BYTES, early_total: int = MAX_EARLY_BYTES) -> None:
        self._total = total
        self._early_total = early_total
        self._windows: dict[KeyT, int] = {}
        self._early: dict[KeyT, int] = {}
        self.given = 0
        """The sum of all windows."""
        self.held = 0
        """The sum of all early bytes."""

    def take(self, key: KeyT) -> int:
        """Return a window for a stream, 16 KiB to 4 MiB: an eighth of what is left.

        A stream that has one gives it back first, so that taking again fits it to what is open now.
        """
        self.given -= self._windows.pop(key, 0)
        share = (self._total - self.given) // 8
        window = min(max(share, messages.MIN_WINDOW), messages.LARGEST_WINDOW)
        self._windows[key] = window
        self.given += window
        return window

    def give_back(self, key: KeyT) -> None:
        """Forget a stream, its window and its early bytes; harmless if it is unknown."""
        self.given -= self._windows.pop(key, 0)
        self.release_early(key)

    def hold_early(self, key: KeyT, size: int) -> bool:
        """Count ``size`` bytes that came before the stream was accepted.

        Returns:
            False if the session holds too much of that; nothing is counted then, and the stream must be refused.
        """
        if self.held + size > self._early_total:
            return False
        self._early[key] = self._early.get(key, 0) + size
        self.held += size
        return True

    def release_early(self, key: KeyT) -> None:
        """The stream was accepted or has ended: its early bytes are not held any more."""
        self.held -= self._early.pop(key, 0)
