"""Names of files, which are bytes on a disk and text everywhere else: UTF-8, whatever the locale of the process is.

Python takes and gives names in the encoding of the locale, and a process that has begun cannot change that. In one that
is not UTF-8 it would give the other side other names than the files have, and could not make most of those that come.
"""

from __future__ import annotations

import os


def on_disk(name: str) -> bytes:
    """Return a name as the system takes it.

    Raises:
        UnicodeEncodeError: there is half a surrogate pair in it, which no name has.
    """
    return name.encode("utf-8", "surrogateescape")


def from_disk(name: str) -> str:
    """Return a name that Python has read from the system; bytes that are no text become surrogates (PEP 383)."""
    return os.fsencode(name).decode("utf-8", "surrogateescape")


def typed(text: str) -> str:
    """Return what was typed as an argument: UTF-8 if it is, else as the locale reads it."""
    try:
        return os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return text
