"""Whoever pastes a command of ours installs this program and no other: a name that is not ours may be anybody's."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from mxrtc_bridge.core.text.installing import SOURCES, requirement
from tests.install_commands import PAGES, ROOT, installed, pages_with_commands, rendered

OF_OTHERS = {
    "hatchling", "pip", "pipx", "pre-commit",
    # Where the bridge says that it is missing, under the name by which everybody has it.
    "vodozemac", "vodozemac>=0.10,<0.11",
    # What the forge's job for Windows runs tests with, as what else they need has no wheels there.
    "coverage", "hypothesis", "pytest", "pytest-asyncio", "pytest-timeout",
}  # fmt: skip
TEXTS = {".md", ".py", ".yml", ".toml", ".service", ".sh", ""}


def tracked() -> list[Path]:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [
        ROOT / name for name in names.split("\0") if name and (ROOT / name).suffix in TEXTS and (ROOT / name).exists()
    ]


def is_ours(word: str) -> bool:
    """Whether it is this program from its sources, an artefact of ours, or a folder or file of the reader's."""
    extras = re.match(r"mxrtc-bridge\[([\w,]+)\]", word)
    return (
        word == requirement(*(extras[1].split(",") if extras else ()))
        or word.startswith((".", "$", "/", "dist/", "{", "*", "mxrtc_bridge-", "build/"))
        or word.endswith((".whl", ".whl)[postgres]", ".txt"))
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("pip install mxrtc-bridge", ["mxrtc-bridge"]),
        ("/opt/x/bin/pip install --upgrade -c constraints.txt 'a[b] @ https://x/y' .", ["a[b] @ https://x/y", "."]),
        ("pipx install x && uv tool install --force y", ["x", "y"]),
        ("RUN python -m pip install \\\n  one two", ["one", "two"]),
        ("`pipx install x` puts it", ["x"]),
        ("pipx keeps it", []),
    ],
)
def test_commands_of_installers_are_found(text: str, found: list[str]) -> None:
    assert list(installed(text)) == found


def test_no_file_tells_anybody_to_install_a_name_that_is_not_ours() -> None:
    told = {
        f"{file.relative_to(ROOT)}: {word}"
        for file in tracked()
        if not file.is_relative_to(ROOT / "tests")  # where parts of commands are compared, and nobody is told anything
        for word in (word.rstrip('"') for word in installed(file.read_text(errors="replace")))
        if not is_ours(word) and word not in OF_OTHERS
    }
    assert told == set()


@pytest.mark.parametrize("page", pages_with_commands(), ids=lambda page: page.name)
def test_a_page_names_the_address_of_the_sources_as_it_is_written_in_one_place(page: Path) -> None:
    assert page.read_text() == rendered(page), "make docs writes it"


def test_users_and_admins_are_told_how_to_install_it() -> None:
    pages = {page.relative_to(ROOT).as_posix(): set(installed(page.read_text())) for page in PAGES}
    assert requirement() in pages["docs/tutorial/for-users.md"]
    for page in ("README.md", "docs/how-to/synapse.md", "docs/how-to/systemd.md"):
        assert requirement("bridge") in pages[page]
    assert requirement("postgres") in pages["docs/how-to/postgresql.md"]


def test_the_address_stands_in_no_other_source() -> None:
    host = SOURCES.split("/")[2]
    holders = {file.relative_to(ROOT).as_posix() for file in tracked() if host in file.read_text(errors="replace")}
    pages = {page.relative_to(ROOT).as_posix() for page in pages_with_commands()}
    assert holders - pages == {"mxrtc_bridge/core/text/installing.py"}
