"""A dict with a limit: what was put in longest ago is forgotten first."""

from __future__ import annotations

from collections import OrderedDict
from typing import TypeVar

KeyT = TypeVar("KeyT")
ValueT = TypeVar("ValueT")


class Latest(OrderedDict[KeyT, ValueT]):
    """See the head of this module. An entry that is put in again counts as put in now.

    Args:
        limit: entries.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def __setitem__(self, key: KeyT, value: ValueT) -> None:
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self._limit:
            self.popitem(last=False)
