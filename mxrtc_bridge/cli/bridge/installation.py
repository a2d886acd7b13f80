"""From a configuration and a registration to a bridge that runs: what ``init`` does once both are there."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import uvloop

from mxrtc_bridge.cli.bridge import docker_setup, systemd_setup
from mxrtc_bridge.cli.bridge.acting import acting_as_owner
from mxrtc_bridge.cli.bridge.command_line import OF_THE_SERVICE, ExitCode, usual_config
from mxrtc_bridge.cli.bridge.homeserver_setup import Found, find_homeserver, give_copy, lines_for, what_to_do
from mxrtc_bridge.cli.bridge.running_bridge import ask_bridge
from mxrtc_bridge.cli.bridge.systemd_setup import this_program
from mxrtc_bridge.cli.loading import loading
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.file_edits import changing
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.config.private_files import write_private_file
from mxrtc_bridge.config.registration import other_values, random_sender, render_registration
from mxrtc_bridge.config.secrets import read_file
from mxrtc_bridge.core.errors import ConfigError, LocalError

CHECK = "mxrtc-bridge check"
_HTTP_ERROR = 400


@dataclass(slots=True)
class Installation:
    """Where a bridge is set up, and how far.

    Raises:
        ConfigError: the homeserver's configuration cannot be used.
        click.UsageError: it cannot be set up so.
    """

    folder: Path
    homeserver_kind: str | None = None
    homeserver_config: Path | None = None
    homeserver_user: str | None = None
    as_service: bool = False
    """Of systemd."""
    as_container: bool = False
    _homeserver: Found = field(init=False)

    def __post_init__(self) -> None:
        if self.as_service and self.as_container:
            raise click.UsageError("It is either --systemd or --docker.")
        if self.as_service:
            if os.geteuid() != 0:
                raise click.UsageError("--systemd needs root, as it makes a user and a service.")
            if self.folder not in (OF_THE_SERVICE.parent, Path.cwd()):
                raise click.UsageError(f"--systemd has its files in {OF_THE_SERVICE.parent}; leave out --output.")
            # Before anything is asked: it would all be in vain.
            systemd_setup.unit_text(this_program())
            self.folder = OF_THE_SERVICE.parent
        self._homeserver = find_homeserver(self.homeserver_kind, self.homeserver_config)

    @property
    def config(self) -> Path:
        """The configuration."""
        return self.folder / "config.yaml"

    @property
    def registration(self) -> Path:
        """The registration."""
        return self.folder / "registration.yaml"

    def can_go_on(self) -> bool:
        """Whether there is a configuration that a service is to be made of, or one without its registration.

        Raises:
            ConfigError: it cannot be looked for.
        """
        try:
            # One alone is what a command leaves that was cut off.
            return self.config.exists() and (
                self.as_service or self.as_container or not os.path.lexists(self.registration)
            )
        except OSError as error:  # a folder above it that is closed to us, or a name that is too long
            raise ConfigError(f"{self.config} cannot be written: {error.strerror}") from None

    def make_folder(self, domain: str) -> None:
        """Make the folder of a service, where it is to belong to somebody else than us.

        Args:
            domain: the server name of the homeserver.
        """
        found = self._homeserver
        if found.content is not None and found.content.server_name not in (None, domain):
            raise click.UsageError(
                f"{found.file} is of the server {found.content.server_name[:255]!a}, and not of {domain}."
            )
        if self.as_service:
            _say(systemd_setup.make_user_and_folder(this_program(), self.folder))
        if self.as_container:
            docker_setup.make_folder(self.folder)

    def go_on(self, *, made_now: bool = False) -> int:
        """Tell the homeserver's part, and go on to a service, if one is wanted.

        Args:
            made_now: whether this command has written the configuration, and so its admin what it says.

        Returns:
            The exit code.
        """
        if self.as_service:
            unit = systemd_setup.unit_text(this_program())
            _say(systemd_setup.make_user_and_folder(this_program(), self.folder))
        with acting_as_owner(self.config):
            config = load_config(self.config)
            text = self._registration_of(config)
            if self.as_container:
                _say(docker_setup.write_compose(config, self.folder))
        if self.as_container:
            docker_setup.check_compose(self.folder)
        todo = self._tell_homeserver(config, text)
        if self.as_service:
            _say(systemd_setup.install_unit(unit))
            inboxes = [Path(each.path) for each in config.files_targets() if each.direction.receives]
            _say(systemd_setup.open_directories(inboxes, made_now=made_now))
            return self._start(config, todo)
        option = "" if usual_config().absolute() == config.path else f" -c {shlex.quote(str(config.path))}"
        commands = [f"{CHECK}{option}", f"mxrtc-bridge run{option}"]
        if self.as_container:
            commands = [
                f"docker compose --project-directory {shlex.quote(str(self.folder))} up --detach",
                "docker exec mxrtc mxrtc-bridge check -c /data/config.yaml",
            ]
        click.echo(_steps(config, todo, commands), err=True)
        return ExitCode.DONE

    def _registration_of(self, config: Config) -> str:
        """The registration that is there, or made out of the configuration where there is none.

        Raises:
            ConfigError: it is that of another configuration.
        """
        if not os.path.lexists(self.registration):
            text = render_registration(config, random_sender())
            with changing(self.folder, self.config.name, self.registration.name) as folder:
                write_private_file(folder, self.registration.name, text.encode(), str(self.registration), replace=False)
            _say([f"{self.config} is there already and was left as it is; made {self.registration} out of it."])
            return text
        text = read_file(self.registration).text
        if others := other_values(text, config):
            raise ConfigError(
                f"{self.registration} is not that of {self.config}: it has another {' and another '.join(others)}; "
                f"to have the right one: {shlex.join(self._make_anew)}"
            )
        return text

    @property
    def _make_anew(self) -> tuple[str, ...]:
        files = ("-c", str(self.config), "--output", str(self.registration))
        return ("mxrtc-bridge", "registration", *files, "--force")

    def _tell_homeserver(self, config: Config, text: str) -> list[str]:
        """Give the homeserver its copy, and show what belongs into its configuration; returns what is left to do."""
        found, as_difference = self._homeserver, self.homeserver_config is not None
        said = None
        if os.geteuid() == 0 and (self.as_service or as_difference):
            said = give_copy(found, text, self.homeserver_user)
        if said is not None:
            _say([said])
        click.echo(lines_for(found, self.registration, as_difference=as_difference), nl=False)
        return what_to_do(found, config, self.registration, copied=said is not None)

    def _start(self, config: Config, todo: Sequence[str]) -> int:
        if not systemd_setup.is_running():
            commands = ["systemctl daemon-reload", "systemctl enable --now mxrtc-bridge", CHECK]
            click.echo(_steps(config, todo, commands, "systemd does not run here, so nothing was started."), err=True)
            return ExitCode.DONE
        systemd_setup.enable()
        if not self._is_registered():
            why = "The service starts with the machine; not yet, as the homeserver does not know the bridge."
            click.echo(_steps(config, todo, ["systemctl start mxrtc-bridge", CHECK], why), err=True)
            return ExitCode.DONE
        systemd_setup.start()
        status, answer = ask_bridge(self.config, None, ("who",))
        if status >= _HTTP_ERROR:
            raise LocalError(f"the service runs, and the bridge is not ready: {answer.get('error', 'it says nothing')}")
        click.echo(f"The bridge is ready.\n\nNext:\n  {CHECK}\n{_as_user(config)}", err=True)
        return ExitCode.DONE

    def _is_registered(self) -> bool:
        """Whether the homeserver knows the bridge by now; not, where it does not answer."""
        with acting_as_owner(self.config):
            config = load_config(self.config)
        with loading():
            from mxrtc_bridge.bridge.check import is_registered  # noqa: PLC0415

        return uvloop.run(is_registered(config))


def _say(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line, err=True)


def _steps(config: Config, homeserver: Sequence[str], commands: Sequence[str], why: str = "") -> str:
    lines = ["", *([why, ""] if why else [])]
    lines.append(f"The homeserver, which will call the bridge at {config.appservice.url}:")
    lines += [f"  {line}" for line in homeserver]
    lines += ["", "Then:", *(f"  {command}" for command in commands), _as_user(config)]
    return "\n".join(lines)


def _as_user(config: Config) -> str:
    if not any(config.services()):
        return "  mxrtc-bridge add PEER/SERVICE TARGET --allow @USER:SERVER"
    return f"  mxrtc login @YOU:{config.homeserver.domain}, and then mxrtc ls    (as a user with a right)"
