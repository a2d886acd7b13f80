"""The commands by which people install the program: found in pages and sources, and rewritten where the address is.

The address of the sources stands in :mod:`mxrtc_bridge.core.text.installing` and nowhere else; ``make docs`` writes it
into every page that shows such a command.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

from mxrtc_bridge.core.text.installing import NAME, requirement

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
OURS = re.compile(rf"(?<=['\"]){NAME}(?:\[(?P<extras>[\w,]+)\])?(?: @ [^'\"\s]+)?(?=['\"])")
"""What is installed, in quotes as a shell needs them."""
INSTALLER = re.compile(
    r"\b(?:pip3?|pipx|uv (?:tool|pip))(?: -\S+)* (?:install|inject|upgrade|wheel|download)\b([^\n`#&|;]*)"
)
TAKING_A_VALUE = {"-c", "--constraint", "-w", "--wheel-dir", "--python", "--only-binary", "-d", "--dest"}


def installed(text: str) -> Iterator[str]:
    """Yield what each command of an installer in a text names to be installed."""
    for match in INSTALLER.finditer(text.replace("\\\n", " ")):
        try:
            words = shlex.split(match[1])
        except ValueError:
            words = match[1].split()  # cut out of a longer quotation
        after_option = ""
        for word in words:
            if not word.startswith("-") and after_option not in TAKING_A_VALUE:
                yield word
            after_option = word


def rendered(page: Path) -> str:
    """Return a page with what is installed as it is written today."""
    return OURS.sub(lambda match: requirement(*filter(None, (match["extras"] or "").split(","))), page.read_text())


def pages_with_commands() -> list[Path]:
    """Return the pages that say how the program is installed."""
    return [page for page in PAGES if OURS.search(page.read_text())]
