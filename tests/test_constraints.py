"""The versions that are written down are those that the tests run with, and no package is left out."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from mxrtc_bridge.demo.synapse import find_synapse_python
from tests import constraints
from tests.constraints import ROOT, of_the_homeserver, of_the_tests, written

MAKEFILE = (ROOT / "Makefile").read_text()


def test_every_package_of_ours_and_of_the_tests_is_there_in_the_version_that_is_installed() -> None:
    """Whoever runs this with others runs what nobody else has: `make constraints` writes down what is installed."""
    versions = written()
    other = {name: (version, versions.get(name)) for name, version in of_the_tests().items()}
    assert {name: pair for name, pair in other.items() if pair[0] != pair[1]} == {}


@pytest.mark.programs
def test_every_package_of_the_homeserver_is_there_and_nothing_that_neither_has() -> None:
    homeserver = of_the_homeserver()
    versions = written()
    if Path(find_synapse_python()).is_relative_to(ROOT):  # not one that somebody has brought
        assert homeserver.items() <= versions.items()
        if sys.version_info[:2] == (3, 11):  # a newer Python needs less
            assert versions.keys() == homeserver.keys() | of_the_tests().keys()


def test_whatever_the_project_names_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].items()
    named = [*project["dependencies"], *(each for extra, more in extras if extra != "fuzz" for each in more)]
    names = {canonicalize_name(re.split(r"[\[<>=;]", each)[0]) for each in named} - {"mxrtc-bridge"}
    assert names <= written().keys()


def test_make_and_the_image_install_these_versions() -> None:
    installs = [line for line in MAKEFILE.splitlines() if line.startswith("\t.ci/venv ") and "--upgrade" not in line]
    assert len(installs) == 6
    assert [line for line in installs if "$(PINNED)" not in line] == []
    assert "PINNED := --constraint constraints.txt" in MAKEFILE
    steps = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    pip = re.findall(r"/pip (?:install|wheel) [^&\n]*", steps)
    assert pip
    assert [step for step in pip if "--constraint constraints.txt" not in step and "--no-deps" not in step] == []


def test_two_environments_that_want_different_versions_are_said_and_nothing_is_written() -> None:
    with pytest.raises(SystemExit, match=r"attrs: 1 for the tests, 2 for the homeserver"):
        constraints.merged({"attrs": "1", "b": "1"}, {"attrs": "2"})
