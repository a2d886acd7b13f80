"""What a command leaves that is cut off: it is done in a child that ends, or fails, before its n-th change of a disk.

The interpreter says what is about to be changed (:func:`sys.addaudithook`), so nothing of the product is replaced.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

from tests.other_user import in_child

CHANGES = {"os.rename", "os.link", "os.remove", "os.mkdir", "os.chown", "os.chmod"}
MAX_STEPS = 60


def kill(_event: str, _arguments: tuple[Any, ...]) -> None:
    """End as by SIGKILL: nothing is cleaned up."""
    os._exit(0)


def fill_disk(_event: str, _arguments: tuple[Any, ...]) -> None:
    """Refuse it, as a disk does that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def before_each_change(act: Callable[[], object], do: Callable[[str, tuple[Any, ...]], None]) -> Iterator[int]:
    """Act again and again, and have something happen before the first change, the second one, and so on.

    Yields:
        The number of the change, after each attempt but the last one, in which there was no change of that number.
    """
    for number in range(1, MAX_STEPS):
        read, write = os.pipe()

        def once(number: int = number, write: int = write) -> None:
            left = number

            def hook(event: str, arguments: tuple[Any, ...]) -> None:
                nonlocal left
                made = event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_CREAT
                if event not in CHANGES and not made:
                    return
                left -= 1
                if left == 0:
                    os.write(write, b"x")
                    do(event, arguments)

            sys.addaudithook(hook)
            act()

        in_child(once)
        os.close(write)
        happened = os.read(read, 1)
        os.close(read)
        if not happened:
            return
        yield number
    raise AssertionError(f"more than {MAX_STEPS} changes")
