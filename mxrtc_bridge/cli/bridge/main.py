"""``mxrtc-bridge``: the admin's command line.

Data goes to standard output, everything for people to standard error.
Mistakes of people never show a traceback here; a defect of the program does, because it must be reported.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import uvloop
from rich.console import Console
from rich.text import Text

from mxrtc_bridge import __version__
from mxrtc_bridge.cli.bridge import completing
from mxrtc_bridge.cli.bridge.acting import acting_as_owner, load_as_owner
from mxrtc_bridge.cli.bridge.admin import COMMANDS
from mxrtc_bridge.cli.bridge.audit import audit_command
from mxrtc_bridge.cli.bridge.check import check_command
from mxrtc_bridge.cli.bridge.command_line import ExitCode, config_option, socket_option
from mxrtc_bridge.cli.bridge.config_file import config_group
from mxrtc_bridge.cli.bridge.files import files_command
from mxrtc_bridge.cli.bridge.identity import identity_command
from mxrtc_bridge.cli.bridge.init import init_command
from mxrtc_bridge.cli.bridge.output_options import add_to_commands, be_quiet, end_of_command, level_of_log, log_at
from mxrtc_bridge.cli.bridge.running_bridge import ask_bridge
from mxrtc_bridge.cli.bridge.services import add_command, list_command, remove_command
from mxrtc_bridge.cli.bridge.top import top_command
from mxrtc_bridge.cli.completion import completion_command
from mxrtc_bridge.cli.loading import loading
from mxrtc_bridge.cli.standard_streams import OutputError, leave_now, run_program, standard_streams
from mxrtc_bridge.cli.verbosity import QUIET, QUIET_HELP, VERBOSE, VERBOSE_HELP
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.example import example_config
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.config.private_files import write_private
from mxrtc_bridge.config.registration import random_sender, render_registration
from mxrtc_bridge.config.values import parse_time
from mxrtc_bridge.core.access.peer_names import NamingError, parse_peer_name
from mxrtc_bridge.core.access.policy import Allow
from mxrtc_bridge.core.errors import ConfigError, EventError, HomeserverError, LocalError, MxrtcError
from mxrtc_bridge.core.ids import UserId, is_guest_account, typed_user_id
from mxrtc_bridge.core.text.display import display, sentence

MAX_ERROR_COLUMNS = 500
"""Errors may quote what a homeserver said; nothing useful is longer."""


def say(text: str, style: str = "") -> None:
    """Write to standard error for a person. The text is never read as markup: parts of it may come from elsewhere."""
    Console(stderr=True, highlight=False).print(Text(text, style=style), soft_wrap=True)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "--version", prog_name="mxrtc-bridge")
@click.option("--json", "as_json", is_flag=True, help="The same as --json behind the command, where that has it.")
@click.option(*QUIET, is_flag=True, help=QUIET_HELP)
@click.option(*VERBOSE, count=True, help=VERBOSE_HELP)
@click.pass_context
def cli(context: click.Context, as_json: bool, quiet: bool, verbose: int) -> None:
    """Reach TCP services through Matrix calls: the bridge, for its admin.

    The bridge owns a set of Matrix users ("peers"). A user who has a right to it calls a peer, and every data channel
    of the call is piped to a local service. Begin with `mxrtc-bridge init`.

    `--json`, `-q` and `-v` may stand behind the command too.
    """
    name = context.invoked_subcommand
    log_at(name, context, verbose)
    if quiet:
        be_quiet(name, context)
    if not as_json or name is None:
        return
    if not any(option.name == "as_json" for option in cli.commands[name].params):
        raise click.UsageError(f"The command {name} has no --json.")
    context.default_map = {name: {"as_json": True}}


for each in (
    init_command,
    add_command,
    remove_command,
    list_command,
    config_group,
    check_command,
    audit_command,
    identity_command,
    *COMMANDS,
    top_command,
    files_command,
    completion_command(),
):
    cli.add_command(each)


@cli.command("run")
@config_option
@click.option(
    "--adopt",
    multiple=True,
    metavar="@USER:SERVER",
    help="Take over an account that exists already under the name of a peer or the bot: everybody is logged out of it, "
    "and its identity is replaced. Remembered, so it is needed once. May be given several times.",
)
@click.option(
    "--new-identity",
    is_flag=True,
    help="Replace identities that the key in use does not make, because that key is lost. The old ones cannot come "
    "back, and everybody who knows a peer by its devices has to accept the new one. For one start only.",
)
def run_command(path: Path, adopt: tuple[str, ...], new_identity: bool) -> int:
    """Run the bridge until SIGTERM or SIGINT.

    SIGHUP reads the configuration again.

    It says goodbye to its sessions and ends within 40 seconds, whatever hangs; a second signal ends it at once.

    A peer that would have the account of a person, or shows another identity than before, takes no calls; the others
    serve. It stops with 78 where nobody could be served: no peer is left, the bot has the account of a person, or no
    identity is the one that the key makes. Both can be meant, and are then said once: stop the service, run this with
    the option until it says `bridge ready` and `encryption is on`, stop it, and start the service again.
    """
    try:
        frozenset(map(typed_user_id, adopt))
    except EventError as error:
        raise click.UsageError(f"--adopt: {error}.") from None
    config = load_as_owner(path, for_good=True)
    users = frozenset(typed_user_id(user, config.homeserver.domain) for user in adopt)
    start_logging(config)
    # The other commands answer quickly because they never load the network libraries.
    with loading():
        from mxrtc_bridge.bridge.runner import run  # noqa: PLC0415
        from mxrtc_bridge.matrix.virtual_users import AdminConsent  # noqa: PLC0415

    # Modules stay, and a full collection, also in the thread that reads a configuration again, would go through all of
    # them with everybody waiting: 70 ms, more than all that comes later.
    gc.freeze()
    closed = threading.Event()
    consent = AdminConsent(users, new_identity)
    try:
        uvloop.run(run(config, consent, leave=leave_now, say_failure=say_failure, closed=closed))
    finally:
        closed.set()
    return ExitCode.DONE


def start_logging(config: Config) -> None:
    """Log to standard error at the level of the options, or else of the configuration.

    Under systemd without a time, which the journal adds itself.
    """
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    form = f"{stamp}%(levelname)-7s %(name)s: %(message)s"
    logging.basicConfig(level=level_of_log(config.log_level), format=form, stream=sys.stderr)


@cli.command("example-config")
def example_config_command() -> int:
    """Print a complete configuration, every key explained."""
    click.echo(example_config(), nl=False)
    return ExitCode.DONE


@cli.command("registration")
@config_option
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write to this file (mode 0600) instead.")
@click.option("--force", is_flag=True, help="Replace the file if it exists.")
def registration_command(path: Path, output: Path | None, force: bool) -> int:
    """Print the registration for the homeserver. It holds both tokens."""
    with acting_as_owner(path):
        config = load_config(path)
    text = render_registration(config, random_sender())
    if config.appservice.sender_localpart is None:
        say("appservice.sender_localpart is not set, so the registration has a new random one each time", "yellow")
    if output is None:
        click.echo(text, nl=False)
    else:
        with acting_as_owner(output.absolute().parent):
            write_private(output, text, replace=force)
        say(f"wrote {output} (mode 0600)")
    return ExitCode.DONE


@cli.command("explain")
@config_option
@socket_option
@click.option("--at", "moment", metavar="TIME", help="Decide as of this time (2030-01-31 or 2030-01-31T18:00:00Z).")
@click.argument("user", metavar="@USER:SERVER")
@click.argument("service", metavar="PEER[/SERVICE]", shell_complete=completing.services)
def explain_command(path: Path, socket: Path | None, moment: str | None, user: str, service: str) -> int:
    """Say whether a user may use a service, and by which rule.

    Without a service: whether the user may call the peer at all.

    The running bridge is asked, which also knows what was granted by admins, who is in which room, and what policy
    lists say. Where none runs, where the file was changed and is not in force yet, and with --at, it is decided by the
    file alone, which is said then.

    Prints `allow` or `deny` and the rule; exit code 0 for allow, 3 for deny.
    """
    try:
        user_id = typed_user_id(user)
        at_ms = None if moment is None else parse_time(moment)
    except (EventError, ValueError) as error:
        raise click.UsageError(sentence(str(error))) from None
    answer, why = None, "what else the bridge knows, it knows for now only"
    if at_ms is None:
        try:
            answer = _ask_to_explain(path, socket, user_id, service)
        except LocalError as error:
            why = display(str(error), MAX_ERROR_COLUMNS)
    if answer is not None and socket is not None:
        return _decided(user_id, answer)
    try:
        config = load_as_owner(path)
    except ConfigError:
        if answer is None:
            raise
        return _decided(user_id, answer)  # it cannot be in force
    name, slash, service_name = service.partition("/")
    peer, wanted = _peer_named(config, name), service_name if slash else None
    decision = config.decide(user_id, peer, wanted, time.time_ns() // 1_000_000 if at_ms is None else at_ms)
    if answer is not None:
        if answer.alone == decision.rule:
            return _decided(user_id, answer)
        why = f"it was changed, and without a reload the bridge still says: {_in_words(answer)}"
    if (unknown := config.unknown(peer, wanted)) is not None:
        say(unknown, "yellow")
    say(f"by the file alone, without what admins have given, rooms and policy lists: {why}", "yellow")
    return _decided(user_id, Explanation(isinstance(decision, Allow), decision.rule))


def _peer_named(config: Config, name: str) -> UserId:
    try:
        return parse_peer_name(name, server=config.homeserver.domain, prefix=config.appservice.peer_prefix).peer
    except NamingError:
        return config.peer_id(name)  # which there is not


@dataclass(frozen=True, slots=True)
class Explanation:
    """A decision, and what belongs to it."""

    allowed: bool
    rule: str
    alone: str = ""
    """The rule by which the configuration in force would decide alone."""
    notes: tuple[str, ...] = ()


def _ask_to_explain(path: Path, socket: Path | None, user: UserId, service: str) -> Explanation:
    """Have the running bridge decide.

    Raises:
        LocalError: none runs, or it does not answer this question.
    """
    status, answer = ask_bridge(path, socket, ("explain", user, service))
    if status >= 400:
        raise LocalError(str(answer.get("error", "the bridge did not answer")))
    rows = answer.get("rows")
    row = rows[0] if isinstance(rows, list) and rows else None
    if not isinstance(row, dict) or not isinstance(row.get("allowed"), bool):
        raise LocalError("the bridge has answered something else")
    notes = row.get("notes")
    return Explanation(
        row["allowed"],
        display(str(row.get("rule", "")), MAX_ERROR_COLUMNS),
        str(row.get("alone", "")),
        tuple(map(str, notes)) if isinstance(notes, list) else (),
    )


def _in_words(decision: Explanation) -> str:
    if decision.allowed:
        return f"allow: grant {decision.rule}"
    return decision.rule if decision.rule.startswith("deny") else f"deny: {decision.rule}"


def _decided(user: UserId, decision: Explanation) -> int:
    for note in decision.notes:
        say(display(note, MAX_ERROR_COLUMNS), "yellow")
    if not decision.allowed and is_guest_account(user):
        say(f"{user} is a guest account: server: and * do not mean it, guest-accounts: does.", "yellow")
    click.echo(_in_words(decision))
    return ExitCode.DONE if decision.allowed else ExitCode.DENIED


add_to_commands(cli)


def invoke(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; expected failures are said in one clear text."""
    return end_of_command(_invoke(arguments))


def _invoke(arguments: Sequence[str]) -> int:
    try:
        result = cli.main(list(arguments), prog_name="mxrtc-bridge", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        say("interrupted", "yellow")
        return ExitCode.INTERRUPTED
    except OutputError:
        return ExitCode.FAILED  # said at the end, like all that could not be written
    except (MxrtcError, OSError) as error:
        return say_failure(error)
    return result if isinstance(result, int) else ExitCode.DONE


def say_failure(error: Exception) -> int:
    """Say in one clear text why a command has failed, or show where a defect is; returns the exit code."""
    match error:
        case ConfigError():
            say(str(error), "red")
            return ExitCode.CONFIG
        case MxrtcError() | OSError():
            say(display(sentence(str(error)), MAX_ERROR_COLUMNS), "red")
            retryable = not isinstance(error, HomeserverError) or error.retryable
            return ExitCode.FAILED if retryable else ExitCode.CONFIG
    traceback.print_exception(error)
    return ExitCode.FAILED


def main() -> None:
    """Entry point of ``mxrtc-bridge``."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["run"]:
        # It says its goodbyes, and decides itself about signals.
        with standard_streams():
            sys.exit(invoke(arguments))
        return  # an exit with 0 ends here
    run_program(lambda: sys.exit(invoke(arguments)))
