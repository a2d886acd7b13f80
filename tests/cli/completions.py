"""Makes the files of ``completions/``, by which shells complete the programs without being told to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mxrtc_bridge.cli.completion import SHELLS, script
from tests.cli.command_pages import PROGRAMS

COMPLETIONS = Path(__file__).parents[2] / "completions"
_NAMES = {"bash": "{}", "zsh": "_{}", "fish": "{}.fish"}
PLACES = {
    "bash": "share/bash-completion/completions",
    "zsh": "share/zsh/site-functions",
    "fish": "share/fish/vendor_completions.d",
}
"""Where shells look below the prefix of a package."""


def file_of(program: str, shell: str) -> Path:
    """Return where the script of a program for a shell is."""
    return COMPLETIONS / shell / _NAMES[shell].format(program)


FILES: dict[Path, Callable[[], str]] = {
    file_of(program, shell): partial(script, program, group, shell)
    for program, group in PROGRAMS.items()
    for shell in SHELLS
}
