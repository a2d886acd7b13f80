"""How the program is installed is said in one form everywhere, and can be pasted as it stands."""

from __future__ import annotations

import shlex

import pytest
from packaging.requirements import Requirement

from mxrtc_bridge.core.text.installing import SOURCES, install_command, requirement


def test_what_is_installed_is_a_specifier_with_the_address_of_the_sources() -> None:
    read = Requirement(requirement("bridge", "postgres"))
    assert (read.name, read.extras, read.url) == ("mxrtc-bridge", {"bridge", "postgres"}, SOURCES)
    assert Requirement(requirement()).extras == set()


def test_a_version_that_is_published_is_installed_by_its_name() -> None:
    assert requirement("bridge", sources="") == "mxrtc-bridge[bridge]"
    assert requirement(sources="") == "mxrtc-bridge"


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("/opt/mxrtc/bin/python", ["/opt/mxrtc/bin/python", "-m", "pip", "install"]),
        ("/home/al ice/env/bin/python3", ["/home/al ice/env/bin/python3", "-m", "pip", "install"]),
        ("/home/alice/.local/share/pipx/venvs/mxrtc-bridge/bin/python", ["pipx", "install", "--force"]),
        (
            "/opt/mxrtc/venvs/mxrtc-bridge/bin/python",
            ["PIPX_HOME=/opt/mxrtc", "PIPX_BIN_DIR=/usr/local/bin", "pipx", "install", "--force"],
        ),
        ("/home/alice/.local/share/uv/tools/mxrtc-bridge/bin/python3", ["uv", "tool", "install", "--force"]),
    ],
)
def test_an_extra_is_added_by_whatever_has_made_the_installation(python: str, words: list[str]) -> None:
    assert shlex.split(install_command("bridge", python=python)) == [*words, requirement("bridge")]
