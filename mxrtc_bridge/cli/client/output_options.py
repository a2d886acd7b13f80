"""``--json``, ``-q`` and ``-v``: the same before a command and behind it, where people look for them first."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

import click

from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.core.text.display import display

JSON = ("--json", "as_json")
QUIET = ("-q", "--quiet")
VERBOSE = ("-v", "--verbose")
JSON_HELP = "One JSON object a line instead of sentences."
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


def _set(change: Callable[[Report], None]) -> Callable[[click.Context, click.Parameter, bool], None]:
    def callback(context: click.Context, _option: click.Parameter, value: bool) -> None:
        shared = context.find_object(Context)
        if value and shared is not None:
            change(shared.report)

    return callback


def _as_json(report: Report) -> None:
    report.as_json = True


def _quiet(report: Report) -> None:
    report.quiet = True


# Variables of the environment are for those before the command.
BEHIND_THE_COMMAND = (
    click.Option(
        JSON, is_flag=True, help=JSON_HELP, callback=_set(_as_json), expose_value=False, allow_from_autoenv=False
    ),
    click.Option(
        QUIET, is_flag=True, help=QUIET_HELP, callback=_set(_quiet), expose_value=False, allow_from_autoenv=False
    ),
    click.Option(
        VERBOSE, count=True, help=VERBOSE_HELP, callback=log_more, expose_value=False, allow_from_autoenv=False
    ),
)


def add_to_commands(group: click.Group) -> None:
    """Let each command of ``group`` take them too."""
    for command in group.commands.values():
        command.params += BEHIND_THE_COMMAND
