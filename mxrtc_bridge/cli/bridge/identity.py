"""``mxrtc-bridge identity``: the identities of the peers, for users to compare with what they see."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mxrtc_bridge.cli.bridge.acting import load_as_owner
from mxrtc_bridge.cli.bridge.command_line import config_option, json_option
from mxrtc_bridge.cli.loading import loading
from mxrtc_bridge.core.errors import LocalError


@click.command("identity")
@config_option
@json_option
def identity_command(path: Path, as_json: bool) -> int:
    """Print the identity of each peer and of the bot.

    A line has the user and the public master key, separated by a tab.

    A user who gets a key from you over another way compares it: mxrtc trust PEER --key KEY. Works while the bridge
    runs or not.
    """
    config = load_as_owner(path)
    settings = config.encryption
    if settings.key is None and not settings.key_file.exists():
        raise LocalError(f"there are no identities yet: the bridge makes {settings.key_file} at its first start")
    # Only this command needs the Olm library without the network.
    with loading():
        from mxrtc_bridge.bridge.devices.identity_key import load_key  # noqa: PLC0415
        from mxrtc_bridge.matrix.crypto.keys import IdentityKeys  # noqa: PLC0415

    key = load_key(settings)
    for user in (config.appservice.bot, *config.peers):
        master = IdentityKeys.derived(key, user).master.public
        click.echo(json.dumps({"user": user, "identity": master}) if as_json else f"{user}\t{master}")
    return 0
