"""How large the program is: prints its numbers; `make stats` runs it.

Lines are those with code: blank ones, comments and docstrings do not count, so saying more never costs anything.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "mxrtc_bridge"
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def code_lines(text: str) -> int:
    """The lines of a source that hold code."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        # A string alone is a docstring: of a module, a class, a function or an attribute.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            lines.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def _classes(trees: Iterable[ast.Module]) -> Iterator[ast.ClassDef]:
    for tree in trees:
        yield from (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def doubled_classes(trees: Iterable[ast.Module]) -> list[str]:
    """The names that two public classes have."""
    names = Counter(node.name for node in _classes(trees) if not node.name.startswith("_"))
    return sorted(name for name, count in names.items() if count > 1)


def _is_protocol(node: ast.ClassDef) -> bool:
    bases = [base.value if isinstance(base, ast.Subscript) else base for base in node.bases]
    return any(isinstance(base, ast.Name) and base.id == "Protocol" for base in bases)


def _parameters(node: ast.ClassDef) -> int:
    for part in node.body:
        if isinstance(part, ast.FunctionDef) and part.name == "__init__":
            return len(part.args.posonlyargs) + len(part.args.args) + len(part.args.kwonlyargs) - 1
    return 0


def _arrows(package: Path, trees: dict[Path, ast.Module]) -> set[tuple[str, str]]:
    """Which folder of core imports from which other one."""
    found = set()
    for path, tree in trees.items():
        here = path.relative_to(package).parts
        if here[0] != "core" or len(here) < 3:
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mxrtc_bridge.core."):
                there = (node.module or "").split(".")
                if (package / "core" / there[2]).is_dir() and there[2] != here[1]:
                    found.add((here[1], there[2]))
    return found


def measure(package: Path = PACKAGE) -> list[tuple[str, str]]:
    """Each number with its name."""
    texts = {path: path.read_text("utf-8") for path in sorted(package.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    classes = list(_classes(trees.values()))
    doubled = doubled_classes(trees.values())
    longest = max(classes, key=_parameters)
    longest_file, length = max(((path, text.count("\n")) for path, text in texts.items()), key=lambda pair: pair[1])
    return [
        ("lines of code", str(sum(map(code_lines, texts.values())))),
        ("files", str(len(texts))),
        ("longest file", f"{length} lines, {longest_file.relative_to(package)}"),
        ("Protocols", str(sum(map(_is_protocol, classes)))),
        ("public class names used twice", " ".join([str(len(doubled)), *doubled])),
        ("longest constructor", f"{_parameters(longest)} parameters, {longest.name}"),
        ("arrows between folders of core", str(len(_arrows(package, trees)))),
    ]


if __name__ == "__main__":
    for what, value in measure(Path(sys.argv[1]) if len(sys.argv) > 1 else PACKAGE):
        print(f"{what + ':':<32} {value}")
