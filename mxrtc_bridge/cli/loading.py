"""How commands load what they alone need."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def loading() -> Iterator[None]:
    """Load modules inside of the context, a seventh faster: the garbage collector does not look at them meanwhile.

    Modules stay as long as the program, and it would look at all of them again and again while there are more.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
