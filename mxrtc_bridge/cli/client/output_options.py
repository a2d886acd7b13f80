"""``--json``, ``-q`` and ``-v``: the same before a command and behind it, where people look for them first."""

from __future__ import annotations

from collections.abc import Callable

import click

from mxrtc_bridge.cli.verbosity import QUIET, QUIET_HELP, VERBOSE, VERBOSE_HELP, log_more
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report

JSON = ("--json", "as_json")
JSON_HELP = "One JSON object a line instead of sentences."


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
