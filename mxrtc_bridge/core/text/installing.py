"""How the program is installed: the one place that says from where, for what it prints and for the pages.

``make docs`` writes it into every page that shows such a command, and a test compares them.
"""

from __future__ import annotations

import shlex

SOURCES = "https://forge.example.org/mxrtc-bridge/archive/main.tar.gz"
"""The archive of the sources, which people install from while nothing is published under the program's name.

A name that is not ours may be anybody's, so nobody is told to install by it. Empty: it is published, and the name will
do. The host is reserved for examples (RFC 2606, section 3): whoever publishes the sources writes theirs here.
"""

HOME = "https://forge.example.org/mxrtc-bridge"
"""Where to read about the program; servers that people log in at want such an address. To be replaced as above."""

NAME = "mxrtc-bridge"


def requirement(*extras: str, sources: str = SOURCES) -> str:
    """Return what pip, pipx and uv are told to install, as a dependency specifier (PEP 508)."""
    wanted = f"{NAME}[{','.join(extras)}]" if extras else NAME
    return f"{wanted} @ {sources}" if sources else wanted


def install_command(*extras: str, python: str) -> str:
    """Return the command that adds extras to an installation, to be pasted into a shell.

    Args:
        extras: names of optional dependencies in ``pyproject.toml``.
        python: the interpreter of the installation; pipx and uv keep theirs in folders of a known name, and lose
            what pip has installed there with their next upgrade.
    """
    wanted = shlex.quote(requirement(*extras))
    if "/pipx/venvs/" in python:
        return f"pipx install --force {wanted}"
    if "/venvs/" in python:
        # As the pages have it for a bridge: in a folder that its service can see.
        home = shlex.quote(python.partition("/venvs/")[0])
        return f"PIPX_HOME={home} PIPX_BIN_DIR=/usr/local/bin pipx install --force {wanted}"
    if "/uv/tools/" in python:
        return f"uv tool install --force {wanted}"
    return f"{shlex.quote(python)} -m pip install {wanted}"
