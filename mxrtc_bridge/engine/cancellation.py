"""Whose cancellation it is that a task sees: its own, or that of something that it waits for."""

from __future__ import annotations

import asyncio


def is_told_to_end() -> bool:
    """Whether the task that runs now is cancelled; otherwise it was something that it waited for together with others.

    A task that serves many and takes the one for the other would be gone, and with it what it does for all of them.
    """
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0
