"""``-q`` and ``-v`` of ``mxrtc-bridge``: the same before a command and behind it, as ``mxrtc`` has them.

``-q``: what a command says beside its data is held back, and given out where it fails; so a job of cron writes only
about what went wrong. ``run`` says nothing but its log: there the two choose the level. ``init`` asks questions, and
does not know ``-q``.
"""

from __future__ import annotations

import io
import logging
import sys
from collections import deque

import click

from mxrtc_bridge.cli.verbosity import QUIET, QUIET_HELP, VERBOSE, VERBOSE_HELP, log_more

MAX_HELD_PIECES = 10_000
"""Of what is held back; the oldest are forgotten."""
_RUN, _INIT = "run", "init"
_LEVEL = f"{__name__}.level"


class HeldMessages(io.TextIOBase):
    """Stands in for standard error while a command runs."""

    def __init__(self) -> None:
        self._pieces: deque[str] = deque(maxlen=MAX_HELD_PIECES)
        self.behind = sys.stderr

    def write(self, text: str, /) -> int:
        if not isinstance(text, str):
            raise TypeError(f"text is written here, not {type(text).__name__}")  # click asks by trying
        self._pieces.append(text)
        return len(text)

    def writable(self) -> bool:
        return True

    def end(self, code: int) -> None:
        """Be no stand-in any more; what was said is given out unless all is well."""
        sys.stderr = self.behind
        if code:
            sys.stderr.write("".join(self._pieces))


def be_quiet(command: str | None, context: click.Context) -> None:
    """Hold back what ``command`` says; of ``run`` log less."""
    if command == _RUN:
        context.meta[_LEVEL] = logging.WARNING
    elif command == _INIT:
        raise click.UsageError("The command init asks questions, so it has no -q.")
    elif not isinstance(sys.stderr, HeldMessages):
        sys.stderr = HeldMessages()


def log_at(command: str | None, context: click.Context, times: int) -> None:
    """Log so many steps more."""
    if command != _RUN:
        log_more(context, None, times)
    elif times:
        context.meta[_LEVEL] = logging.DEBUG


def level_of_log(configured: str) -> int:
    """The level at which ``run`` logs: that of its options, or else of the configuration."""
    level = click.get_current_context().meta.get(_LEVEL)
    return level if isinstance(level, int) else logging.getLevelNamesMapping()[configured.upper()]


def end_of_command(code: int) -> int:
    """Give out what was held back, if the command has failed; returns the code."""
    if isinstance(sys.stderr, HeldMessages):
        sys.stderr.end(code)
    return code


def _quiet(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        be_quiet(context.info_name, context)


def _verbose(context: click.Context, _option: click.Parameter, times: int) -> None:
    if not context.resilient_parsing:
        log_at(context.info_name, context, times)


BEHIND_THE_COMMAND = (
    click.Option(QUIET, is_flag=True, help=QUIET_HELP, callback=_quiet, expose_value=False),
    click.Option(VERBOSE, count=True, help=VERBOSE_HELP, callback=_verbose, expose_value=False),
)


def add_to_commands(group: click.Group) -> None:
    """Let each command of ``group`` take them too."""
    for command in group.commands.values():
        if isinstance(command, click.Group):
            add_to_commands(command)
        else:
            command.params += BEHIND_THE_COMMAND
