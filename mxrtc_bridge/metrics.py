"""Counters of the bridge, as Prometheus text.

Never holds a user id, a room id, an address or any other text that somebody outside chose: every label has a fixed
set of values, and what is not in the set counts as ``other``. All time series are there from the start, at 0: one that
appears with its first count has no increase by it, and an alarm would miss the first.
"""

from __future__ import annotations

import itertools
import platform

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from mxrtc_bridge import __version__
from mxrtc_bridge.core.call.route import Signalling
from mxrtc_bridge.core.call.values import CallOutcome
from mxrtc_bridge.core.errors import RefusalCode
from mxrtc_bridge.core.files.events import TransferOutcome
from mxrtc_bridge.core.stream.events import StreamOutcome
from mxrtc_bridge.core.webrtc.ice import PathKind

OTHER = "other"

TRANSACTION_OUTCOMES = frozenset({"accepted", "unauthorized", "refused", "unavailable", "failed"})
"""``refused``: not a transaction at all; ``unavailable``: not ready or storage full, so it comes again."""
EVENT_OUTCOMES = frozenset({"stored", "duplicate", "ignored", "dropped", "handled", "set_aside", "timeout"})
"""``dropped``: its sender, server or room had too many waiting."""
CALL_OUTCOMES = frozenset(outcome.name.lower() for outcome in CallOutcome)
STREAM_OUTCOMES = frozenset({"opened", *(outcome.value for outcome in StreamOutcome)})
TRANSFER_OUTCOMES = frozenset({"opened", *(outcome.value for outcome in TransferOutcome)})
DIRECTIONS = frozenset({"sent", "received"})
"""As the bridge sees it: ``sent`` to the user, ``received`` from the user."""
REFUSAL_CODES = frozenset(code.value for code in RefusalCode)
PATHS = frozenset(kind.value for kind in PathKind)
SIGNALLING = frozenset(each.value for each in Signalling)
SETUP_BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0)
"""From two programs on one machine to the longest that a call may take to come up."""


class _Counts:
    """A counter by the values of its labels, which are few: looking one up in the library costs more than counting.

    Args:
        counter: of the library.
        known: the values that its first label may have besides :data:`OTHER`, and those of its other labels.
    """

    def __init__(self, counter: Counter, *known: frozenset[str]) -> None:
        first, *more = known
        self._series = {
            values: counter.labels(*values) for values in itertools.product(sorted({*first, OTHER}), *map(sorted, more))
        }

    def count(self, *values: str, amount: int = 1) -> None:
        """Count; a first value that is not known counts as :data:`OTHER`."""
        if amount > 0:
            series = self._series.get(values)
            (self._series[OTHER, *values[1:]] if series is None else series).inc(amount)


class Metrics:
    """All counters of one running bridge, in a registry of their own.

    Methods are cheap, never raise and never block, so any layer above may call them anywhere on the loop.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.labels: dict[str, dict[str, frozenset[str]]] = {}
        """Of each metric its labels, and the values that they may have."""
        self._transactions = self._counter(
            "transactions", "Requests of the homeserver to take events.", outcome=TRANSACTION_OUTCOMES
        )
        self._events = self._counter("events", "Room events by what became of them.", outcome=EVENT_OUTCOMES)
        self._calls = self._counter(
            "calls", "Calls by what became of them.", outcome=CALL_OUTCOMES, signalling=SIGNALLING
        )
        setup = Histogram(
            "setup_seconds",
            "From an invite until its connection was up.",
            tuple(self._labelled("setup_seconds", path=PATHS, signalling=SIGNALLING)),
            namespace="mxrtc",
            registry=self.registry,
            buckets=SETUP_BUCKETS_S,
        )
        self._setup = {
            (path, signalling): setup.labels(path.value, signalling.value)
            for path in PathKind
            for signalling in Signalling
        }
        self._streams = self._counter("streams", "Streams by what became of them.", outcome=STREAM_OUTCOMES)
        self._transfers = self._counter(
            "transfers", "Transfers of files by what became of them.", outcome=TRANSFER_OUTCOMES
        )
        self._bytes = self._counter("payload_bytes", "Payload bytes carried.", direction=DIRECTIONS)
        self._refusals = self._counter(
            "refusals", "Requests of others that broke a rule or lacked a right.", code=REFUSAL_CODES
        )
        self._ready = self._gauge("ready", "1 if the bridge has come up and takes calls.")
        self._reachable = self._gauge(
            "homeserver_reachable", "1 if the homeserver answers and reaches the bridge, as the last ping says."
        )
        self._pending = self._gauge("events_pending", "Stored events that wait to be handled.")
        self._sessions_live = self._gauge("sessions_live", "Peer connections that exist now.")
        self._streams_live = self._gauge("streams_live", "Streams and transfers of files that exist now.")
        about = Gauge("build_info", "Always 1.", ("version", "python"), namespace="mxrtc", registry=self.registry)
        about.labels(__version__, platform.python_version()).set(1)
        ProcessCollector(registry=self.registry)

    def transaction(self, outcome: str) -> None:
        """Count one request of the homeserver; ``outcome`` from :data:`TRANSACTION_OUTCOMES`."""
        self._transactions.count(outcome)

    def events(self, outcome: str, count: int = 1) -> None:
        """Count events; ``outcome`` from :data:`EVENT_OUTCOMES`."""
        self._events.count(outcome, amount=count)

    def events_pending(self, count: int) -> None:
        """Say how many stored events wait to be handled."""
        self._pending.set(count)

    def call(self, outcome: str, signalling: Signalling) -> None:
        """Count one call; ``outcome`` from :data:`CALL_OUTCOMES`."""
        self._calls.count(outcome, signalling.value)

    def session(self, path: PathKind, signalling: Signalling, setup_s: float) -> None:
        """Count one connection that is up, and how many seconds that has taken."""
        self._setup[path, signalling].observe(setup_s)

    def state(self, *, ready: bool, homeserver_reachable: bool) -> None:
        """Say how it is now."""
        self._ready.set(ready)
        self._reachable.set(homeserver_reachable)

    def sessions_live(self, count: int) -> None:
        """Say how many peer connections exist."""
        self._sessions_live.set(count)

    def stream(self, outcome: str) -> None:
        """Count one stream; ``outcome`` from :data:`STREAM_OUTCOMES`."""
        self._streams.count(outcome)

    def transfer(self, outcome: str) -> None:
        """Count one transfer of files; ``outcome`` from :data:`TRANSFER_OUTCOMES`."""
        self._transfers.count(outcome)

    def streams_live(self, change: int) -> None:
        """Say that there are so many streams and transfers more, or fewer; sessions come and go on their own."""
        self._streams_live.inc(change)

    def payload(self, direction: str, size: int) -> None:
        """Count ``size`` payload bytes; ``direction`` from :data:`DIRECTIONS`."""
        self._bytes.count(direction, amount=size)

    def refusal(self, code: RefusalCode) -> None:
        """Count a refusal by its code."""
        self._refusals.count(code.value)

    def render(self) -> bytes:
        """All values in the Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, **labels: frozenset[str]) -> _Counts:
        names = tuple(self._labelled(name, **labels))
        return _Counts(Counter(name, text, names, namespace="mxrtc", registry=self.registry), *labels.values())

    def _labelled(self, name: str, **labels: frozenset[str]) -> dict[str, frozenset[str]]:
        self.labels[f"mxrtc_{name}"] = labels
        return labels

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, namespace="mxrtc", registry=self.registry)
