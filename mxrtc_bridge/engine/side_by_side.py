"""Goes through many things a few at a time, so that one that is slow holds up few others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from mxrtc_bridge.core.errors import HomeserverError, StorageError, first_error

Item = TypeVar("Item")


async def each(items: Iterable[Item], action: Callable[[Item], Awaitable[None]], at_once: int) -> None:
    """Do ``action`` for all items, ``at_once`` at a time; the first failure cancels the rest and is raised by itself.

    Raises:
        HomeserverError, StorageError: what an action has raised; other errors come in a group.
    """
    todo = iter(items)

    async def work() -> None:
        for item in todo:
            await action(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(work())
    except* (HomeserverError, StorageError) as failures:
        raise first_error(failures) from None
