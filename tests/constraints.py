"""The versions that are tested: ``constraints.txt``, which CI, ``make`` and the image install.

``make constraints`` writes into it what is installed, after everything was upgraded to the newest that is allowed.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.utils import canonicalize_name

from mxrtc_bridge.demo.synapse import find_synapse_python
from tests.clean_environment import needed

ROOT = Path(__file__).parent.parent
FILE = ROOT / "constraints.txt"
HEAD = """\
# The versions that the tests have run with, of everything that this program, its tests and their homeserver need on
# Linux. `make constraints` writes it. Whoever installs the program for use is not bound to them.
"""
EXTRAS = tuple(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
ELSEWHERE = {"demo", "fuzz"}
"""Extras that the environment of the tests has not: the homeserver is in its own, and `make fuzz` adds its library."""


def of_the_tests() -> dict[str, str]:
    """Return name and version of each package that ours needs, with all extras but those from elsewhere."""
    found = needed(requires("mxrtc-bridge") or [], set(EXTRAS) - ELSEWHERE)
    return {name: package.version for name, package in found.items()}


def of_the_homeserver() -> dict[str, str]:
    """Return what is installed beside Synapse, but for what every environment has."""
    listed = subprocess.run(
        [find_synapse_python(), "-m", "pip", "list", "--format=json", "--disable-pip-version-check"],
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    packages = {canonicalize_name(each["name"]): each["version"] for each in json.loads(listed)}
    return {name: version for name, version in packages.items() if name not in {"pip", "setuptools", "wheel"}}


def written() -> dict[str, str]:
    """Return what the file says."""
    lines = [line for line in FILE.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def merged(tests: dict[str, str], homeserver: dict[str, str]) -> dict[str, str]:
    """Return all versions of two environments.

    Raises:
        SystemExit: they have different versions of one package, which has to be limited for the newer side.
    """
    both = tests.keys() & homeserver.keys()
    differ = [
        f"{name}: {tests[name]} for the tests, {homeserver[name]} for the homeserver"
        for name in sorted(both)
        if tests[name] != homeserver[name]
    ]
    if differ:
        raise SystemExit("\n".join(["one version has to do for both:", *differ]))
    return tests | homeserver


def main() -> None:
    """Write the file."""
    versions = merged(of_the_tests(), of_the_homeserver())
    FILE.write_text(HEAD + "".join(f"{name}=={version}\n" for name, version in sorted(versions.items())))


if __name__ == "__main__":
    main()
