"""The commands that the bridge has, for tests of what reads, queues and shows them."""

from __future__ import annotations

from mxrtc_bridge.bridge.admin.commands import AdminCommands
from mxrtc_bridge.bridge.bot.user_commands import UserCommands, in_order
from mxrtc_bridge.core.bot.commands import Command, CommandForm, commands_of

COMMANDS = in_order((*commands_of(UserCommands), *commands_of(AdminCommands)))
BY_VERB = {form.verb: form for form in COMMANDS}


def usable(*, admin: bool) -> tuple[CommandForm, ...]:
    """The commands for admins, or for everybody else."""
    return tuple(form for form in COMMANDS if admin or not form.admin)


def made(verb: str, *arguments: object) -> Command:
    """A command as the parser makes it."""
    return Command(BY_VERB[verb], arguments)
