"""Log lines about what strangers do: one an hour for each of them, with the number of those that were left out."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

from mxrtc_bridge.core.bounds.log_rate import PERIOD_S, LogRate


class RateLimitedLog:
    """Writes a line about a subject once in a period, an hour by default; all lines are at DEBUG as well.

    Args:
        logger: where to.
        monotonic: seconds.
        period_s: how long a subject is not mentioned again.
    """

    def __init__(
        self, logger: logging.Logger, monotonic: Callable[[], float] = time.monotonic, *, period_s: float = PERIOD_S
    ) -> None:
        self._logger = logger
        self._monotonic = monotonic
        self._seldom = LogRate(period_s=period_s)

    def log(self, level: int, subject: Hashable, text: str, *args: object) -> None:
        """Write ``text`` at ``level``, unless the same was said of ``subject`` within the period.

        Args:
            level: of the logging module.
            subject: who or what it is about.
            text: the line; the same text about the same subject is the same line.
            args: what the line names.
        """
        unsaid = self._seldom.due((text, subject), self._monotonic())
        if unsaid is None:
            self._logger.debug(text, *args)
        elif unsaid:
            self._logger.log(level, "%s (and %d more like this that were not written)", text % args, unsaid)
        else:
            self._logger.log(level, text, *args)

    def info(self, subject: Hashable, text: str, *args: object) -> None:
        """Write a line at INFO; see :meth:`log`."""
        self.log(logging.INFO, subject, text, *args)

    def warning(self, subject: Hashable, text: str, *args: object) -> None:
        """Write a line at WARNING; see :meth:`log`."""
        self.log(logging.WARNING, subject, text, *args)
