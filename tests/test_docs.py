"""What the documentation shows exists: links lead somewhere, and shown commands have the options shown with them."""

from __future__ import annotations

import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.cli.command_pages import printed_help

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
BIN = Path(sys.executable).parent

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`((?:mxrtc|mxrtc-bridge|make) [^`\n]+)`")
PROGRAMS = ("mxrtc", "mxrtc-bridge", "make")
BEFORE_A_COMMAND = re.compile(r"^(?:(?:sudo|time|exec|\w+=\S*|docker exec \S+|docker compose exec \S+) )+")


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text())


def anchors(page: Path) -> set[str]:
    """The fragments that GitHub makes from a page's headings."""
    titles = (re.sub(r"[`*]", "", title).lower() for title in HEADING.findall(prose(page)))
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_inside_the_tree_lead_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(prose(page)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, fragment = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (fragment and file.suffix == ".md" and fragment not in anchors(file)):
            broken.append(target)
    assert broken == []


def shown_commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command of ours that a page shows, in a block of shell or in a line of prose."""
    text = page.read_text()
    lines = list(INLINE.findall(prose(page)))
    for _, language, block in FENCE.findall(text):
        if language in {"sh", "console", "bash", "shell"}:
            lines += block.replace("\\\n", " ").splitlines()
    for line in lines:
        command = BEFORE_A_COMMAND.sub("", line.strip().removeprefix("$ "), count=1)
        try:
            words = shlex.split(command, comments=True)
        except ValueError:
            continue  # a line of a longer quotation, no command by itself
        if words and words[0].rpartition("/")[2] in PROGRAMS:
            yield [words[0].rpartition("/")[2], *words[1:]]
        for word in words:
            if match := re.search(r"ProxyCommand=(.+)", word):
                yield shlex.split(match[1])


COMMANDS = [
    pytest.param(words, id=f"{page_name(page)}: {' '.join(words)[:60]}")
    for page in PAGES
    for words in shown_commands(page)
]


def option_names(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)]


@cache
def make_targets() -> frozenset[str]:
    return frozenset(re.findall(r"^([a-z-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("words", COMMANDS)
def test_a_shown_command_exists_with_its_options(words: list[str]) -> None:
    program, *rest = words
    rest = rest[: next((i for i, word in enumerate(rest) if word in {"|", ">", "&", "&&", ";", "<"}), len(rest))]
    if program == "make":
        targets = {word for word in rest if "=" not in word and not word.startswith("-")}
        assert targets <= make_targets()
        return
    top = printed_help(program)
    assert top, f"{program} --help fails"
    names = [word for word in rest if re.search(rf"^ +{re.escape(word)}\b", top, re.MULTILINE)]
    subcommand = next((name for name in names if not name.startswith("-")), None)
    known = top if subcommand is None else top + printed_help(program, subcommand)
    if subcommand is None:
        assert rest, f"{program} without a command shows nothing"
        assert all(word.startswith("-") for word in rest), f"{program} has no command {rest[0]}"
    else:
        assert printed_help(program, subcommand)
        inner = rest[rest.index(subcommand) + 1 :]
        if inner and re.search(rf"^ +{re.escape(inner[0])} ", printed_help(program, subcommand), re.MULTILINE):
            known += printed_help(program, subcommand, inner[0])
    missing = [name for name in option_names(rest) if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", known)]
    assert missing == [], f"{program} {subcommand} has no such options"


def test_the_search_for_commands_finds_them(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Say `mxrtc ls --json` or `make demo`, not `other thing`.\n"
        "```sh\npip install mxrtc\n$ sudo A=b /opt/x/mxrtc-bridge run \\\n  -c x.yaml  # a comment\n"
        "ssh -o ProxyCommand='mxrtc nc build/ssh' me@build\n```\n"
        "```yaml\nmxrtc: no command\n```\n"
    )
    assert list(shown_commands(page)) == [
        ["mxrtc", "ls", "--json"],
        ["make", "demo"],
        ["mxrtc-bridge", "run", "-c", "x.yaml"],
        ["mxrtc", "nc", "build/ssh"],
    ]


@pytest.mark.programs
def test_links_in_the_folder_of_the_bridge_lead_root_nowhere_when_it_is_backed_up_and_restored(tmp_path: Path) -> None:
    """The folder is the bridge's; what it leads to may be what only root may read or write."""
    page = (ROOT / "docs/how-to/backup.md").read_text()
    folder, safe, secret = tmp_path / "mxrtc", tmp_path / "safe", tmp_path / "shadow"
    folder.mkdir()
    secret.write_text("of root")
    sqlite3.connect(folder / "mxrtc-bridge.db").close()
    for name in ("config.yaml", "registration.yaml", "encryption.key", "audit.jsonl"):
        (folder / name).write_text(name)
    (folder / "audit-1.jsonl").symlink_to(secret)

    def carry_out(heading: str) -> None:
        (block,) = [each[2] for each in FENCE.findall(page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0])]
        lines = [line for line in block.splitlines() if not line.startswith(("systemctl ", "chown "))]
        commands = "\n".join(lines).replace("/var/lib/mxrtc", str(folder)).replace("/somewhere/safe", str(safe))
        subprocess.run(["sh", "-euc", commands], check=True, timeout=60)

    carry_out("Back up")
    assert [each.name for each in safe.iterdir() if not each.is_symlink() and each.read_text() == "of root"] == []
    (folder / "registration.yaml").unlink()
    (folder / "registration.yaml").symlink_to(secret)
    carry_out("Restore")
    assert secret.read_text() == "of root"
    assert not (folder / "registration.yaml").is_symlink()
    assert (folder / "registration.yaml").read_text() == "registration.yaml"
