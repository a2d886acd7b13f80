"""The one place that imports the Olm library, so that a machine without it can still run everything else.

vodozemac's Python binding has wheels for Linux on x86-64 and aarch64, with glibc and with musl. Elsewhere
:func:`available` is False, and the program says that encryption is off. All its errors are ``ValueError``.
"""

from __future__ import annotations

try:
    import vodozemac
except ImportError:  # pragma: no cover - depends on the machine
    vodozemac = None  # type: ignore[assignment]

__all__ = ["available", "vodozemac"]


def available() -> bool:
    """Whether the Olm library is installed."""
    return vodozemac is not None
