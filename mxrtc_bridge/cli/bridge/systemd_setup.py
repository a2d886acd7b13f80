"""A service of systemd out of a configuration: its user, its folder, its unit, and a start that is waited for.

Each step leaves alone what is there, so all of it can be run again, after it was cut off as well as after an upgrade.
What is there and is another one than this version brings is named. To be called as root.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path

import click

from mxrtc_bridge.cli.bridge.command_line import OF_THE_SERVICE
from mxrtc_bridge.config.private_files import Ownership, closing, write_private_file
from mxrtc_bridge.core.errors import ConfigError, LocalError
from mxrtc_bridge.core.text.display import display

USER, SERVICE = "mxrtc", "mxrtc-bridge"
UNIT = Path("/etc/systemd/system/mxrtc-bridge.service")
DIRECTORIES = UNIT.with_name(f"{UNIT.name}.d") / "directories.conf"
"""What lets the service write outside of its own folder."""
SYSUSERS = Path("/etc/sysusers.d/mxrtc-bridge.conf")
USUAL_PROGRAM = "/opt/mxrtc/bin/mxrtc-bridge"
"""In the unit as it is packaged."""
HIDDEN = tuple(map(Path, ("/home", "/root", "/run/user", "/tmp", "/var/tmp")))  # noqa: S108 - what a unit cannot see
"""What the unit cannot see (``ProtectHome=``, ``PrivateTmp=``)."""
START_S = 180.0
"""How long a start may take: the manager is told after 45 seconds at the latest."""
_CLOSED = "The service may not write to these unless its unit says so by ReadWritePaths=:"
_PLAIN = re.compile(r"[A-Za-z0-9/._+-]+")


def packaged(name: str) -> str:
    """The text of a file that comes with the program."""
    return resources.files("mxrtc_bridge.cli.bridge").joinpath("files_of_systemd", name).read_text("utf-8")


def unit_text(program: Path) -> str:
    """The unit for a program that lies somewhere.

    Raises:
        click.UsageError: a service could not run it from there.
    """
    for each in (program, Path(sys.prefix)):
        if any(each.is_relative_to(hidden) for hidden in HIDDEN):
            raise click.UsageError(
                f"The service would not see {each}: it sees nothing below {', '.join(map(str, HIDDEN))}. "
                "Install the bridge into a folder of its own, like /opt/mxrtc, and run init from there."
            )
    if not _PLAIN.fullmatch(str(program)):
        raise click.UsageError(f"The path {display(str(program))} cannot stand in a unit; install it into /opt/mxrtc.")
    return packaged(UNIT.name).replace(USUAL_PROGRAM, str(program))


def this_program() -> Path:
    """The program that runs now, by the path by which it was started."""
    name = sys.argv[0]
    return Path(shutil.which(name) or name).absolute()


def make_user_and_folder(program: Path, folder: Path = OF_THE_SERVICE.parent) -> list[str]:
    """Make the user of the service, and the folder that belongs to it; returns what was done.

    Raises:
        LocalError: it did not work.
    """
    said = [_place(SYSUSERS, packaged("mxrtc-bridge.sysusers.conf"))]
    try:
        pwd.getpwnam(USER)
    except KeyError:
        _run("systemd-sysusers", str(SYSUSERS))
        said.append(f"Made the user {USER}, as whom nobody can log in.")
    entry = pwd.getpwnam(USER)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        status = folder.lstat()
        is_folder = stat.S_ISDIR(status.st_mode)
        # One of root's that is empty is where this was cut off.
        if not is_folder or not (status.st_uid == entry.pw_uid or (status.st_uid == 0 and not any(folder.iterdir()))):
            raise LocalError(
                f"{folder} does not belong to {USER}; if it is of this bridge: chown -R {USER}: {folder}"
            ) from None
    if folder.lstat().st_uid != entry.pw_uid:
        os.chown(folder, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
        said.append(f"Made {folder}, which belongs to {USER}.")
    try:
        done = subprocess.run(  # noqa: S603 - this program
            [program, "--version"],
            user=entry.pw_uid,
            group=entry.pw_gid,
            extra_groups=[],
            cwd="/",
            env={"PATH": os.defpath},
            capture_output=True,
            timeout=START_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LocalError(f"{program} cannot be run by the user {USER}: {error}") from None
    if done.returncode:
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise LocalError(
            f"{program} cannot be run by the user {USER}: {display(''.join(last))}; "
            f"install it where {USER} can read it, like /opt/mxrtc"
        )
    return said


def install_unit(text: str, unit: Path = UNIT) -> list[str]:
    """Install the unit; returns what was done."""
    return [_place(unit, text)]


def open_directories(
    paths: Sequence[Path], *, made_now: bool, drop_in: Path = DIRECTORIES, hidden: Sequence[Path] = HIDDEN
) -> list[str]:
    """Let the service write to directories outside of its folder, made for its user where they are missing.

    Only those that the admin has named just now: what an earlier configuration says is that of the service's user, who
    must not have root open directories by it.

    Args:
        paths: of the directories.
        made_now: whether this command has written the configuration that names them.
        drop_in: the part of the unit that is written.
        hidden: what the unit cannot see.

    Returns:
        What was done, and what the admin has to do.
    """
    outside = [path for path in paths if not path.is_relative_to(OF_THE_SERVICE.parent)]
    said = [
        f"The service cannot see {path}; move it out of {top}." for path in outside for top in _hiding(path, hidden)
    ]
    outside = [path for path in outside if not any(_hiding(path, hidden))]
    if not made_now:
        names = ", ".join(map(str, outside))
        return said if drop_in.exists() or not outside else [*said, f"{_CLOSED} {names}: systemctl edit {SERVICE}"]
    entry = pwd.getpwnam(USER)
    for path in outside:
        try:
            path.mkdir(mode=0o700)
        except FileExistsError:
            if path.stat().st_uid != entry.pw_uid:
                said.append(f"{path} does not belong to {USER}: it must be allowed to write there.")
        except OSError as error:
            said.append(f"{path} cannot be made: {error.strerror}; make it for the user {USER}.")
        else:
            os.chown(path, entry.pw_uid, entry.pw_gid, follow_symlinks=False)
            said.append(f"Made {path}, which belongs to {USER}.")
    return [*said, _place(drop_in, directories_text(outside))] if outside else said


def directories_text(paths: Sequence[Path]) -> str:
    """The part of a unit that lets it write to directories, as far as they are there when it starts."""
    # A per cent sign begins a specifier, and a backslash hides what follows.
    written = (str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") for path in paths)
    return "[Service]\n" + "".join(f'ReadWritePaths="-{path}"\n' for path in written)


def _hiding(path: Path, hidden: Sequence[Path]) -> Iterator[Path]:
    return (each for each in hidden if path.is_relative_to(each))


def is_running() -> bool:
    """Whether systemd manages this machine (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def enable() -> None:
    """Have the service started at each start of the machine.

    Raises:
        LocalError: it did not work.
    """
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", SERVICE)


def start() -> None:
    """Start the service, and return when the bridge has said that it is ready, or waits for its homeserver.

    Raises:
        LocalError: it has failed.
    """
    _run("systemctl", "start", SERVICE)


def _place(path: Path, text: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)) as above:
            ownership = Ownership(mode=0o644)
            write_private_file(above, path.name, text.encode(), str(path), replace=False, ownership=ownership)
    except FileExistsError:
        try:
            same = path.read_text("utf-8", "replace") == text
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
        if same:
            return f"{path} is there already."
        return f"{path} is not what this version brings, and was left as it is; remove it to have the new one."
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    return f"Wrote {path}."


def _run(*command: str) -> None:
    try:
        done = subprocess.run(list(command), capture_output=True, timeout=START_S, check=False)  # noqa: S603
    except FileNotFoundError:
        raise LocalError(f"there is no {command[0]} on this machine, so it is none of systemd") from None
    except subprocess.TimeoutExpired:
        raise LocalError(f"{' '.join(command)} has not ended within {START_S:g} s") from None
    if done.returncode:
        said = display(" ".join(done.stderr.decode("utf-8", "replace").split()), 500)
        raise LocalError(f"{' '.join(command)} failed: {said}")
