"""``-v``: what both programs log at the command line, for whoever looks for a cause."""

from __future__ import annotations

import logging
import sys

import click

from mxrtc_bridge.core.text.display import display

QUIET = ("-q", "--quiet")
VERBOSE = ("-v", "--verbose")
QUIET_HELP = "Say nothing but errors."
VERBOSE_HELP = "Log what happens; twice, with addresses and every step."

_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
_COUNT = f"{__name__}.verbose"
_PRODUCT, _, _ = __name__.partition(".")


class _StandardError(logging.Handler):
    """Writes where standard error is at that moment: a bar that is shown has taken its place."""

    def emit(self, record: logging.LogRecord) -> None:
        # Lines of a traceback are ours; what is in them is not.
        lines = self.format(record).split("\n")
        sys.stderr.write("\n".join(display(line, limit=4096) for line in lines) + "\n")


def _is_shown(record: logging.LogRecord) -> bool:
    # Libraries keep no rule of what may be logged at which level.
    return record.levelno >= logging.WARNING or record.name.partition(".")[0] == _PRODUCT


def log_more(context: click.Context, _option: click.Parameter | None, times: int) -> int:
    """Log by so many steps more than so far; what stands before the command and behind it adds up."""
    if times and not context.resilient_parsing:
        count = context.meta[_COUNT] = context.meta.get(_COUNT, 0) + times
        logging.root.setLevel(_LEVELS[min(count, len(_LEVELS) - 1)])
        if not any(isinstance(handler, _StandardError) for handler in logging.root.handlers):
            handler = _StandardError()
            handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"))
            handler.addFilter(_is_shown)
            logging.root.addHandler(handler)
    return times
