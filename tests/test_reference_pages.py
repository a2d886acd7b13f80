"""Reference pages say what the program does: metrics, exit codes, JSON output."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from mxrtc_bridge.cli import admin
from mxrtc_bridge.client.exits import Exit
from mxrtc_bridge.demo import __main__ as demo
from mxrtc_bridge.metrics import Metrics
from tests import metrics_page

ROOT = Path(__file__).parent.parent
REFERENCE = ROOT / "docs" / "reference"


def test_the_page_of_the_metrics_is_what_the_counters_are() -> None:
    assert metrics_page.PAGE.read_text() == metrics_page.render(), "run 'make docs'"


def test_every_metric_has_a_row_with_its_label() -> None:
    metrics = Metrics()
    metrics.transaction("accepted")
    metrics.events("stored")
    metrics.call("failed")
    metrics.stream("clean")
    metrics.payload("sent", 1)
    metrics.refusal("denied")
    page = metrics_page.render()
    samples = [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]
    for sample in samples:
        found = re.fullmatch(r"(\w+)(?:\{(\w+)=\"(\w+)\"\})? \S+", sample)
        assert found is not None, sample
        name, label, value = found.groups()
        if name.endswith("_created"):
            continue
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert label is None or (f"| `{label}`: " in row and f"`{value}`" in row)


def exit_codes(program: str) -> dict[int, str]:
    """Return the rows of one program's table on the page of the exit codes."""
    text = (REFERENCE / "exit-codes.md").read_text()
    section = text.partition(f"\n## `{program}`\n")[2].partition("\n## ")[0]
    return {int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.+?) \|", section, re.MULTILINE)}


def test_every_exit_code_of_mxrtc_is_on_the_page() -> None:
    assert sorted(exit_codes("mxrtc")) == sorted(Exit)


def test_every_exit_code_of_mxrtc_bridge_is_on_the_page() -> None:
    assert sorted(exit_codes("mxrtc-bridge")) == sorted(v for k, v in vars(admin).items() if k.startswith("EXIT_"))


def test_every_exit_code_of_the_demonstration_is_on_the_page() -> None:
    codes = {v for k, v in vars(demo).items() if k.startswith("EXIT_")}
    assert sorted(exit_codes("make demo")) == sorted(codes | {2}), "2 is click's for wrong usage"


def kinds_said() -> Iterator[str]:
    """Yield the kind of each object that the client can print, read from its source."""
    for path in (ROOT / "mxrtc_bridge" / "client").glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "say":
                kind = node.args[0]
                assert isinstance(kind, ast.Constant), "a kind is a word in the source, so that it can be documented"
                yield str(kind.value)


def test_every_kind_of_json_object_is_described() -> None:
    page = (REFERENCE / "json-output.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {*kinds_said(), "error"}
