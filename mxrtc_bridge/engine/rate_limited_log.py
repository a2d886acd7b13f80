"""Log lines that others can order: one an hour of each kind about each of them, with the number of those left out.

A kind is the text of a line without what it names. How many were left out is said with the next line of the same kind
about the same subject, or when its hour is over, or at the stop, whatever is first. Memory is bounded by the kinds,
which are in the code, times :data:`SUBJECTS`.

As loggers are one for each process, so are the lines that are owed: :func:`keep_telling` and :func:`tell_all` tell
those of every :class:`RateLimitedLog` that there is. All of it may be used in any thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakSet

from mxrtc_bridge.core.bounds.log_rate import PERIOD_S, LogRate

SUBJECTS = 50
"""Lines of one kind in its period, however many names strangers invent."""
TELL_EVERY_S = 60.0
MAX_KEPT_CHARS = 500
"""Of a line that may be written once more, with the number of those like it."""

_AND_MORE = " (and %d more like this that were not written)"
_Logger = logging.Logger | logging.LoggerAdapter[Any]
_Owed = tuple[_Logger, int, str, int]
"""A line that was left out so often: where it goes, at which level, what it says, and how often."""


_LOCK = threading.RLock()
"""Held while lines are counted, for all, as several may count together; never while one is written."""


class _Kind:
    """The lines of one text."""

    def __init__(self, rate: LogRate) -> None:
        self.rate = rate
        self.lines: dict[Hashable, tuple[_Logger, int, str]] = {}
        """By subject, what was written last; None stands for all that had no line."""


class RateLimitedLog:
    """Writes a line of a kind about a subject once in its period; all lines are at DEBUG as well.

    Args:
        logger: where to.
        monotonic: seconds.
        period_s: how long nothing of the same kind is written about the same subject.
        subjects: of how many something is written in that time.
        lines: of each subject in that time.
    """

    def __init__(
        self,
        logger: logging.Logger,
        monotonic: Callable[[], float] = time.monotonic,
        *,
        period_s: float = PERIOD_S,
        subjects: int = SUBJECTS,
        lines: int = 1,
    ) -> None:
        self._logger = logger
        self._monotonic = monotonic
        self._period_s = period_s
        self._subjects = subjects
        self._lines = lines
        self._kinds: dict[str, _Kind] = {}
        with _LOCK:
            _LIVE.add(self)

    def of(self, logger: logging.Logger) -> RateLimitedLog:
        """Return one for another module that counts together with this one."""
        other = RateLimitedLog(
            logger, self._monotonic, period_s=self._period_s, subjects=self._subjects, lines=self._lines
        )
        other._kinds = self._kinds
        return other

    def log(
        self,
        level: int,
        subject: Hashable,
        text: str,
        *args: object,
        to: _Logger | None = None,
        exc_info: BaseException | None = None,
    ) -> None:
        """Write ``text`` at ``level``, unless the same was said of ``subject`` within its period.

        Args:
            level: of the logging module.
            subject: who or what it is about, not None.
            text: the line; the same text about the same subject is the same line.
            args: what the line names.
            to: another logger, for lines that say which call they are about.
            exc_info: a defect, which is written down with its traceback.
        """
        logger = to or self._logger
        with _LOCK:
            owed, unsaid = self._count(logger, level, subject, text, args)
        _write(owed)
        if unsaid is None:
            logger.debug(text, *args, exc_info=exc_info)
        elif unsaid:
            counted = text + _AND_MORE
            logger.log(level, counted, *args, unsaid, exc_info=exc_info)
        else:
            logger.log(level, text, *args, exc_info=exc_info)

    def _count(
        self, logger: _Logger, level: int, subject: Hashable, text: str, args: tuple[object, ...]
    ) -> tuple[list[_Owed], int | None]:
        """Count a line; returns what is to be written before it, and what :meth:`LogRate.due` says of it."""
        now = self._monotonic()
        kind = self._kinds.get(text)
        if kind is None:
            kind = self._kinds[text] = _Kind(
                LogRate(period_s=self._period_s, subjects=self._subjects, lines=self._lines)
            )
        owed = self._take_owed(kind, now, but=subject)
        unsaid = kind.rate.due(subject, now)
        if unsaid is None:
            if not kind.rate.knows(subject) and None not in kind.lines:
                kind.lines[None] = (logger, level, _kept(text, args))
        else:
            kind.lines[subject] = (logger, level, _kept(text, args))
            if unsaid:
                kind.lines.pop(None, None)
        return owed, unsaid

    def info(self, subject: Hashable, text: str, *args: object, to: _Logger | None = None) -> None:
        """Write a line at INFO; see :meth:`log`."""
        self.log(logging.INFO, subject, text, *args, to=to)

    def warning(self, subject: Hashable, text: str, *args: object, to: _Logger | None = None) -> None:
        """Write a line at WARNING; see :meth:`log`."""
        self.log(logging.WARNING, subject, text, *args, to=to)

    def exception(
        self, subject: Hashable, text: str, *args: object, error: BaseException, to: _Logger | None = None
    ) -> None:
        """Write a line about a defect at ERROR, with its traceback; see :meth:`log`."""
        self.log(logging.ERROR, subject, text, *args, to=to, exc_info=error)

    def tell_left_out(self, *, everything: bool = False) -> None:
        """Say how many lines were left out of what is over: of all, with ``everything``."""
        now = math.inf if everything else self._monotonic()
        with _LOCK:
            owed = [each for kind in self._kinds.values() for each in self._take_owed(kind, now)]
        _write(owed)

    def _take_owed(self, kind: _Kind, now: float, *, but: Hashable = None) -> list[_Owed]:
        told = kind.rate.left_out(now, but=but)
        owed = [(*kind.lines[subject], count) for subject, count in told]
        # Also of those of which nothing was left out.
        if told or len(kind.lines) > 2 * self._subjects:
            kind.lines = {each: kept for each, kept in kind.lines.items() if kind.rate.knows(each)}
        return owed


def _write(owed: list[_Owed]) -> None:
    for logger, level, line, count in owed:
        # It stands for one of them itself, so that whoever adds up the lines and their numbers has all of them.
        # The line is what others have said: no part of a format.
        escaped = line.replace("%", "%%") + "%s"
        logger.log(level, escaped, _AND_MORE % (count - 1) if count > 1 else "")


_LIVE: WeakSet[RateLimitedLog] = WeakSet()


def tell_all(*, everything: bool = False) -> None:
    """Let every one say how many lines it has left out; see :meth:`RateLimitedLog.tell_left_out`."""
    with _LOCK:
        live = tuple(_LIVE)
    for each in live:
        each.tell_left_out(everything=everything)


async def keep_telling() -> None:
    """Say it soon after a period is over, until cancelled."""
    while True:
        await asyncio.sleep(TELL_EVERY_S)
        tell_all()


def _kept(text: str, args: tuple[object, ...]) -> str:
    line = text % args if args else text
    return line if len(line) <= MAX_KEPT_CHARS else f"{line[:MAX_KEPT_CHARS]}..."
