"""What a transaction of the homeserver says about devices: who has messages waiting, and whose devices have changed.

A sign and no more. The messages themselves are fetched from the homeserver's queue, which keeps them until they have
been dealt with; a transaction that fails after it was taken, or that the homeserver sends again without them, would
lose them (MSC4203 and MSC3202, both open).
"""

from __future__ import annotations

from dataclasses import dataclass

from mxrtc_bridge.core.ids import UserId


@dataclass(frozen=True, slots=True)
class DeviceListChanges:
    """Device hints of one appservice transaction."""

    waiting: frozenset[UserId] = frozenset()
    """Our users for whose devices messages wait."""
    changed: frozenset[UserId] = frozenset()
    """Users whose devices have changed."""
    incomplete: bool = False
    """Something was said that cannot be told any more: whoever it was for should look."""

    def __bool__(self) -> bool:
        return bool(self.waiting or self.changed or self.incomplete)
