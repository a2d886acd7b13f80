"""``mxrtc up --install``: a unit of the user's systemd, which runs it at each login."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from mxrtc_bridge.client.accounts import FIRST
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.up.connections_file import account_name, config_home, read_connections
from mxrtc_bridge.system import WINDOWS

UNIT = """\
# Written by mxrtc up --install.
[Unit]
Description=Connections of mxrtc ({account})

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=5
# 2: the file or the login is wrong; trying again would not help.
RestartPreventExitStatus=2
# How mxrtc ends when it is told to.
SuccessExitStatus=130
UMask=0077

[Install]
WantedBy=default.target
"""


def install(context: Context, path: Path) -> None:
    """Write the unit, and say what to type.

    Raises:
        ClientError: the file cannot be used, or the unit cannot be written; or there is no systemd here.
    """
    if WINDOWS:
        raise ClientError(Exit.USAGE, "--install is for systemd, which Windows does not have")
    read_connections(path, context.state.load_login())
    account = account_name(context)
    name = "mxrtc-up" if account == FIRST else f"mxrtc-up-{account}"
    unit = config_home() / "systemd" / "user" / f"{name}.service"
    program = Path(sys.argv[0]).absolute()
    root = context.accounts.folder(FIRST).path.absolute()
    argv = [str(program), "--state", str(root), "--account", account, "up", str(path.absolute())]
    text = UNIT.format(account=account, command=" ".join(map(unit_quoted, argv)))
    try:
        unit.parent.mkdir(parents=True, exist_ok=True)
        unit.write_text(text)
    except OSError as error:
        raise ClientError(Exit.LOCAL, f"{unit} cannot be written: {error.strerror}") from error
    lines = ["systemctl --user daemon-reload", f"systemctl --user enable --now {shlex.quote(name)}"]
    words = "\n".join([f"{unit} is written; to start it now and at each login:", *lines])
    context.report.say("unit", words, file=str(unit), lines=lines)


def unit_quoted(word: str) -> str:
    """Write a word as systemd reads it back (systemd.service(5), "Command lines"): no variables, no specifiers."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"'
