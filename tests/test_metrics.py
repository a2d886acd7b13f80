"""Counters have bounded label sets, whatever they are told."""

from __future__ import annotations

import ast
import platform
import re
import time
from pathlib import Path

import pytest

from mxrtc_bridge import __version__
from mxrtc_bridge import metrics as metrics_module
from mxrtc_bridge.core.call.route import Signalling
from mxrtc_bridge.core.errors import RefusalCode
from mxrtc_bridge.core.webrtc.ice import PathKind
from mxrtc_bridge.metrics import Metrics

KNOWN = [
    ("transaction", metrics_module.TRANSACTION_OUTCOMES),
    ("events", metrics_module.EVENT_OUTCOMES),
    ("stream", metrics_module.STREAM_OUTCOMES),
    ("transfer", metrics_module.TRANSFER_OUTCOMES),
    ("payload", metrics_module.DIRECTIONS),
]


def counted(metrics: Metrics) -> dict[str, float]:
    """What is not 0 of :func:`series`."""
    return {name: value for name, value in series(metrics).items() if value}


def series(metrics: Metrics) -> dict[str, float]:
    """All time series, as ``name{labels}``: value; without creation times, and what every process has."""
    lines = metrics.render().decode("ascii").splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs if not re.search("_created|^process_|^mxrtc_build_info", name)}


def test_metrics_tell_the_version_the_start_and_what_the_process_needs() -> None:
    lines = Metrics().render().decode("ascii").splitlines()
    assert f'mxrtc_build_info{{python="{platform.python_version()}",version="{__version__}"}} 1.0' in lines
    values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("process_"))
    assert 0 < time.time() - float(values["process_start_time_seconds"]) < 86400
    assert float(values["process_resident_memory_bytes"]) > 2**20
    assert float(values["process_open_fds"]) > 2


def test_metrics_count_by_label() -> None:
    metrics = Metrics()
    metrics.transaction("accepted")
    metrics.events("stored", 3)
    metrics.events("stored")
    metrics.call("remote_hangup", Signalling.DEVICE)
    metrics.stream("opened")
    metrics.payload("sent", 65536)
    metrics.refusal(RefusalCode.DENIED)
    metrics.sessions_live(2)
    metrics.streams_live(5)
    metrics.events_pending(7)
    metrics.state(ready=True, homeserver_reachable=True)
    assert counted(metrics) == {
        'mxrtc_transactions_total{outcome="accepted"}': 1,
        'mxrtc_events_total{outcome="stored"}': 4,
        'mxrtc_calls_total{outcome="remote_hangup",signalling="device"}': 1,
        'mxrtc_streams_total{outcome="opened"}': 1,
        'mxrtc_payload_bytes_total{direction="sent"}': 65536,
        'mxrtc_refusals_total{code="denied"}': 1,
        "mxrtc_ready": 1,
        "mxrtc_homeserver_reachable": 1,
        "mxrtc_sessions_live": 2,
        "mxrtc_streams_live": 5,
        "mxrtc_events_pending": 7,
    }


def test_a_connection_that_is_up_counts_by_its_path_its_signalling_and_the_time_it_took() -> None:
    metrics = Metrics()
    metrics.session(PathKind.RELAYED, Signalling.ROOM, 0.75)
    metrics.session(PathKind.RELAYED, Signalling.ROOM, 31.0)
    labels = 'path="relayed",signalling="room"'
    found = counted(metrics)
    assert found.pop(f"mxrtc_setup_seconds_sum{{{labels}}}") == 31.75
    assert found.pop(f"mxrtc_setup_seconds_count{{{labels}}}") == 2
    below = {name.partition('le="')[2].partition('"')[0]: value for name, value in found.items()}
    assert below == {**dict.fromkeys(("1.0", "2.0", "3.0", "5.0", "8.0", "13.0", "20.0", "30.0"), 1), "+Inf": 2}


def test_all_time_series_are_there_from_the_start() -> None:
    """What appears with its first count has no increase by it."""
    metrics = Metrics()
    before = series(metrics)
    assert not any(before.values())
    for outcome in (*metrics_module.CALL_OUTCOMES, "what nobody knows"):
        for signalling in Signalling:
            metrics.call(outcome, signalling)
    for path in PathKind:
        for signalling in Signalling:
            metrics.session(path, signalling, 1.0)
    for method, known in KNOWN:
        for word in (*known, "what nobody knows"):
            getattr(metrics, method)(word, *([1] if method == "payload" else []))
    for code in RefusalCode:
        metrics.refusal(code)
    assert series(metrics).keys() == before.keys()
    assert [name for name, value in series(metrics).items() if not value and "setup" not in name] == [
        'mxrtc_refusals_total{code="other"}',
        "mxrtc_ready",
        "mxrtc_homeserver_reachable",
        "mxrtc_events_pending",
        "mxrtc_sessions_live",
        "mxrtc_streams_live",
    ]


@pytest.mark.parametrize("method", ["transaction", "events", "call", "stream"])
def test_a_label_value_that_is_not_known_counts_as_other(method: str) -> None:
    """Text from outside never makes a time series."""
    metrics = Metrics()
    for number in range(1000):
        getattr(metrics, method)(f"@mallory{number}:evil.example", *([Signalling.ROOM] if method == "call" else []))
    labelled = {name: value for name, value in counted(metrics).items() if "{" in name}
    assert list(labelled.values()) == [1000]
    assert b"mallory" not in metrics.render()
    assert b'"other"' in metrics.render()


@pytest.mark.parametrize("code", RefusalCode)
def test_a_refusal_counts_under_its_own_name(code: RefusalCode) -> None:
    metrics = Metrics()
    metrics.refusal(code)
    labelled = {name: value for name, value in counted(metrics).items() if "{" in name}
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


@pytest.mark.parametrize(("method", "known"), KNOWN)
def test_no_word_of_ours_counts_as_other(method: str, known: frozenset[str]) -> None:
    used = literals(method)
    assert used, f"nobody counts {method} in so many words"
    assert used <= known


def test_nobody_gives_a_refusal_a_word_of_its_own() -> None:
    assert literals("refusal") == set()


@pytest.mark.parametrize("size", [0, -1])
def test_a_count_of_nothing_changes_nothing(size: int) -> None:
    """A counter never falls."""
    metrics = Metrics()
    metrics.payload("received", size)
    assert counted(metrics) == {}


def test_two_bridges_in_one_process_do_not_share_counters() -> None:
    first, second = Metrics(), Metrics()
    first.call("failed", Signalling.ROOM)
    assert any("calls" in name for name in counted(first))
    assert counted(second) == {}
