"""``mxrtc``: the user's command line. Reads options, runs one command, turns what happened into an exit code.

The commands themselves, and with them the network libraries, are loaded when one of them runs: help answers at once,
and Ctrl-C while they load is heard by the loop and ends the command in silence.
"""

from __future__ import annotations

from pathlib import Path

import click

from mxrtc_bridge import __version__
from mxrtc_bridge.cli.client import completing, files, output_options, up
from mxrtc_bridge.cli.client.login import login
from mxrtc_bridge.cli.client.runner import in_loop
from mxrtc_bridge.cli.completion import completion_command
from mxrtc_bridge.cli.standard_streams import Program
from mxrtc_bridge.cli.verbosity import QUIET, QUIET_HELP, VERBOSE, VERBOSE_HELP, log_more
from mxrtc_bridge.client.accounts import Accounts
from mxrtc_bridge.client.options import DEFAULT_TIMEOUT_S, CallOptions, Context, SignalBy, parse_forward
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.core.webrtc.ice import IcePolicy

EXIT_CODES = """
Exit codes: 0 done; 1 try again later; 2 wrong usage or login; 3 denied or no such service, do not retry;
4 the peer does not answer; 5 no network path between the two sides; 6 data was cut or damaged;
7 a local port or file cannot be used; 130 a signal, such as Ctrl-C.
"""


@click.group(
    cls=Program,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "MXRTC"},
    epilog=EXIT_CODES,
)
@click.option("--state", type=click.Path(file_okay=False, path_type=Path), help="Folder for logins and known rooms.")
@click.option(
    "--account",
    metavar="NAME",
    help="The account to use: its name, or its user id; see `mxrtc accounts`.",
    shell_complete=completing.accounts,
)
@click.option(*output_options.JSON, is_flag=True, help=output_options.JSON_HELP)
@click.option(*QUIET, is_flag=True, help=QUIET_HELP)
@click.option(
    *VERBOSE,
    count=True,
    help=VERBOSE_HELP,
    callback=log_more,
    expose_value=False,
)
@click.option("--relay-only", is_flag=True, help="Never show my addresses to the peer: only TURN, slower.")
@click.option(
    "--interface",
    "interfaces",
    multiple=True,
    metavar="NAME",
    help="Use only these network interfaces.",
    shell_complete=completing.interfaces,
)
@click.option(
    "--timeout",
    type=click.FloatRange(1, 600),
    default=DEFAULT_TIMEOUT_S,
    show_default=True,
    help="Seconds of silence until a command gives up; `connect` that was connected never does.",
)
@click.option(
    "--signal",
    type=click.Choice([each.value for each in SignalBy]),
    default=SignalBy.AUTO.value,
    show_default=True,
    help="Call by an encrypted message to the peer's device, by events in a room, or by a room if it has no device.",
)
@click.option(
    "--own-call",
    is_flag=True,
    help="Call by myself, even where another mxrtc command has a connection that could be used, and lend mine to none.",
)
@click.version_option(__version__, prog_name="mxrtc")
@click.pass_context
def main(
    context: click.Context,
    state: Path | None,
    account: str | None,
    as_json: bool,
    quiet: bool,
    relay_only: bool,
    interfaces: tuple[str, ...],
    timeout: float,
    signal: str,
    own_call: bool,
) -> None:
    """Reach TCP services and files behind a Matrix peer, end to end over WebRTC.

    You connect; the peer's bridge is what listens. Names: build/ssh, build@example.org/ssh, @rtc_build:example.org/ssh.

    `--json`, `-q` and `-v` may stand behind the command too.
    """
    accounts = Accounts.default() if state is None else Accounts(StateFolder(state))
    context.obj = Context(
        state=accounts.folder(account),
        report=Report(as_json=as_json, quiet=quiet),
        call=CallOptions(
            policy=IcePolicy.RELAY if relay_only else IcePolicy.ALL,
            interfaces=interfaces,
            timeout_s=timeout,
            signal=SignalBy(signal),
            share=not own_call,
        ),
        accounts=accounts,
    )


@main.command()
@in_loop
async def logout(context: Context) -> None:
    """Log out and forget the token."""
    from mxrtc_bridge.client import account  # noqa: PLC0415

    await account.logout(context)


@main.command()
@click.option(
    "--default",
    "default",
    metavar="NAME",
    help="Use this one from now on where `--account` names none.",
    shell_complete=completing.accounts,
)
@in_loop
async def accounts(context: Context, default: str | None) -> None:
    """List my accounts, or choose the usual one.

    Of each: name, user and homeserver. `*` stands before the one that is used where `--account` names none.

    Each has a login and a device of its own. A new one is made by logging in to it:
    mxrtc --account work login @me:example.com
    """
    from mxrtc_bridge.client import account  # noqa: PLC0415

    await account.accounts(context, default)


@main.command("ls")
@click.argument("peer", required=False, metavar="[PEER[/SERVICE][:PATH]]", shell_complete=completing.remote_files)
@in_loop
async def list_services(context: Context, peer: str | None) -> None:
    """List the services that I may use, or the files of a service.

    Without a PEER: the services of all peers of my server's bridge.

    Beside each stands what it is for: stream (connections), inbox (takes files), share (gives files), files (both);
    whether it is up; until when I may use it, if that has an end; and what to type. Where the output is no terminal,
    the columns have one tab between them, also those that are empty.

    With a SERVICE or PATH: one line for each file and directory there, with size, time of change and path.
    """
    from mxrtc_bridge.client import commands  # noqa: PLC0415
    from mxrtc_bridge.client.files import commands as file_commands  # noqa: PLC0415

    if peer is None or not file_commands.names_files(context.state, peer):
        await commands.list_services(context, peer)
    else:
        await file_commands.list_files(context, peer)


@main.command()
@click.argument("peer", metavar="PEER[/SERVICE]", shell_complete=completing.services(completing.ALL))
@in_loop
async def how(context: Context, peer: str) -> None:
    """Say what to type for a service.

    The lines are for pasting. Without a SERVICE: for each that I may use there.
    """
    from mxrtc_bridge.client import commands  # noqa: PLC0415

    await commands.how(context, peer)


@main.command()
@click.argument("peer", metavar="PEER[/SERVICE]", shell_complete=completing.services(completing.STREAMS))
@click.option(
    "-L",
    "--listen",
    "listens",
    multiple=True,
    metavar="[BIND:]PORT[=SERVICE]",
    shell_complete=completing.listens,
    help="Listen here and forward each connection; repeatable. PORT 0 takes a free one. BIND `*` is each IPv4 address, "
    "`[::]` each IPv6 one.",
)
@click.option("--no-reconnect", is_flag=True, help="End when the session is lost, instead of calling again.")
@in_loop
async def connect(context: Context, peer: str, listens: tuple[str, ...], no_reconnect: bool) -> None:
    """Forward local ports to services of a peer. All of them share one peer connection.

    Without -L it listens on 127.0.0.1, on the port that is usual for a service of that name: 2222 for ssh, 8080 for
    web, 5432 for db, and so on, and 9000 for names that say nothing.
    """
    from mxrtc_bridge.client import commands  # noqa: PLC0415

    forwards = [parse_forward(text) for text in listens]
    await commands.connect(context, peer, forwards, reconnect=not no_reconnect)


@main.command()
@click.argument("peer", metavar="PEER[/SERVICE]", shell_complete=completing.services(completing.STREAMS))
@in_loop
async def nc(context: Context, peer: str) -> None:
    """Connect standard input and output to a service. Works as ssh's ProxyCommand.

    ssh -o ProxyCommand='mxrtc -q nc build/ssh' me@build
    """
    context.report.leave_stdout_to_data()
    from mxrtc_bridge.client import commands  # noqa: PLC0415

    await commands.nc(context, peer)


@main.command()
@click.argument("peer", metavar="PEER", shell_complete=completing.peers)
@click.option("-c", "--count", type=click.IntRange(1, 100_000), default=4, show_default=True, help="How many.")
@click.option(
    "-i", "--interval", type=click.FloatRange(0.25, 3600), default=1.0, show_default=True, help="Seconds between them."
)
@in_loop
async def ping(context: Context, peer: str, count: int, interval: float) -> None:
    """Call a peer and measure the round trip. Says whether the path is direct or relayed."""
    from mxrtc_bridge.client import commands  # noqa: PLC0415

    await commands.ping(context, peer, count, interval)


@main.command()
@click.argument("name", metavar="PEER/SERVICE", shell_complete=completing.services(completing.ALL))
@click.option("--for", "for_time", metavar="TIME", help="How long: 30m, 2h, 3d; 2h if it is not said.")
@click.option("--because", metavar="TEXT", help="Why; the admins read it.")
@click.option("--wait", is_flag=True, help="Wait until the admins have decided.")
@in_loop
async def request(context: Context, name: str, for_time: str | None, because: str | None, wait: bool) -> None:
    """Ask the bridge's admins for a service.

    They answer in the direct chat with the bridge's bot. With --wait it ends with 0 once the request is allowed, and
    with the code for "denied" if it is not.
    """
    from mxrtc_bridge.client import request  # noqa: PLC0415

    await request.request(context, name, for_time=for_time, because=because, wait=wait)


@main.command()
@click.argument("number", metavar="N", type=click.IntRange(1))
@in_loop
async def withdraw(context: Context, number: int) -> None:
    """Take back a request that waits for an answer.

    N is the number that the bridge of my server has given it: mxrtc request shows it.
    """
    from mxrtc_bridge.client import request  # noqa: PLC0415

    await request.withdraw(context, number)


@main.command()
@click.argument("peer", required=False, metavar="[PEER]", shell_complete=completing.peers)
@in_loop
async def devices(context: Context, peer: str | None) -> None:
    """List my devices, or those of a peer.

    Of each: device, key, and how far it is trusted. `any`: nobody but the homeserver vouches for it. `cross-signed`:
    its owner has signed it.
    """
    from mxrtc_bridge.client import devices  # noqa: PLC0415

    await devices.devices(context, peer)


@main.command()
@click.argument("peer", metavar="PEER", shell_complete=completing.peers)
@click.option("--key", metavar="KEY", help="The identity that its admin has told you: accept this one only.")
@in_loop
async def trust(context: Context, peer: str, key: str | None) -> None:
    """Accept the identity that a peer shows now.

    Do so after its admin has told you that it was changed on purpose. With a KEY that you have from the admin over
    another way, the peer's devices count as verified from then on; its admin reads it with: mxrtc-bridge identity
    """
    from mxrtc_bridge.client import devices  # noqa: PLC0415

    await devices.trust(context, peer, key)


@main.command()
@click.argument("peer", required=False, metavar="[PEER]", shell_complete=completing.peers)
@in_loop
async def verify(context: Context, peer: str | None) -> None:
    """Compare emoji with a session of mine or the admin of a peer.

    Both must show the same seven. Without a PEER: another session signs this device, which then counts as cross-signed.
    Accept the request there, or begin there. With a PEER: its admin reads the emoji with mxrtc-bridge verify; its
    identity then counts as verified. The answer, yes or no, is read from standard input.
    """
    from mxrtc_bridge.client import verify  # noqa: PLC0415

    await verify.verify(context, peer)


@main.command()
@in_loop
async def status(context: Context) -> None:
    """Show the login, whether the homeserver answers, and what runs."""
    from mxrtc_bridge.client import account  # noqa: PLC0415

    await account.status(context)


@main.command()
@in_loop
async def netcheck(context: Context) -> None:
    """Say what this network lets through, without calling anybody.

    Whether the homeserver answers, and how far its clock is from mine; whether UDP gets out, by IPv4 and IPv6, and how
    large packets may be; what each STUN and TURN server that the homeserver gives does, and after how long. Ends with 0
    where calls can work, with 5 where none can, and with 1 where the homeserver does not answer.
    """
    from mxrtc_bridge.client import netcheck  # noqa: PLC0415

    await netcheck.netcheck(context)


main.add_command(login)
main.add_command(files.send)
main.add_command(files.get)
main.add_command(up.up)
main.add_command(up.down)
main.add_command(completion_command())
output_options.add_to_commands(main)
