"""Counters have bounded label sets, whatever they are told."""

from __future__ import annotations

import pytest

from mxrtc_bridge.metrics import REFUSALS, Metrics


def series(metrics: Metrics) -> dict[str, float]:
    """All samples but the creation times, as ``name{labels}``: value."""
    lines = metrics.render().decode("ascii").splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs if "_created" not in name}


def test_metrics_count_by_label() -> None:
    metrics = Metrics()
    metrics.transaction("accepted")
    metrics.events("stored", 3)
    metrics.events("stored")
    metrics.call("remote_hangup")
    metrics.stream("opened")
    metrics.payload("sent", 65536)
    metrics.refusal("denied")
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


@pytest.mark.parametrize("method", ["transaction", "events", "call", "stream", "refusal"])
def test_a_label_value_that_is_not_known_counts_as_other(method: str) -> None:
    """Text from outside never makes a time series."""
    metrics = Metrics()
    for number in range(1000):
        getattr(metrics, method)(f"@mallory{number}:evil.example")
    labelled = {name: value for name, value in series(metrics).items() if "{" in name}
    assert list(labelled.values()) == [1000]
    assert b"mallory" not in metrics.render()
    assert b'"other"' in metrics.render()


def test_refusal_codes_can_be_announced() -> None:
    metrics = Metrics(refusal_codes=["odd_moon"])
    metrics.refusal("odd_moon")
    metrics.refusal(min(REFUSALS))
    names = series(metrics)
    assert names['mxrtc_refusals_total{code="odd_moon"}'] == 1
    assert not any("other" in name for name in names)


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
