"""A container out of a configuration: a compose file for the bridge alone, beside the files that it mounts.

The container runs as the owner of the folder, so that what it writes belongs to whoever may read it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from mxrtc_bridge.cli.bridge.acting import acting_as_owner
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.private_files import write_private
from mxrtc_bridge.config.values import TcpListen
from mxrtc_bridge.config.yaml_writer import scalar
from mxrtc_bridge.core.access.targets import FilesTarget
from mxrtc_bridge.core.errors import ConfigError, LocalError
from mxrtc_bridge.core.text.display import display

IMAGE, USER_ID = "mxrtc-bridge", 10001
"""Of the Dockerfile; whose folder it is where root makes it."""
COMPOSE = "compose.yaml"
_CHECK_S = 30.0


def compose_text(config: Config, owner: int, group: int) -> str:
    """The compose file for a configuration that lies in the same folder.

    Args:
        config: of the bridge.
        owner: user id of the folder.
        group: its group.
    """
    listen = config.appservice.listen
    lines = [
        "# The bridge alone, beside a homeserver that is there; written by `mxrtc-bridge init --docker`.",
        "# It uses the host's network: WebRTC needs many UDP ports under the machine's own addresses.",
        "services:",
        "  bridge:",
        f"    image: {IMAGE}",
        "    container_name: mxrtc",
        f'    user: "{owner}:{group}"',
        "    command: [run]",
        "    network_mode: host",
        "    restart: unless-stopped",
        "    read_only: true",
        "    cap_drop: [ALL]",
        '    security_opt: ["no-new-privileges:true"]',
        '    tmpfs: ["/tmp:mode=1777,size=64m"]',
        "    mem_limit: 1g",
        "    pids_limit: 512",
        "    stop_grace_period: 40s",
        "    volumes:",
        "      - .:/data",
    ]
    # What callers put in and fetch lies outside, under the path that the configuration names.
    for target in config.files_targets():
        assert isinstance(target, FilesTarget)
        path = target.path.replace("$", "$$")
        mount = {"type": "bind", "source": path, "target": path, "read_only": not target.direction.receives}
        lines.append(f"      - {scalar(mount)}")
    if isinstance(listen, TcpListen):
        lines += ["    environment:", f"      MXRTC_LISTEN: {scalar(str(listen))}"]
    return "\n".join(lines) + "\n"


def make_folder(folder: Path) -> None:
    """Make the folder of the container; what root makes belongs to the user of the image.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        # Where somebody else than root has the folder above it, they do, and it is theirs: they could exchange it.
        with acting_as_owner(folder):
            folder.mkdir(mode=0o700, parents=True)
            if os.geteuid() == 0:
                os.chown(folder, USER_ID, USER_ID, follow_symlinks=False)
    except FileExistsError:
        return
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}") from None


def write_compose(config: Config, folder: Path) -> list[str]:
    """Write the compose file, unless there is one; returns what was done. To be called as the owner of the folder.

    Raises:
        ConfigError: it cannot be written, or nobody could run the container.
    """
    status = folder.stat()
    if status.st_uid == 0:
        raise ConfigError(
            f"{folder} belongs to root, as whom the container does not run; run: chown -R {USER_ID} {folder}"
        )
    path, text = folder / COMPOSE, compose_text(config, status.st_uid, status.st_gid)
    if not path.exists():
        write_private(path, text, replace=False)
        said = [f"Wrote {path}, for a container that runs as user {status.st_uid}, to whom {folder} belongs."]
    elif path.read_text("utf-8", "replace") == text:
        said = [f"{path} is there already."]
    else:
        said = [
            f"{path} is another one than would be written now, and was left as it is; remove it to have the new one."
        ]
    return said


def check_compose(folder: Path) -> None:
    """Ask Docker about the compose file, where it is there to be asked.

    Raises:
        LocalError: it does not take it.
    """
    if (problem := _problem_with(folder / COMPOSE)) is not None:
        raise LocalError(f"docker compose does not take {folder / COMPOSE}: {problem}")


def _problem_with(path: Path) -> str | None:
    docker = shutil.which("docker")
    if docker is None:
        return None
    asked = [docker, "compose", "version"], [docker, "compose", "--file", str(path), "config", "--quiet"]
    for command in asked:
        try:
            done = subprocess.run(command, capture_output=True, timeout=_CHECK_S, check=False)  # noqa: S603
        except (OSError, subprocess.TimeoutExpired):
            return None
        if done.returncode:
            said = display(" ".join(done.stderr.decode("utf-8", "replace").split()), 500)
            return None if command is asked[0] else said
    return None
