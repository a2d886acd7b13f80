"""The alert rules and the dashboard: they are right, and about metrics that there are.

Against a bridge that runs they are tried in tests/e2e/test_prometheus.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from mxrtc_bridge.metrics import Metrics

ROOT = Path(__file__).parent.parent
HOW_TO = ROOT / "docs/how-to"
RULES = HOW_TO / "mxrtc-bridge.rules.yml"
RULES_TEST = ROOT / "tests/mxrtc-bridge.rules-test.yml"
DASHBOARD = HOW_TO / "mxrtc-bridge.dashboard.json"
PAGE = HOW_TO / "monitoring.md"


def rules() -> list[dict[str, Any]]:
    ((group,)) = YAML(typ="safe").load(RULES)["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def queries() -> dict[str, str]:
    """What the panels of the dashboard ask, by their titles."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return {f"{panel['title']} {each['refId']}": each["expr"] for panel in panels for each in panel["targets"]}


def promtool(*args: str | Path) -> str:
    done = subprocess.run(["promtool", *args], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.real
def test_the_alerts_come_when_they_should_and_not_before(tmp_path: Path) -> None:
    for path in (RULES, RULES_TEST):
        shutil.copy(path, tmp_path)
    assert f"{len(rules())} rules found" in promtool("check", "rules", "--lint-fatal", tmp_path / RULES.name)
    promtool("test", "rules", tmp_path / RULES_TEST.name)


def test_each_alert_is_tried_at_a_time_with_it_and_at_one_without() -> None:
    tried = [each for test in YAML(typ="safe").load(RULES_TEST)["tests"] for each in test["alert_rule_test"]]
    with_it = {each["alertname"] for each in tried if each.get("exp_alerts")}
    without = {each["alertname"] for each in tried if not each.get("exp_alerts")}
    assert with_it == without == {rule["alert"] for rule in rules()}


def test_the_page_has_a_row_for_each_alert_with_the_time_after_which_it_comes() -> None:
    rows = dict(re.findall(r"^\| `(Mxrtc\w+)` \| ([^|]+?) \|", PAGE.read_text(), re.MULTILINE))
    times = {rule["alert"]: rule.get("for", "").replace("m", " minutes") or "at once" for rule in rules()}
    assert rows == times | {"MxrtcEventsStuck": "10 minutes"}  # which it looks back


def test_rules_and_dashboard_ask_for_what_there_is_and_for_all_of_it() -> None:
    metrics = Metrics()
    there = {line.split("{")[0].split(" ")[0] for line in metrics.render().decode().splitlines() if line[0] != "#"}
    shown = {name for query in queries().values() for name in re.findall(r"\b(?:mxrtc|process)_\w+", query)}
    watched = {name for rule in rules() for name in re.findall(r"\b(?:mxrtc|process)_\w+", rule["expr"])}
    assert shown | watched <= there
    parts = {"mxrtc_setup_seconds_sum"}  # an average hides what the quantiles show
    assert {name for name in there if name.startswith("mxrtc_") and not name.endswith("_created")} - shown == parts


def test_rules_and_dashboard_name_words_that_are_counted() -> None:
    words = {word for labels in Metrics().labels.values() for known in labels.values() for word in known}
    for query in (*queries().values(), *(rule["expr"] for rule in rules())):
        for values in re.findall(r'\b(?:outcome|code|direction|path|signalling)=~?"([^"]*)"', query):
            assert set(values.split("|")) <= words, query


def test_panels_do_not_lie_on_each_other_and_have_numbers_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = [
        (x, y)
        for at in (panel["gridPos"] for panel in panels)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(places) == len(set(places))
    assert all(0 <= x < 24 for x, _ in places)
