"""Counters have bounded label sets, whatever they are told."""

from __future__ import annotations

import ast
import re
import time
from pathlib import Path

import pytest

from mxrtc_bridge import __version__
from mxrtc_bridge import metrics as metrics_module
from mxrtc_bridge.core.errors import RefusalCode
from mxrtc_bridge.metrics import Metrics


def series(metrics: Metrics) -> dict[str, float]:
    """All that is counted, as ``name{labels}``: value; without creation times, and what every process has."""
    lines = metrics.render().decode("ascii").splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs if not re.search("_created|^process_|^mxrtc_info", name)}


def test_metrics_tell_the_version_the_start_and_what_the_process_needs() -> None:
    lines = Metrics().render().decode("ascii").splitlines()
    assert f'mxrtc_info{{version="{__version__}"}} 1.0' in lines
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("process_"))
    assert 0 < time.time() - float(values["process_start_time_seconds"]) < 86400
    assert float(values["process_resident_memory_bytes"]) > 2**20
    assert float(values["process_open_fds"]) > 2


def test_metrics_count_by_label() -> None:
    metrics = Metrics()
    metrics.transaction("accepted")
    metrics.events("stored", 3)
    metrics.events("stored")
    metrics.call("remote_hangup")
    metrics.stream("opened")
    metrics.payload("sent", 65536)
    metrics.refusal(RefusalCode.DENIED)
    metrics.sessions_live(2)
    metrics.streams_live(5)
    metrics.events_pending(7)
    assert series(metrics) == {
        'mxrtc_transactions_total{outcome="accepted"}': 1,
        'mxrtc_events_total{outcome="stored"}': 4,
        'mxrtc_calls_total{outcome="remote_hangup"}': 1,
        'mxrtc_streams_total{outcome="opened"}': 1,
        'mxrtc_payload_bytes_total{direction="sent"}': 65536,
        'mxrtc_refusals_total{code="denied"}': 1,
        "mxrtc_sessions_live": 2,
        "mxrtc_streams_live": 5,
        "mxrtc_events_pending": 7,
    }


@pytest.mark.parametrize("method", ["transaction", "events", "call", "stream"])
def test_a_label_value_that_is_not_known_counts_as_other(method: str) -> None:
    """Text from outside never makes a time series."""
    metrics = Metrics()
    for number in range(1000):
        getattr(metrics, method)(f"@mallory{number}:evil.example")
    labelled = {name: value for name, value in series(metrics).items() if "{" in name}
    assert list(labelled.values()) == [1000]
    assert b"mallory" not in metrics.render()
    assert b'"other"' in metrics.render()


@pytest.mark.parametrize("code", RefusalCode)
def test_a_refusal_counts_under_its_own_name(code: RefusalCode) -> None:
    metrics = Metrics()
    metrics.refusal(code)
    labelled = {name: value for name, value in series(metrics).items() if "{" in name}
    assert labelled == {f'mxrtc_refusals_total{{code="{code.value}"}}': 1}


def literals(method: str) -> set[str]:
    """The words that the program gives to a counter's method."""
    found = set()
    for path in (Path(metrics_module.__file__).parent).rglob("*.py"):
        source = path.read_text()
        if f".{method}(" not in source:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == method:
                owner = ast.unparse(node.func.value)
                if owner.endswith(("_counters", "_metrics", "metrics")):
                    found |= {
                        each.value
                        for each in ast.walk(node.args[0])
                        if isinstance(each, ast.Constant) and isinstance(each.value, str)
                    }
    return found


@pytest.mark.parametrize(
    ("method", "known"),
    [
        ("transaction", metrics_module.TRANSACTION_OUTCOMES),
        ("events", metrics_module.EVENT_OUTCOMES),
        ("stream", metrics_module.STREAM_OUTCOMES),
        ("transfer", metrics_module.TRANSFER_OUTCOMES),
        ("payload", metrics_module.DIRECTIONS),
    ],
)
def test_no_word_of_ours_counts_as_other(method: str, known: frozenset[str]) -> None:
    used = literals(method)
    assert used, f"nobody counts {method} in so many words"
    assert used <= known


def test_nobody_gives_a_refusal_a_word_of_its_own() -> None:
    assert literals("refusal") == set()


@pytest.mark.parametrize("size", [0, -1])
def test_a_count_of_nothing_changes_nothing(size: int) -> None:
    """A counter never falls, and a zero makes no series."""
    metrics = Metrics()
    metrics.payload("received", size)
    assert not any("payload" in name for name in series(metrics))


def test_two_bridges_in_one_process_do_not_share_counters() -> None:
    first, second = Metrics(), Metrics()
    first.call("failed")
    assert any("calls" in name for name in series(first))
    assert not any("calls" in name for name in series(second))
