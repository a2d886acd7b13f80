"""Telling the homeserver of the bridge: its copy of the registration, and the lines for its configuration.

The registration holds the tokens, so the copy is for the homeserver's user alone. The homeserver's configuration is
read and never written: what belongs there is shown.
"""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import shlex
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.homeserver_file import MAX_BYTES, SYNAPSE, HomeserverFile, list_of, read_homeserver_file
from mxrtc_bridge.config.private_files import Ownership, closing, write_private_file
from mxrtc_bridge.config.secrets import read_file
from mxrtc_bridge.config.values import TcpListen
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.login.server import is_loopback

COPY = "mxrtc.yaml"
"""Name of the homeserver's copy of the registration, beside its configuration."""


@dataclass(frozen=True, slots=True)
class HomeserverKind:
    """A way in which a homeserver is installed."""

    what: str
    restart: str
    """The command, or what to do."""
    file: Path | None = None
    """Its configuration, where that has a place of its own."""
    user: str | None = None
    container: bool = False
    """Whether it sees its folder as ``/data`` and this machine by its network only."""


KINDS = {
    "synapse": HomeserverKind(
        "Synapse",
        "systemctl restart matrix-synapse",
        Path("/etc/matrix-synapse/homeserver.yaml"),
        "matrix-synapse",
    ),
    "synapse-docker": HomeserverKind("Synapse in a container", "docker restart synapse", container=True),
    "playbook": HomeserverKind(
        "Synapse by matrix-docker-ansible-deploy",
        "ansible-playbook -i inventory/hosts setup.yml --tags=setup-all,start",
        Path("/matrix/synapse/config/homeserver.yaml"),
        "matrix",
        container=True,
    ),
    "dendrite": HomeserverKind("Dendrite", "systemctl restart dendrite", user="dendrite"),
    "conduit": HomeserverKind("Conduit, Continuwuity or Tuwunel", ""),
}


@dataclass(frozen=True, slots=True)
class Found:
    """A homeserver: how it is installed, and its configuration as far as that is here."""

    name: str
    file: Path | None = None
    content: HomeserverFile | None = None

    @property
    def kind(self) -> HomeserverKind:
        """Of the installation."""
        return KINDS[self.name]

    @property
    def copy(self) -> Path | None:
        """Where its copy of the registration belongs, on this machine."""
        return None if self.file is None else self.file.parent / COPY

    def seen(self, registration: Path) -> str:
        """How it names its copy, or where that is not known, the registration."""
        if self.kind.container:
            return f"/data/{COPY}"
        return str(self.copy or registration)


def find_homeserver(name: str | None, file: Path | None, kinds: dict[str, HomeserverKind] = KINDS) -> Found:
    """Find the homeserver of this machine.

    Args:
        name: how it is installed, by its key in ``kinds``; None if nobody has said so.
        file: its configuration; None to look where packages have it.
        kinds: what can be found.

    Raises:
        ConfigError: the file cannot be read, or is none.
    """
    if file is None:
        names = list(kinds) if name is None else [name]
        found = [(each, path) for each in names if (path := kinds[each].file) is not None and path.is_file()]
        if not found:
            return Found(name or "synapse")
        name, file = found[0]
    file = file.absolute()
    content = _read(file)
    if name is None:
        by_place = [each for each, kind in kinds.items() if kind.file == file]
        by_content = "synapse" if content.key == SYNAPSE else "dendrite"
        name = by_place[0] if by_place else "synapse-docker" if content.in_image else by_content
    if name == "synapse":
        # Of several files with the list the last one counts, as Debian's package has them in conf.d.
        for other in sorted((file.parent / "conf.d").glob("*.yaml")):
            if (further := _read(other)).registrations:
                return Found(name, file, further)
    return Found(name, file, content)


def lines_for(found: Found, registration: Path, *, as_difference: bool) -> str:
    """What belongs into the configuration of the homeserver; empty where it is there already, or is no file.

    Args:
        found: the homeserver.
        registration: that of the bridge.
        as_difference: show the change of the file, in place of the list as it is to be.
    """
    seen, content = found.seen(registration), found.content
    if found.name == "playbook":
        return f"matrix_synapse_app_service_config_files:\n  - {seen}\n"
    if found.name == "conduit" or (content is not None and seen in content.registrations):
        return ""
    if content is None:
        key = ("app_service_api", "config_files") if found.name == "dendrite" else SYNAPSE
        return f"{list_of((seen,), key)}\n"
    if as_difference:
        return content.difference(seen, str(found.file))
    return f"{list_of((*content.registrations, seen), content.key)}\n"


def what_to_do(found: Found, config: Config, registration: Path, *, copied: bool) -> list[str]:
    """Say what to do with those lines, one sentence or command a line."""
    kind, content = found.kind, found.content
    if found.name == "conduit":
        return [
            "Send to the admin room of the homeserver: !admin appservices register",
            f"and below it, in a code block between two lines of ```, the text of {registration}.",
            "It is in force at once; delete the message then, as it holds the tokens. (Not tried by us yet.)",
        ]
    said = []
    if not copied:
        owner = found.kind.user or ("991" if kind.container else "USER")
        goal = found.copy or Path(f"/path/of/{'the volume of /data' if kind.container else 'the homeserver'}") / COPY
        if content is None and not kind.container and found.name == "synapse":
            goal = Path("/etc/matrix-synapse") / COPY
        said += [
            "Let the homeserver read the registration; it holds the tokens, so nobody else may:",
            f"    install -o {owner} -m 0600 {_shown(registration)} {_shown(goal)}",
        ]
        if content is None:
            said.append("and name it by that path in the lines above.")
    where = "vars.yml" if found.name == "playbook" else found.file or "its configuration"
    if content is not None and found.seen(registration) in content.registrations:
        said.append(f"{found.file} names the registration already.")
    else:
        said.append(f"Add the lines above to {where}. Where the key is there already, add the last line to its list:")
        said.append("of two keys of the same name only one counts.")
    if kind.container and isinstance(listen := config.appservice.listen, TcpListen) and is_loopback(listen.host):
        said.append(
            f"In its container {listen.host} is the container itself: unless it has the network of this machine,"
        )
        said.append("listen on an address that it reaches, like 172.17.0.1 (appservice.listen in the configuration).")
    said.append(f"Restart it: {kind.restart}")
    return said


def _shown(path: Path) -> str:
    return shlex.quote(str(path))


def give_copy(found: Found, text: str, user: str | None = None) -> str | None:
    """Put the registration where the homeserver reads it, readable for its user and nobody else. To be called as root.

    Args:
        found: the homeserver.
        text: the registration.
        user: whom the homeserver runs as, by name; None to find out.

    Returns:
        What was done, in a sentence; None where that cannot be known.

    Raises:
        ConfigError: there is another file of that name, or it cannot be written.
    """
    if found.copy is None or found.file is None:
        return None
    reader = _reader(user or found.kind.user, found.file)
    if reader is None:
        return None
    owner, group, mode, who = reader
    try:
        with closing(os.open(found.copy.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as above:
            # Theirs before it has its name: nobody else reads it at any moment.
            ownership = Ownership(owner, group, mode)
            write_private_file(above, COPY, text.encode(), str(found.copy), replace=False, ownership=ownership)
    except FileExistsError:
        if read_file(found.copy).text == text:
            return f"{found.copy} is there already, with the same content."
        raise ConfigError(
            f"{found.copy} is another registration and was left as it is; if it is an old one of this bridge, "
            "remove it and run this again"
        ) from None
    except OSError as error:
        raise ConfigError(f"{found.copy} cannot be written: {error.strerror}") from None
    return f"Wrote {found.copy}, which {who} can read and nobody else (mode {mode:04o})."


def _reader(user: str | None, file: Path) -> tuple[int, int, int, str] | None:
    """Owner, group and mode of a file for the homeserver's user, and who that is."""
    owner = file.stat().st_uid
    try:
        entry = pwd.getpwnam(user) if user is not None else pwd.getpwuid(owner)
    except KeyError:
        if owner == 0:
            return None
        return owner, file.stat().st_gid, 0o600, f"user {owner}"
    if entry.pw_uid == 0:
        return None
    with contextlib.suppress(KeyError):
        # Some packages give their user a group that others are in as well, like nogroup.
        if grp.getgrgid(entry.pw_gid).gr_name == entry.pw_name:
            return 0, entry.pw_gid, 0o640, f"the group {entry.pw_name}"
    return entry.pw_uid, 0, 0o600, f"the user {entry.pw_name}"


def _read(file: Path) -> HomeserverFile:
    return read_homeserver_file(read_file(file, MAX_BYTES).text, str(file))
