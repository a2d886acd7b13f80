"""``mxrtc send`` and ``mxrtc get``: their options."""

from __future__ import annotations

import click

from mxrtc_bridge.cli.client import completing
from mxrtc_bridge.cli.client.runner import in_loop
from mxrtc_bridge.client.options import Context

STANDARD_OUTPUT = "-"


reconnect_option = click.option(
    "--no-reconnect", is_flag=True, help="End when the connection is lost, instead of calling again."
)
resume_option = click.option(
    "--resume/--no-resume", default=True, show_default=True,
    help="Go on with what an earlier command has left unfinished.",
)  # fmt: skip


@click.command()
@click.argument(
    "paths",
    nargs=-1,
    required=True,
    metavar="PATH...",
    type=click.Path(allow_dash=True),
    shell_complete=completing.paths_or_inboxes,
)
@click.argument("peer", metavar="PEER[/SERVICE]")
@click.option("--name", metavar="NAME", help="What standard input (PATH '-') is called at the other side.")
@resume_option
@reconnect_option
@in_loop
async def send(
    context: Context, paths: tuple[str, ...], peer: str, name: str | None, resume: bool, no_reconnect: bool
) -> None:
    """Send files and directories to a peer, verified.

    After an interruption the same command goes on.

    Nothing is ever replaced there: a name that is taken becomes "name (2).ext".
    """
    from mxrtc_bridge.client.files import commands as file_commands  # noqa: PLC0415

    await file_commands.send(context, paths, peer, name=name, resume=resume, reconnect=not no_reconnect)


@click.command()
@click.argument("remote", metavar="PEER[/SERVICE][:PATH]", shell_complete=completing.remote_files)
@click.option(
    "-o",
    "--output",
    default=".",
    show_default=True,
    metavar="PLACE",
    type=click.Path(allow_dash=True),
    help="Directory to put it into, or for one file its name; with a slash behind it a directory that may have to be "
    "made. '-' writes one file to standard output, verified.",
)
@click.option("--force", is_flag=True, help="Replace files of the same names, instead of choosing other names.")
@resume_option
@reconnect_option
@in_loop
async def get(context: Context, remote: str, output: str, force: bool, resume: bool, no_reconnect: bool) -> None:
    """Fetch files from a peer, verified.

    After an interruption the same command goes on.

    PATH may have the wildcards *, ?, [abc] and **; quote it, it means files of the other side. Without it everything
    is fetched.
    """
    if output == STANDARD_OUTPUT:
        context.report.leave_stdout_to_data()
    from mxrtc_bridge.client.files import commands as file_commands  # noqa: PLC0415

    reconnect = not no_reconnect
    if output == STANDARD_OUTPUT:
        await file_commands.get_to_output(context, remote, reconnect=reconnect)
    else:
        await file_commands.get(context, remote, output=output, force=force, resume=resume, reconnect=reconnect)
