"""The documentation says what the program does: metrics, exit codes, JSON output, messages, parts of configurations."""

from __future__ import annotations

import ast
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mxrtc_bridge.cli.bridge import command_line
from mxrtc_bridge.client.exit_codes import Exit
from mxrtc_bridge.config.loader import parse_config
from mxrtc_bridge.config.problems import InvalidConfigError
from mxrtc_bridge.config.schema import Root
from mxrtc_bridge.demo import __main__ as demo
from mxrtc_bridge.metrics import Metrics
from tests import metrics_page
from tests.nets import page as networks_page
from tests.nets.rows import ROWS

ROOT = Path(__file__).parent.parent
FENCE = re.compile(r"^( *)```yaml\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
REFERENCE = ROOT / "docs" / "reference"


def test_the_page_of_the_metrics_is_what_the_counters_are() -> None:
    assert metrics_page.PAGE.read_text() == metrics_page.render(), "run 'make docs'"


def test_the_page_of_networks_is_what_their_tests_have_measured() -> None:
    assert networks_page.PAGE.read_text() == networks_page.render(), "run 'make docs'"


def test_every_network_of_the_page_has_a_test() -> None:
    texts = [path.read_text() for path in (ROOT / "tests/nets").glob("test_*.py")]
    tested = {int(number) for text in texts for number in re.findall(r"^async def test_row_(\d\d)_", text, re.M)}
    assert tested == {row.number for row in ROWS}


def test_every_metric_has_a_row_with_its_label() -> None:
    metrics = Metrics()
    page = metrics_page.render()
    samples = [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]
    for sample in samples:
        found = re.fullmatch(r"(\w+)(?:\{(.+)\})? \S+", sample)
        assert found is not None, sample
        name = re.sub("^(mxrtc_setup_seconds)_(bucket|sum|count)$", r"\1", found[1])
        if name.endswith("_created") or name == "mxrtc_build_info":  # which has the version
            continue
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        for label, value in re.findall(r'(\w+)="([^"]*)"', found[2] or ""):
            assert label == "le" or value == "other" or (f"`{label}`: " in row and f"`{value}`" in row)


def exit_codes(program: str) -> dict[int, str]:
    """Return the rows of one program's table on the page of the exit codes."""
    text = (REFERENCE / "exit-codes.md").read_text()
    section = text.partition(f"\n## `{program}`\n")[2].partition("\n## ")[0]
    return {int(code): meaning for code, meaning in re.findall(r"^\| (\d+) \| (.+?) \|", section, re.MULTILINE)}


def test_every_exit_code_of_mxrtc_is_on_the_page() -> None:
    assert sorted(exit_codes("mxrtc")) == sorted(Exit)


def test_every_exit_code_of_mxrtc_bridge_is_on_the_page() -> None:
    assert sorted(exit_codes("mxrtc-bridge")) == sorted(command_line.ExitCode)


def test_every_exit_code_of_the_demonstration_is_on_the_page() -> None:
    codes = {v for k, v in vars(demo).items() if k.startswith("EXIT_")}
    assert sorted(exit_codes("make demo")) == sorted(codes | {2}), "2 is click's for wrong usage"


def kinds_said() -> Iterator[str]:
    """Yield the kind of each object that the client can print, read from its source."""
    for path in (ROOT / "mxrtc_bridge" / "client").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("say", "data")
            ):
                kind = node.args[0]
                if isinstance(kind, ast.Name) and kind.id == "kind":
                    continue  # hands on what another one says
                assert isinstance(kind, ast.Constant), "a kind is a word in the source, so that it can be documented"
                yield str(kind.value)


def test_every_kind_of_json_object_is_described() -> None:
    page = (REFERENCE / "json-output.md").read_text()
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == {*kinds_said(), "error"}


def spoken() -> str:
    """Return every text in the program's source, without what is filled in when it runs."""
    parts = []
    for path in sorted((ROOT / "mxrtc_bridge").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                parts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts.append("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))
    return "\n".join(parts)


def test_every_message_that_troubleshooting_explains_is_one_of_the_program() -> None:
    page = (ROOT / "docs" / "how-to" / "troubleshooting.md").read_text()
    quoted = re.findall(r"^### `(.+?)`", page, re.MULTILINE)
    assert len(quoted) > 20
    texts = spoken().replace("\0 mistake\0:", "1 mistake:")
    # An error is written as a clause, and gets its capital where it is shown.
    assert [each for each in quoted if each not in texts and each[0].lower() + each[1:] not in texts] == []


def test_every_test_that_the_threat_model_names_exists() -> None:
    page = (ROOT / "docs" / "explanation" / "threat-model.md").read_text()
    named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", page)
    assert len(named) > 30
    missing = [f"{path}::{name}" for path, name in named if not _has_test(ROOT / path, name)]
    assert missing == []


def _has_test(path: Path, name: str) -> bool:
    return path.exists() and f"def {name}(" in path.read_text()


BASE = """
version: 2
homeserver: {address: "http://127.0.0.1:8008", domain: example.test}
appservice: {hs_token: 0123456789abcdef0123, as_token: 123456789abcdef01234}
peers:
  demo: {services: {web: {target: "tcp:127.0.0.1:80"}}}
"""


def shown_settings() -> Iterator[object]:
    """Yield each block of YAML in the documentation that is a part of a configuration."""
    yaml = YAML(typ="safe", pure=True)
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for number, (pad, block) in enumerate(FENCE.findall(page.read_text())):
            data = yaml.load(re.sub(f"^{pad}", "", block, flags=re.MULTILINE))
            # Blocks of homeserver.yaml and of systemd have other keys.
            if isinstance(data, dict) and data.keys() <= Root.model_fields.keys():
                yield pytest.param(data, id=f"{page.relative_to(ROOT)} {number}")


@pytest.mark.parametrize("shown", list(shown_settings()))
def test_a_shown_part_of_a_configuration_is_accepted(shown: dict[str, Any], tmp_path: Path) -> None:
    secret = tmp_path / "turn-password"
    secret.touch(mode=0o600)
    secret.write_text("a password")
    merged = YAML(typ="safe", pure=True).load(BASE)
    for key, value in shown.items():
        merged[key] = {**merged.get(key, {}), **value} if isinstance(value, dict) else value
    out = io.StringIO()
    YAML(typ="safe", pure=True).dump(merged, out)
    try:
        parse_config(out.getvalue(), tmp_path / "config.yaml", environ={})
    except InvalidConfigError as error:
        pytest.fail(str(error))


def test_the_search_for_shown_settings_finds_them() -> None:
    assert len(list(shown_settings())) > 10
