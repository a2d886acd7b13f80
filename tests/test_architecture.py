"""The rules of the source tree that neither the type checker nor the import contracts can state."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.code_size import doubled_classes
from tests.product_parts import REACHED_INTO, patched_constants, private_names

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mxrtc_bridge"
PURE = ("core", "sctp")
"""The packages that are values in, values out; the second may not exist."""

MAX_LINES = 600

IMPURE_MODULES = frozenset(
    {"asyncio", "concurrent", "datetime", "io", "logging", "multiprocessing", "os", "pathlib", "random", "secrets",
     "select", "selectors", "shutil", "signal", "socket", "ssl", "subprocess", "sys", "tempfile", "threading",
     "time", "urllib", "uuid"}
)  # fmt: skip
PURE_SUBMODULES = frozenset({"urllib.parse"})
"""Parts of such packages that only turn text into text."""
IMPURE_CALLS = frozenset({"open", "print", "input", "exec", "eval", "__import__", "breakpoint"})
ASYNC_NODES = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)

# A path that only exists on somebody's own machine has no place in a published tree.
MACHINE_PATH = re.compile(r"(?<![\w./~*{}$-])/(?:work|root|Users|home/(?!me\b|user\b|alice\b))/?[\w.-]+/[\w.-]+")

TEXT_SUFFIXES = frozenset({".py", ".md", ".toml", ".yaml", ".yml", ".example", ".service", ".js", ".json", ".sh", ""})
NOT_OURS = frozenset({"node_modules", "__pycache__", "build", "dist"})


def is_ours(file: Path) -> bool:
    """Whether a file belongs to the source tree, and not to a cache or an environment inside of it."""
    parts = file.relative_to(ROOT).parts
    return not NOT_OURS.intersection(parts) and not any(part.startswith(".") and part != ".ci" for part in parts)


def sources(*folders: Path) -> list[Path]:
    return sorted(file for folder in folders for file in folder.rglob("*.py") if is_ours(file))


def relative(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


def head(source: str) -> str:
    """Return the docstring of a module, without parsing the rest of it."""
    match = re.match(r'(?:#.*\n|\s)*"""(.*?)"""', source, re.DOTALL)
    return match[1] if match else ""


def impurities(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the line and the kind of everything in a module that is more than values in, values out."""
    for node in ast.walk(tree):
        match node:
            case ast.Import(names=names):
                for name in names:
                    if name.name.partition(".")[0] in IMPURE_MODULES:
                        yield node.lineno, f"imports {name.name}"
            case ast.ImportFrom(module=str(module), level=0) if (
                module.partition(".")[0] in IMPURE_MODULES and module not in PURE_SUBMODULES
            ):
                yield node.lineno, f"imports from {module}"
            case ast.Call(func=ast.Name(id=name)) if name in IMPURE_CALLS:
                yield node.lineno, f"calls {name}"
            case ast.Global() | ast.Nonlocal():
                yield node.lineno, "keeps state outside of its values"
            case _ if isinstance(node, ASYNC_NODES) or (isinstance(node, ast.comprehension) and node.is_async):
                yield getattr(node, "lineno", 0), "is asynchronous"
            case _:
                pass


@pytest.mark.parametrize("name", PURE)
def test_pure_module_has_no_way_to_the_outside(name: str) -> None:
    """No I/O, clock, randomness, logging or waiting: what a machine does depends on its arguments alone."""
    files = sources(PACKAGE / name)
    assert files
    assert [(relative(file), found) for file in files for found in impurities(ast.parse(file.read_text()))] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import time", ["imports time"]),
        ("import os.path as p", ["imports os.path"]),
        ("from random import choice", ["imports from random"]),
        ("def f():\n    from asyncio import sleep", ["imports from asyncio"]),
        ("async def f(): pass", ["is asynchronous"]),
        ("open('file')", ["calls open"]),
        ("print(1)", ["calls print"]),
        ("def f():\n    global x\n    x = 1", ["keeps state outside of its values"]),
        ("import re\nfrom mxrtc_bridge.core.time import x\nopened = {}\nopened.open()", []),
    ],
)
def test_the_search_for_impurities_finds_them(source: str, expected: list[str]) -> None:
    assert [what for _, what in impurities(ast.parse(source))] == expected


def test_module_says_at_its_head_what_it_is() -> None:
    """A head docstring of some words."""
    assert [relative(file) for file in sources(PACKAGE) if len(head(file.read_text()).split()) < 3] == []


def test_module_names_its_subject() -> None:
    vague = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert [relative(file) for file in sources(PACKAGE) if file.stem in vague] == []


def test_file_has_one_subject() -> None:
    """A file of more than 600 lines has a second subject that wants a file of its own."""
    lines = {relative(file): file.read_text().count("\n") for file in sources(PACKAGE, ROOT / "tests")}
    assert {name: count for name, count in lines.items() if count > MAX_LINES} == {}


def reason_for_length(source: str) -> str:
    """Return what a module's head says about why it is one file, or an empty string."""
    paragraphs = head(source).split("\n\n")
    return next((" ".join(each.split()) for each in paragraphs if each.startswith("One file: ")), "")


LONG = 400


def test_a_long_module_says_why_it_is_one_file() -> None:
    """Past 400 lines a second subject is likely: the head says why there is none ("One file: ..."), in some words."""
    long = [file for file in sources(PACKAGE) if file.read_text().count("\n") > LONG]
    assert [relative(file) for file in long if len(reason_for_length(file.read_text()).split()) < 6] == []


def test_the_search_for_a_reason_finds_one() -> None:
    source = '# A licence.\n"""It.\n\nOne file: its parts\nshare a lock.\n\nMore.\n"""'
    assert reason_for_length(source) == "One file: its parts share a lock."
    assert reason_for_length('"""It is one file.\n"""\n\nx = "One file: no"') == ""
    assert reason_for_length('import x\n\n"""One file: no head."""') == ""


def test_the_search_for_doubled_classes_finds_them() -> None:
    trees = [ast.parse(text) for text in ("class A: ...\nclass _B: ...", "class A: ...\nclass _B: ...\nclass C: ...")]
    assert doubled_classes(trees) == ["A"]


def test_package_is_a_package() -> None:
    """A folder without ``__init__`` is invisible to the import contracts."""
    assert [relative(file) for file in sources(PACKAGE) if not (file.parent / "__init__.py").exists()] == []


def test_olm_library_is_imported_in_one_place() -> None:
    """The rest of the edge must run on a machine that has no Olm library."""
    found = [relative(f) for f in sources(PACKAGE) if re.search(r"^\s*(import|from) vodozemac", f.read_text(), re.M)]
    assert found == ["mxrtc_bridge/matrix/crypto/binding.py"]


def test_age_of_what_others_have_said_is_told_by_a_clock_that_goes_on_while_the_machine_sleeps() -> None:
    """The monotonic clock stands still then. These two only make the bridge slower, and know nothing of rights."""
    pauses_only = {"mxrtc_bridge/matrix/rooms/call_rooms.py", "mxrtc_bridge/matrix/api/transport.py"}
    using = {
        relative(file)
        for file in sources(PACKAGE / "bridge", PACKAGE / "matrix")
        if "time.monotonic" in file.read_text()
    }
    assert using <= pauses_only


FOREIGN_LOGGERS = frozenset({"aioice", "mau", "mau.db", "mau.mxrtc"})
"""Of libraries, which we make quieter."""


def loggers(tree: ast.AST) -> Iterator[str]:
    """Yield each statement of a module that gets a logger in another way than all others do."""
    own = "log = logging.getLogger(__name__)"
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in {"logging.getLogger", "getLogger"}:
            match node.args:
                case [ast.Constant(value=str(name))] if name in FOREIGN_LOGGERS:
                    pass
                case [ast.Name(id="__name__")]:
                    pass
                case _:
                    yield ast.unparse(node)
        elif isinstance(node, ast.Assign) and "getLogger(__name__)" in (text := ast.unparse(node)) and text != own:
            yield text


def test_module_logs_by_its_own_name() -> None:
    """So a level can be set for any part of the tree, and a line names the file that has written it."""
    logging = [file for file in sources(PACKAGE) if "getLogger" in file.read_text()]
    assert [(relative(file), found) for file in logging for found in loggers(ast.parse(file.read_text()))] == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("log = logging.getLogger(__name__)", []),
        ("logging.getLogger('aioice').setLevel(30)", []),
        ("log = logging.getLogger('mxrtc_bridge.desk')", ["logging.getLogger('mxrtc_bridge.desk')"]),
        ("log = logging.getLogger()", ["logging.getLogger()"]),
        ("_log = logging.getLogger(__name__)", ["_log = logging.getLogger(__name__)"]),
        ("def f():\n    logging.getLogger(NAME)", ["logging.getLogger(NAME)"]),
    ],
)
def test_the_search_for_loggers_finds_them(source: str, expected: list[str]) -> None:
    assert list(loggers(ast.parse(source))) == expected


def test_no_file_names_a_path_of_one_machine() -> None:
    found = []
    top = [path for path in ROOT.iterdir() if is_ours(path)]
    for file in sorted(file for path in top for file in (path.rglob("*") if path.is_dir() else [path])):
        if not is_ours(file) or file.suffix not in TEXT_SUFFIXES or not file.is_file() or file == Path(__file__):
            continue
        for number, line in enumerate(file.read_text(errors="replace").splitlines(), 1):
            if match := MACHINE_PATH.search(line):
                found.append(f"{relative(file)}:{number}: {match[0]}")
    assert found == []


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("see /work/project/notes.md", True),
        ('open("/root/x/y")', True),
        ("/home/somebody/src/x", True),
        ("/home/alice/.ssh/config", False),
        ("https://example.org/work/a/b", False),
        ("networking /work", False),
    ],
)
def test_a_path_of_one_machine_is_recognised(text: str, *, is_found: bool) -> None:
    assert bool(MACHINE_PATH.search(text)) is is_found


@cache
def reached_into() -> dict[str, tuple[list[str], set[str]]]:
    """Return what each file of the tests reaches into: constants that it sets, and private names."""
    texts = {relative(file).removeprefix("tests/"): file.read_text() for file in sources(ROOT / "tests")}
    return {name: (patched_constants(text), private_names(text)) for name, text in texts.items()}


def test_tests_set_no_constant_of_the_product() -> None:
    """A limit is a parameter with the constant as its default."""
    assert {file: constants for file, (constants, _) in reached_into().items() if constants} == {}


def test_tests_reach_into_the_product_where_it_is_said_why_and_nowhere_else() -> None:
    """What is not used any more goes from the list as well."""
    listed = {file: set(names.split()) for files in REACHED_INTO.values() for file, names in files.items()}
    assert {file: names for file, (_, names) in reached_into().items() if names} == listed


@pytest.mark.parametrize(
    ("source", "constants", "names"),
    [
        ("from mxrtc_bridge.sinks import listen\nm.setattr(listen, 'PAUSE_S', 1)", ["listen.PAUSE_S"], set()),
        ("m.setattr('mxrtc_bridge.sinks.listen.PAUSE_S', 1)", ["mxrtc_bridge.sinks.listen.PAUSE_S"], set()),
        ("import mxrtc_bridge.sinks.listen as l\nm.setattr(l, '_PAUSE_S', 1)", ["l._PAUSE_S"], set()),
        ("import os\nm.setattr(os, 'O_PATH', 1)", [], set()),
        ("from mxrtc_bridge.sinks import listen\nm.setattr(listen, 'bind', 1)", [], set()),
        ("from mxrtc_bridge.sinks import listen\nm.setattr(listen, '_bind', 1)", [], {"_bind"}),
        ("m.setattr(bridge.calls, '_end', 1)", [], {"_end"}),
        ("from mxrtc_bridge.sinks.listen import _bind, Listener", [], {"_bind"}),
        ("def f(self):\n    self._x = bridge._ends\n    super()._y()", [], {"_ends"}),
        ("x.__class__", [], set()),
    ],
)
def test_the_search_for_what_tests_reach_into_finds_it(source: str, constants: list[str], names: set[str]) -> None:
    assert (patched_constants(source), private_names(source)) == (constants, names)
