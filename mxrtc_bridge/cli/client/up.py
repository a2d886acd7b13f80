"""``mxrtc up`` and ``mxrtc down``: their options."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mxrtc_bridge.cli.client.runner import in_loop
from mxrtc_bridge.client.options import Context

BACKGROUND = "--bg"


@click.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False, path_type=Path), metavar="[FILE]")
@click.option(BACKGROUND, "background", is_flag=True, help="Run in the background; `mxrtc down` ends it.")
@click.option("--install", is_flag=True, help="Write a unit for systemd that runs it at each login, and say how.")
@in_loop
async def up(context: Context, file: Path | None, background: bool, install: bool) -> None:
    """Keep the connections of a file open.

    FILE is ~/.config/mxrtc/up.toml if it is not given. Under [connections] it has lines such as "2222" = "build/ssh":
    a local port, or BIND:PORT, and the service that it leads to. What fails is tried again by itself. Other commands
    use its connections, and need no call of their own.
    """
    from mxrtc_bridge.client.up import background as in_background  # noqa: PLC0415
    from mxrtc_bridge.client.up import connections_file, running, unit  # noqa: PLC0415

    path = connections_file.usual_file(context) if file is None else file
    if install:
        unit.install(context, path)
    elif background:
        connections_file.read_connections(path, context.state.load_login())
        await in_background.start(context, [each for each in sys.argv[1:] if each != BACKGROUND])
    else:
        await running.run(context, path)


@click.command()
@in_loop
async def down(context: Context) -> None:
    """End what `mxrtc up` runs.

    Commands that use its connections keep them until they are done.
    """
    from mxrtc_bridge.client.up import background  # noqa: PLC0415

    await background.down(context)
