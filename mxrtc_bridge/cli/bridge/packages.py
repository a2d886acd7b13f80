"""What the bridge needs beyond the client: the extra ``bridge``, without which ``mxrtc-bridge`` says so and ends."""

from __future__ import annotations

import importlib.util

from mxrtc_bridge.core.text.installing import install_command

MODULES = (
    "aiortc", "annotated_types", "av", "prometheus_client", "pydantic", "pydantic_core", "pyee", "pylibsrtp",
    "ruamel.yaml", "typing_inspection",
)  # fmt: skip
"""All that comes with the extra and not without it, so that half an installation is seen as well; tests compare it."""


def missing_modules() -> list[str]:
    """Return which of them are not there; nothing is loaded."""
    return [name for name in MODULES if not _is_there(name)]


def how_to_install(missing: list[str], python: str) -> str:
    """Return the sentence for whoever has the client alone."""
    command = install_command("bridge", python=python)
    return f"mxrtc-bridge needs the extra `bridge` (missing: {', '.join(missing)}); install it with: {command}"


def _is_there(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False  # nor is the package that it is a part of
