"""What a sink is made of: one half that reads and one that writes.

We work on descriptors rather than on asyncio's transports, because a credit is given back for a byte only when the
operating system has taken it: a transport tells when its buffer is empty, we must know each byte. It also makes one
code path for sockets, pipes and terminals, on asyncio's loop and on uvloop.

A half never calls its owner from within a call of the owner's: what happens meanwhile is told from the loop. It does
not close its descriptor; it calls ``released`` once when it will not touch it again.
"""

from __future__ import annotations

from typing import Protocol

READ_SIZE = 64 * 1024
MAX_UNSENT_BYTES = 8 * 1024 * 1024
"""More than any credit that is ever given; beyond it our own side forgot to hold back."""
MAX_SALVAGED_BYTES = 1024 * 1024


class Reader(Protocol):
    """The half that reads. It begins paused."""

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def stop(self) -> None: ...

    def salvage(self) -> list[bytes]:
        """Return what can be read at once, at most 1 MiB: the last words of a stream that has failed."""
        ...


class Writer(Protocol):
    """The half that writes."""

    def write(self, data: bytes) -> None: ...

    def finish(self) -> None:
        """Tell the owner when all that was written is out."""
        ...

    def stop(self) -> None:
        """Forget what was not written."""
        ...


def nothing() -> None:
    """Do nothing: the default of ``released``."""
