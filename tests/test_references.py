"""What the documentation and the sources name exists: files by their paths, and what docstrings refer to."""

from __future__ import annotations

import builtins
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.test_architecture import PACKAGE, ROOT, is_ours, relative, sources

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FOLDERS = "app|" + "|".join(
    sorted(path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name not in {"__pycache__", "demo"})
)
"""Those of the package, without ``demo``, which is a peer's name as well. What lay in the first has moved away."""

START = r"(?<![\w./:@~-])"
PATH = re.compile(
    rf"{START}(?:(?:mxrtc_bridge|tests|\.ci)/[\w./-]*\w"
    rf"|docs/[\w./-]*\.(?:md|service)\b"
    rf"|(?:{FOLDERS})/(?:\w+/)*\w+\.py\b)"
)
IN_PAGE = re.compile(rf"`((?:{FOLDERS})(?:/[a-z_]+)+|\w+\.py)`")
"""On a page the name of a folder, or of a file alone, is code as well."""
REFERENCE = re.compile(r":(?:mod|class|meth|func|data|attr|exc):`~?([\w.]+)`")


@cache
def file_names() -> frozenset[str]:
    return frozenset(path.name for path in ROOT.rglob("*.py") if is_ours(path))


def exists(path: str) -> bool:
    if "/" not in path:
        return path in file_names()
    places = [ROOT / path, PACKAGE / path]
    return any(place.exists() or place.with_suffix(".py").exists() for place in places)


def paths_missing(text: str, *, is_page: bool) -> list[str]:
    """Return what a text names as a file or folder of this tree and is not there."""
    named = PATH.findall(text) + (IN_PAGE.findall(text) if is_page else [])
    return [path for path in named if "node_modules" not in path and not exists(path)]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_a_path_on_a_page_exists(page: Path) -> None:
    text = page.read_text()
    if page.name == "CHANGELOG.md":
        text = text.partition("\n## Unreleased")[2].partition("\n## ")[0]  # what was released named what was there
    assert paths_missing(text, is_page=True) == []


OTHERS = [ROOT / name for name in ("pyproject.toml", "Makefile", "mkdocs.yml", "Dockerfile", "docker-compose.yml")]


def test_a_path_in_a_source_exists() -> None:
    missing = {relative(file): paths_missing(file.read_text(), is_page=False) for file in (*sources(PACKAGE), *OTHERS)}
    assert {name: paths for name, paths in missing.items() if paths} == {}


def test_the_search_for_paths_finds_them() -> None:
    text = (
        "`app/desk.py`, core/bogus.py, `mxrtc_bridge/nothing`, tests/no/test_x.py, docs/protocol.md, `matrix/bogus`,"
        " `bogus.py`; core/ids.py, `core/call`, `machine.py`, docs/report.pdf, https://x.test/core/bogus.py, build/ssh"
    )
    gone = ["app/desk.py", "core/bogus.py", "mxrtc_bridge/nothing", "tests/no/test_x.py", "docs/protocol.md"]
    assert paths_missing(text, is_page=False) == gone
    assert paths_missing(text, is_page=True) == [*gone, "matrix/bogus", "bogus.py"]


def test_the_folders_of_the_architecture_have_the_files_that_it_names() -> None:
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    rows = re.findall(r"^\| (`.+?`) \|.*\| (`.+`) \|$", page.partition("## The folders")[2].partition("\n## ")[0], re.M)
    assert len(rows) > 25
    missing = []
    for folders, files in rows:
        names = [part.split("`")[1::2] for part in files.split(";")]
        folder_names = folders.split("`")[1::2]
        for folder, inside in zip(folder_names, names if len(names) > 1 else names * len(folder_names), strict=True):
            missing += [f"{folder}/{name}" for name in inside if not (PACKAGE / folder / name).exists()]
    assert missing == []
    told = {folder for folders, _ in rows for folder in folders.split("`")[1::2]}
    there = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*")
             if path.is_file() and path.name != "__init__.py" and is_ours(path)}  # fmt: skip
    assert {folder.replace("sinks/files/receive", "sinks/files").replace("sinks/files/send", "sinks/files")
            for folder in there - {"."}} == told  # fmt: skip


def unresolved(module: str, text: str) -> Iterator[str]:
    """Yield the references of a module's text that lead nowhere."""
    builtin = vars(builtins)
    package = module if (PACKAGE.parent / module.replace(".", "/")).is_dir() else module.rpartition(".")[0]
    for name in REFERENCE.findall(text):
        full = package + name if name.startswith(".") else name
        if name in builtin or re.search(
            rf"(?:\bdef |self\.){re.escape(name)}\b|^    {re.escape(name)}: ", text, re.MULTILINE
        ):
            continue  # a method or field of a class of this file, named from inside of it
        if not (_leads_somewhere(full) or (not name.startswith(".") and _leads_somewhere(f"{module}.{name}"))):
            yield name


@cache
def _leads_somewhere(name: str) -> bool:
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value: object = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for index, part in enumerate(parts[end:], end):
            if hasattr(value, part):
                value = getattr(value, part)
                continue
            # An attribute that exists on objects only: the source of the class's module sets it.
            source = importlib.import_module(getattr(value, "__module__", None) or ".".join(parts[:end])).__file__
            return (
                isinstance(value, type)
                and index == len(parts) - 1
                and source is not None
                and f"self.{part}" in Path(source).read_text()
            )
        return True
    return False


def test_a_reference_in_a_docstring_leads_somewhere() -> None:
    wrong = []
    for file in sources(PACKAGE):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        wrong += [(module, name) for name in unresolved(module, file.read_text())]
    assert wrong == []


def test_the_search_for_references_finds_those_that_lead_nowhere() -> None:
    text = (
        ":class:`Conversation`, :mod:`mxrtc_bridge.core.bogus`, :meth:`.LogRate.bogus`, :mod:`.bogus`;"
        " :mod:`.shares`, :class:`LogRate`, :attr:`LogRate.subjects`, :mod:`mxrtc_bridge.core.ids`, :func:`json.loads`"
    )
    assert list(unresolved("mxrtc_bridge.core.bounds.log_rate", text)) == [
        "Conversation", "mxrtc_bridge.core.bogus", ".LogRate.bogus", ".bogus",
    ]  # fmt: skip
