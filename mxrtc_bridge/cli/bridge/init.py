"""``mxrtc-bridge init``: a configuration and a registration that work, for somebody who has seen neither.

Both texts are made and read back before anything is written, so that what is on disk afterwards is known to load.
Files are private from the start, and nothing that exists is replaced without ``--force``.
With ``--systemd`` and ``--docker`` it goes on to a service, and can be run again: it takes up what is there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import click

from mxrtc_bridge.cli.bridge.acting import acting_as_owner
from mxrtc_bridge.cli.bridge.command_line import OF_THE_SERVICE, usual_folder
from mxrtc_bridge.cli.bridge.homeserver_setup import KINDS
from mxrtc_bridge.cli.bridge.installation import Installation
from mxrtc_bridge.cli.bridge.services import service_settings
from mxrtc_bridge.config import schema
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.example import InitAnswers, new_config, placeholder_problems
from mxrtc_bridge.config.file_edits import write_private_pair
from mxrtc_bridge.config.loader import parse_config
from mxrtc_bridge.config.privileged_sockets import what_it_controls
from mxrtc_bridge.config.registration import random_sender, render_registration
from mxrtc_bridge.config.validation_errors import complaint_about
from mxrtc_bridge.core.errors import ConfigError

DEFAULT_ADDRESS = "http://127.0.0.1:8008"
DEFAULT_LISTEN = "127.0.0.1:29350"


MAX_PASSWORD_CHARS = 4096


class Checked(click.ParamType):  # type: ignore[type-arg]  # the first versions that are allowed take none
    """A value of the configuration, judged when it is given and not when all are there.

    Args:
        name: of the kind of value.
        kind: its type in :mod:`mxrtc_bridge.config.schema`.
    """

    def __init__(self, name: str, kind: Any) -> None:
        self.name = name
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if (complaint := complaint_about(self._kind, value)) is not None:
            self.fail(complaint, param, ctx)
        for problem in placeholder_problems(value):
            self.fail(problem.message, param, ctx)
        return str(value)


ADDRESS = Checked("URL", schema.HttpUrl)
DOMAIN = Checked("server name", schema.ServerName)
LISTEN = Checked("listen address", schema.ListenText)
PEER = Checked("name", schema.PeerName)
SERVICE = Checked("name", schema.ServiceNameText)
SUBJECT = Checked("subject", schema.Subject)
USER = Checked("user id", schema.UserText)
ADVERTISED = Checked("IP address", schema.Advertised)
ICE_URI = Checked("URI", schema.IceUri)


@click.command("init")
@click.option(
    "--homeserver-address",
    "address",
    type=ADDRESS,
    metavar="URL",
    help=f"Client-server API  [default: {DEFAULT_ADDRESS}]",
)
@click.option("--domain", type=DOMAIN, metavar="NAME", help="Server name: the part after the colon of your user ids.")
@click.option(
    "--listen", type=LISTEN, metavar="ADDRESS:PORT", help=f"Where the homeserver calls us  [default: {DEFAULT_LISTEN}]"
)
@click.option("--peer", type=PEER, metavar="NAME", help="Name of the first peer; its user id is @rtc_NAME:DOMAIN.")
@click.option("--service", "services", metavar="NAME=TARGET", multiple=True, help="Like ssh=tcp:127.0.0.1:22.")
@click.option("--inbox", metavar="DIR", help="Files that callers send go there: --service inbox=inbox:DIR.")
@click.option("--share", metavar="DIR", help="Files that callers may fetch: --service share=share:DIR.")
@click.option(
    "--allow", type=SUBJECT, metavar="WHO", multiple=True, help="@user:server or server:NAME that may use the peer."
)
@click.option(
    "--admin", "admins", type=USER, metavar="@USER:SERVER", multiple=True, help="Who may give commands in the chat."
)
@click.option(
    "--advertise",
    type=ADVERTISED,
    metavar="IP[/LOCAL]",
    multiple=True,
    help="Public address that a router or a cloud maps to this machine.",
)
@click.option(
    "--turn",
    type=ICE_URI,
    metavar="URI",
    multiple=True,
    help="TURN server to use in place of those that the homeserver names.",
)
@click.option("--turn-username", metavar="NAME", help="User name at the TURN server.")
@click.option(
    "--turn-password-file",
    type=click.File(),
    metavar="FILE",
    help="File with the password, or - for standard input. Without it, it is asked for.",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=usual_folder,
    show_default=f"{OF_THE_SERVICE.parent} if it is there, else here",
    help="Folder to write to.",
)
@click.option("--force", is_flag=True, help="Replace config.yaml and registration.yaml.")
@click.option(
    "--homeserver",
    "homeserver_kind",
    type=click.Choice(list(KINDS)),
    help="How it is installed  [default: found out]",
)
@click.option(
    "--homeserver-config",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Its configuration, of which the change is shown; it is not written.",
)
@click.option("--homeserver-user", metavar="NAME", help="User that it runs as  [default: found out]")
@click.option("--systemd", "as_service", is_flag=True, help="Install and start a service of systemd (as root).")
@click.option("--docker", "as_container", is_flag=True, help="Write a compose file for a container.")
def init_command(
    *,
    address: str | None,
    domain: str | None,
    listen: str | None,
    peer: str | None,
    services: tuple[str, ...],
    inbox: str | None,
    share: str | None,
    allow: tuple[str, ...],
    admins: tuple[str, ...],
    advertise: tuple[str, ...],
    turn: tuple[str, ...],
    turn_username: str | None,
    turn_password_file: TextIO | None,
    output: Path,
    force: bool,
    homeserver_kind: str | None,
    homeserver_config: Path | None,
    homeserver_user: str | None,
    as_service: bool,
    as_container: bool,
) -> int:
    """Write config.yaml and registration.yaml.

    Both have mode 0600 and random tokens.

    Asks for what it needs; with --domain it asks nothing but the password of a TURN server. What is wrong is said when
    it is given. --service, --allow, --admin, --advertise and --turn may be given several times. Prints the lines for
    homeserver.yaml to standard output: the list that is there, where it is found, with the new line.

    Where it was cut off between the two files, it makes the registration out of the configuration.

    With --systemd it goes on: the user mxrtc, its folder, the unit, the homeserver's copy of the registration, and a
    start as soon as the homeserver knows the bridge. With --docker it writes a compose file for the bridge alone. Both
    take up a configuration that is there, so they can be given again, and replace nothing.
    """
    installation = Installation(
        output.absolute(), homeserver_kind, homeserver_config, homeserver_user, as_service, as_container
    )
    if not force and installation.can_go_on():
        return installation.go_on()
    paths = installation.config, installation.registration
    _refuse_what_is_there(paths, force)
    chosen = _services(services, inbox, share)
    # Before anything is asked: a mistake later would lose the answers.
    password = _turn_password(turn, turn_username, turn_password_file)
    if domain is not None:
        wishes = InitAnswers(address or DEFAULT_ADDRESS, domain, listen or DEFAULT_LISTEN, peer, chosen, allow)
    elif sys.stdin.isatty():
        wishes = _ask(address, listen, peer, chosen, allow)
    else:
        raise click.UsageError("--domain is needed when there is nobody to ask.")
    wishes = replace(
        wishes,
        admins=admins,
        advertise=advertise,
        turn=turn,
        turn_username=turn_username or "",
        turn_password=password,
    )
    text, config = _checked(wishes, paths[0])
    installation.make_folder(config.homeserver.domain)
    # Who owns the folder runs the bridge there, and must be able to read them.
    with acting_as_owner(installation.folder):
        _write(installation.folder, paths, (text, render_registration(config, random_sender())), force)
    click.echo(f"Wrote {paths[0]}\nand   {paths[1]} (both mode 0600).", err=True)
    return installation.go_on(made_now=True)


def _refuse_what_is_there(paths: Sequence[Path], force: bool) -> None:
    for path in paths:
        if _exists(path) and not force:
            raise click.UsageError(f"{path} exists already; use --force to replace it, or --output for another folder.")


def _checked(wishes: InitAnswers, path: Path) -> tuple[str, Config]:
    """The text of the configuration, and what it says."""
    if wishes.peer is None and (wishes.services or wishes.allow):
        raise click.UsageError("--service, --inbox, --share and --allow belong to a peer: add --peer NAME.")
    if wishes.peer is not None and not wishes.services:
        raise click.UsageError(f"The peer {wishes.peer} needs at least one --service NAME=TARGET.")
    text = new_config(wishes)
    try:
        return text, parse_config(text, path, environ={})
    except ConfigError as error:
        raise click.UsageError(f"These answers make no usable configuration:\n{error}") from None


def _services(texts: tuple[str, ...], inbox: str | None, share: str | None) -> dict[str, str]:
    directories = (("inbox", inbox), ("share", share))
    services: dict[str, str] = {}
    for text in (*texts, *(f"{name}={name}:{path}" for name, path in directories if path is not None)):
        name, equals, target = text.partition("=")
        if not equals:
            raise click.UsageError(f"--service {text[:80]!a} is not NAME=TARGET, like ssh=tcp:127.0.0.1:22.")
        if name in services:
            raise click.UsageError(f"--service {name[:80]!a} is given twice.")
        service_settings(target, f"--service {name[:80]}" if text in texts else f"--{name}")
        services[name] = target
    return services


def _turn_password(turn: tuple[str, ...], username: str | None, file: TextIO | None) -> str:
    """The password of the TURN server, which is no option: the list of processes would show it."""
    if not turn:
        if username or file:
            raise click.UsageError("--turn-username and --turn-password-file belong to a server: add --turn URI.")
        return ""
    if not username:
        raise click.UsageError("--turn needs --turn-username NAME.")
    if file is not None:
        password = file.read(MAX_PASSWORD_CHARS + 1).strip()
    elif sys.stdin.isatty():
        password = click.prompt("Password at the TURN server", hide_input=True, err=True)
    else:
        raise click.UsageError("--turn needs --turn-password-file FILE when there is nobody to ask.")
    if not 0 < len(password) <= MAX_PASSWORD_CHARS or not password.isprintable():
        raise click.UsageError(f"The password at the TURN server is no line of 1 to {MAX_PASSWORD_CHARS} characters.")
    return password


def _ask(
    address: str | None, listen: str | None, peer: str | None, services: dict[str, str], allow: tuple[str, ...]
) -> InitAnswers:
    """Ask for everything that was not given as an option; questions go to standard error."""
    domain = _prompt("Server name of your homeserver (the part after the colon of your user id)", DOMAIN)
    address = address or _prompt("Its client-server API", ADDRESS, DEFAULT_ADDRESS)
    listen = listen or _prompt("Where shall the bridge listen for it", LISTEN, DEFAULT_LISTEN)
    peer = peer or _prompt("Name of the first peer", PEER, "build")
    chosen = dict(services)
    while not chosen:
        name = _prompt("Name of its service", SERVICE, "ssh")
        chosen[name] = click.prompt(
            "Where does it lead (tcp:HOST:PORT, unix:/path, inbox:/directory or share:/directory)",
            default="tcp:127.0.0.1:22" if name == "ssh" else None,
            value_proc=_target_text,
            err=True,
        )
    if not allow:
        user = click.prompt(
            f"Who may use it (@user:{domain}; empty for nobody)",
            default="",
            value_proc=lambda text: text and USER.convert(text, None, None),
            err=True,
        )
        allow = (user,) if user else ()
    return InitAnswers(address, domain, listen, peer, chosen, allow)


def _prompt(question: str, kind: Checked, default: str | None = None) -> str:
    return str(click.prompt(question, default=default, type=kind, err=True))


def _target_text(text: str) -> str:
    service_settings(text, "Target")
    if text.startswith("unix:") and (controls := what_it_controls(text.removeprefix("unix:"))) is not None:
        raise click.BadParameter(f"{text[:80]!a} controls {controls}; whoever may use it is root on this machine.")
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
    write_private_pair(paths, texts, replace=force)
