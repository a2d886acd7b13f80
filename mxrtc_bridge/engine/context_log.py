"""Log lines that say which call, and which stream of it, they are about, so that no message repeats it by hand.

Lines begin with a mark for the eye (docs/how-to/troubleshooting.md explains them); the context stands behind it.
"""

from __future__ import annotations

import logging
from typing import Any

MARKS = frozenset("<>=x!?+-")


class ContextLog(logging.LoggerAdapter[logging.Logger]):
    """Writes ``! call c1, stream web: text`` for ``! text``.

    Args:
        logger: where to: the module's own logger, as levels are set by module.
        context: what the lines are about.
    """

    def __init__(self, logger: logging.Logger, context: str) -> None:
        super().__init__(logger, {})
        self.context = context

    def to(self, logger: logging.Logger) -> ContextLog:
        """Return one that writes the same context to another module's logger."""
        return ContextLog(logger, self.context)

    def child(self, part: str) -> ContextLog:
        """Return one for a part of what this one is about."""
        return ContextLog(self.logger, f"{self.context}, {part}")

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        """Write a line, with the context between the mark and the text."""
        if not self.isEnabledFor(level):
            return
        # The context is an argument and never a part of the format: ids in it are the words of others.
        text = str(msg) if args else str(msg).replace("%", "%%")
        mark, space, rest = text.partition(" ")
        line = f"{mark} %s: {rest}" if space and mark in MARKS else f"%s: {text}"
        self.logger.log(level, line, self.context, *args, **kwargs)
