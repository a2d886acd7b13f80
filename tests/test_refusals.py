"""One style for what a person reads when something is refused: a whole sentence, with what to do where that is known.

What is said in a chat or to an admin is written as a sentence. The other errors are written as a clause, so that they
can stand inside of another sentence, and whoever shows one alone makes it a sentence.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mxrtc_bridge"
SENTENCES = frozenset(
    {
        "AdminError",
        "GrantError",
        "SettledError",
        "RequestRefused",
        "RequestAnswer",
        "WrongError",
        "Mistake",
        "UsageError",
    }
)
CLAUSES = frozenset(
    {"ClientError", "LocalError", "ConfigError", "HomeserverError", "StorageError", "NamingError", "DirectRoomError",
     "NoDeviceError", "TargetError", "FileError", "EventError"}
)  # fmt: skip
PROPER = ("PostgreSQL", "SQLite", "Synapse")
"""Names that begin a clause."""


def written(node: ast.expr) -> str | None:
    """The text of a literal, with ``{}`` for each part that is put in; None for what is no literal."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


@cache
def all_texts() -> list[tuple[str, str, str]]:
    """Return the class, the place and the text of each literal that one of the classes is made with."""
    made = re.compile(rf"\b({'|'.join(SENTENCES | CLAUSES)})\(")
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        if not made.search(source := file.read_text()):
            continue
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            for text in map(written, node.args) if called in SENTENCES | CLAUSES else ():
                if text is not None and " " in text:
                    found.append((called, f"{file.relative_to(PACKAGE)}:{node.lineno}", text))
                    break
    return found


def texts(names: frozenset[str]) -> list[tuple[str, str]]:
    """Return where each literal is that one of these classes is made with, and the literal."""
    return [(place, text) for name, place, text in all_texts() if name in names]


def test_what_is_said_in_a_chat_or_to_an_admin_is_a_sentence() -> None:
    found = texts(SENTENCES)
    assert len(found) > 50
    assert [each for each in found if not re.fullmatch(r'(?s)([A-Z{"]|--).*(\.|\{\})', each[1])] == []


def test_other_errors_can_stand_inside_of_a_sentence() -> None:
    found = texts(CLAUSES)
    assert len(found) > 200
    wrong = [
        each
        for each in found
        if each[1].endswith(".") or (re.match("[A-Z][a-z]+ ", each[1]) and not each[1].startswith(PROPER))
    ]
    assert wrong == []


@pytest.mark.parametrize("names", [SENTENCES, CLAUSES])
def test_every_class_is_one_of_the_program(names: frozenset[str]) -> None:
    sources = "".join(file.read_text() for file in PACKAGE.rglob("*.py"))
    # The one is a class of click.
    assert [name for name in names - {"UsageError"} if f"class {name}" not in sources] == []
