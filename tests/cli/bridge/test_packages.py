"""`mxrtc-bridge` without what the bridge needs says in one sentence what to type."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from mxrtc_bridge.cli.bridge.command_line import ExitCode
from mxrtc_bridge.cli.bridge.entry import NOT_INSTALLED
from mxrtc_bridge.cli.bridge.packages import MODULES, how_to_install, missing_modules
from mxrtc_bridge.core.text.installing import install_command
from tests.clean_environment import modules_of, needed

WITHOUT = Path(__file__).parent.parent.parent / "without.py"


def test_nothing_is_missing_where_the_extra_is_installed() -> None:
    assert missing_modules() == []


def test_every_module_that_the_extra_brings_is_looked_for() -> None:
    """Those of our packages' packages too: an installation may have been cut anywhere."""
    declared = requires("mxrtc-bridge") or []
    client, bridge = needed(declared), needed(declared, ["bridge"])
    brought = modules_of({name: package for name, package in bridge.items() if name not in client})
    # The client has it as well, but on the newest Pythons.
    assert {name.partition(".")[0] for name in MODULES} == brought - {"typing_extensions"}


def test_the_exit_code_is_that_which_no_service_manager_tries_again() -> None:
    assert NOT_INSTALLED == ExitCode.CONFIG


def test_the_sentence_names_the_extra_what_is_missing_and_the_command() -> None:
    sentence = how_to_install(["av", "pydantic"], "/opt/mxrtc/bin/python")
    assert sentence == (
        "mxrtc-bridge needs the extra `bridge` (missing: av, pydantic); install it with: "
        + install_command("bridge", python="/opt/mxrtc/bin/python")
    )


@pytest.mark.programs
@pytest.mark.parametrize("missing", [MODULES, ("pylibsrtp",), ("ruamel",)], ids=["all", "one of many", "a namespace"])
@pytest.mark.parametrize("arguments", [["--version"], ["run", "-c", "nowhere.yaml"]], ids=["version", "run"])
def test_a_bridge_without_the_extra_ends_with_the_sentence(missing: tuple[str, ...], arguments: list[str]) -> None:
    hidden = {name.partition(".")[0] for name in missing}
    command = [sys.executable, WITHOUT, ",".join(sorted(hidden)), "--bridge", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    named = [name for name in MODULES if name.partition(".")[0] in hidden]
    assert (result.returncode, result.stdout) == (78, "")
    assert result.stderr == how_to_install(named, sys.executable) + "\n"
