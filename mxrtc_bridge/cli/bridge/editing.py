"""Commands that change the configuration: what it would say is checked before it is written, with all that it has."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from mxrtc_bridge.cli.bridge.acting import acting_as_owner
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.file_edits import replace_text
from mxrtc_bridge.config.loader import load_config, parse_config
from mxrtc_bridge.config.secrets import read_file
from mxrtc_bridge.core.errors import ConfigError

What = TypeVar("What")


def edit_config(
    path: Path, change: Callable[[Config, str], tuple[str, What]], *, keep_as: Callable[[Config], str] | None = None
) -> tuple[Config, What, Path | None]:
    """Edit the file, with the mode and owner that it has; a text that does not change is not written.

    Args:
        path: of the configuration; of a link, what it leads to is edited.
        change: makes the new text of what the file says and its text, and says something about it.
        keep_as: the name beside it under which the file of before is kept.

    Returns:
        What the file says now, what ``change`` has said, and where the file of before is kept.

    Raises:
        ConfigError: the file cannot be read or written, or has mistakes, before or after.
    """
    with acting_as_owner(path):
        # What is edited is what was checked: the text is read once more, and compared when it is replaced.
        text, before = read_file(path).text, load_config(path)
        after, what = change(before, text)
        if after == text:
            return before, what, None
        try:
            config = parse_config(after, path.absolute(), os.environ)
        except ConfigError as error:
            raise ConfigError(f"nothing was written, because with this change {error}") from None
        real = path.resolve()
    # Who may write into its folder decides what is there.
    with acting_as_owner(real.parent):
        kept = replace_text(real, after, before=text, keep_as=keep_as and keep_as(before))
    return config, what, real.with_name(kept) if kept else None
