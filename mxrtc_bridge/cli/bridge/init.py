"""``mxrtc-bridge init``: a configuration and a registration that work, for somebody who has seen neither.

Both texts are made and read back before anything is written, so that what is on disk afterwards is known to load.
Files are private from the start, and nothing that exists is replaced without ``--force``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from mxrtc_bridge.cli.bridge.acting import acting_as_owner
from mxrtc_bridge.cli.bridge.command_line import OF_THE_SERVICE, usual_config, usual_folder
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.example import InitAnswers, new_config
from mxrtc_bridge.config.loader import parse_config
from mxrtc_bridge.config.private_files import write_private
from mxrtc_bridge.config.registration import random_sender, render_registration
from mxrtc_bridge.config.values import parse_target
from mxrtc_bridge.core.errors import ConfigError

DEFAULT_ADDRESS = "http://127.0.0.1:8008"
DEFAULT_LISTEN = "127.0.0.1:29350"


@click.command("init")
@click.option("--homeserver-address", "address", metavar="URL", help=f"Client-server API  [default: {DEFAULT_ADDRESS}]")
@click.option("--domain", metavar="NAME", help="Server name: the part after the colon of your user ids.")
@click.option("--listen", metavar="ADDRESS:PORT", help=f"Where the homeserver calls us  [default: {DEFAULT_LISTEN}]")
@click.option("--peer", metavar="NAME", help="Name of the first peer; its user id is @rtc_NAME:DOMAIN.")
@click.option("--service", "services", metavar="NAME=TARGET", multiple=True, help="Like ssh=tcp:127.0.0.1:22.")
@click.option("--allow", metavar="@USER:SERVER", multiple=True, help="Who may use the services of the peer.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=usual_folder,
    show_default=f"{OF_THE_SERVICE.parent} if it is there, else here",
    help="Folder to write to.",
)
@click.option("--force", is_flag=True, help="Replace config.yaml and registration.yaml.")
def init_command(
    *,
    address: str | None,
    domain: str | None,
    listen: str | None,
    peer: str | None,
    services: tuple[str, ...],
    allow: tuple[str, ...],
    output: Path,
    force: bool,
) -> int:
    """Write config.yaml and registration.yaml.

    Both have mode 0600 and random tokens.

    Asks for what it needs; with --domain it asks nothing. --service and --allow may be given several times. Prints the
    lines for homeserver.yaml to standard output.
    """
    output = output.absolute()
    paths = output / "config.yaml", output / "registration.yaml"
    for path in paths:
        if _exists(path) and not force:
            raise click.UsageError(f"{path} exists already; use --force to replace it, or --output for another folder.")
    if domain is None:
        if not sys.stdin.isatty():
            raise click.UsageError("--domain is needed when there is nobody to ask.")
        wishes = _ask(address, listen, peer, services, allow)
    else:
        wishes = InitAnswers(
            address or DEFAULT_ADDRESS, domain, listen or DEFAULT_LISTEN, peer, _services(services), allow
        )
    if wishes.peer is None and (wishes.services or wishes.allow):
        raise click.UsageError("--service and --allow belong to a peer: add --peer NAME.")
    if wishes.peer is not None and not wishes.services:
        raise click.UsageError(f"The peer {wishes.peer} needs at least one --service NAME=TARGET.")
    text = new_config(wishes)
    try:
        config = parse_config(text, paths[0], environ={})
    except ConfigError as error:
        raise click.UsageError(f"These answers make no usable configuration:\n{error}") from None
    # Who owns the folder runs the bridge there, and must be able to read them.
    with acting_as_owner(output):
        _write(output, paths, (text, render_registration(config, random_sender())), force)
    click.echo(f"app_service_config_files:\n  - {paths[1]}")
    click.echo(_next_steps(config, paths[1]), err=True)
    return 0


def _services(texts: tuple[str, ...]) -> dict[str, str]:
    services: dict[str, str] = {}
    for text in texts:
        name, equals, target = text.partition("=")
        if not equals:
            raise click.UsageError(f"--service {text[:80]!a} is not NAME=TARGET, like ssh=tcp:127.0.0.1:22.")
        if name in services:
            raise click.UsageError(f"--service {name[:80]!a} is given twice.")
        services[name] = target
    return services


def _ask(
    address: str | None, listen: str | None, peer: str | None, services: tuple[str, ...], allow: tuple[str, ...]
) -> InitAnswers:
    """Ask for everything that was not given as an option; questions go to standard error."""
    domain = click.prompt("Server name of your homeserver (the part after the colon of your user id)", err=True)
    address = address or click.prompt("Its client-server API", default=DEFAULT_ADDRESS, err=True)
    listen = listen or click.prompt("Where shall the bridge listen for it", default=DEFAULT_LISTEN, err=True)
    peer = peer or click.prompt("Name of the first peer", default="build", err=True)
    chosen = _services(services)
    while not chosen:
        name = click.prompt("Name of its service", default="ssh", err=True)
        chosen[name] = click.prompt(
            "Where does it lead (tcp:HOST:PORT or unix:/path)",
            default="tcp:127.0.0.1:22" if name == "ssh" else None,
            value_proc=_target_text,
            err=True,
        )
    if not allow:
        user = click.prompt(f"Who may use it (@user:{domain}; empty for nobody)", default="", err=True)
        allow = (user,) if user else ()
    return InitAnswers(str(address), str(domain), str(listen), str(peer), chosen, allow)


def _target_text(text: str) -> str:
    try:
        parse_target(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return text


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:  # a folder above it that is closed to us, or a name that is too long
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _write(output: Path, paths: tuple[Path, Path], texts: tuple[str, str], force: bool) -> None:
    try:
        output.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {output} cannot be made: {error.strerror}") from None
    write_private(paths[0], texts[0], replace=force)
    try:
        write_private(paths[1], texts[1], replace=force)
    except ConfigError:
        # Half a pair would be refused at the next attempt, and its tokens belong to nothing.
        if not force:
            paths[0].unlink(missing_ok=True)
        raise


def _next_steps(config: Config, registration: Path) -> str:
    reach = [f"{peer.name}/{name}" for peer in config.peers.values() for name in sorted(peer.services)]
    last = f"4. As a user with a right:   mxrtc connect {reach[0]} -L 2222" if reach else "4. Add peers and grants."
    option = "" if usual_config().absolute() == config.path else f" -c {config.path}"
    return f"""
Wrote {config.path}
and   {registration} (both mode 0600).

1. Let the homeserver read the registration (it holds the tokens), for example with Debian's Synapse:
     install -o matrix-synapse -m 0600 {registration} /etc/matrix-synapse/mxrtc.yaml
   add it to homeserver.yaml under app_service_config_files (the lines above, with that path),
   and restart the homeserver. It will call the bridge at {config.appservice.url}.
2. Look for mistakes:   mxrtc-bridge check{option}
3. Start it:            mxrtc-bridge run{option}
{last}"""
