"""Counters of the bridge, as Prometheus text.

Never holds a user id, a room id, an address or any other text that somebody outside chose: every label has a fixed
set of values, and what is not in the set counts as ``other``. So the number of time series is known at the start.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector, generate_latest

from mxrtc_bridge import __version__
from mxrtc_bridge.core.call.values import CallOutcome
from mxrtc_bridge.core.errors import RefusalCode
from mxrtc_bridge.core.files.events import TransferOutcome
from mxrtc_bridge.core.stream.events import StreamOutcome

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


class _Counts(dict[str, Counter]):
    """A counter by the values of its label, which are few: looking one up in the library costs more than counting.

    Args:
        counter: of the library.
        known: the values that its label may have.
    """

    def __init__(self, counter: Counter, known: frozenset[str]) -> None:
        super().__init__()
        self._counter = counter
        self._known = known

    def __missing__(self, value: str) -> Counter:
        self[value] = self._counter.labels(value)
        return self[value]

    def count(self, value: str, amount: int = 1) -> None:
        """Count; a value that is not known counts as :data:`OTHER`."""
        if amount > 0:
            self[value if value in self._known else OTHER].inc(amount)


class Metrics:
    """All counters of one running bridge, in a registry of their own.

    Methods are cheap, never raise and never block, so any layer above may call them anywhere on the loop.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self.labels: dict[str, tuple[str, frozenset[str]]] = {}
        """Of each counter its label, and the values that this may have."""
        self._transactions = self._counter(
            "transactions", "Requests of the homeserver to take events.", "outcome", TRANSACTION_OUTCOMES
        )
        self._events = self._counter("events", "Room events by what became of them.", "outcome", EVENT_OUTCOMES)
        self._calls = self._counter("calls", "Calls by what became of them.", "outcome", CALL_OUTCOMES)
        self._streams = self._counter("streams", "Streams by what became of them.", "outcome", STREAM_OUTCOMES)
        self._transfers = self._counter(
            "transfers", "Transfers of files by what became of them.", "outcome", TRANSFER_OUTCOMES
        )
        self._bytes = self._counter("payload_bytes", "Payload bytes carried.", "direction", DIRECTIONS)
        self._refusals = self._counter(
            "refusals", "Requests of others that broke a rule or lacked a right.", "code", REFUSAL_CODES
        )
        self._pending = self._gauge("events_pending", "Stored events that wait to be handled.")
        self._sessions_live = self._gauge("sessions_live", "Peer connections that exist now.")
        self._streams_live = self._gauge("streams_live", "Streams and transfers of files that exist now.")
        about = Gauge("info", "Always 1.", ("version",), namespace="mxrtc", registry=self.registry)
        about.labels(__version__).set(1)
        ProcessCollector(registry=self.registry)

    def transaction(self, outcome: str) -> None:
        """Count one request of the homeserver; ``outcome`` from :data:`TRANSACTION_OUTCOMES`."""
        self._transactions.count(outcome)

    def events(self, outcome: str, count: int = 1) -> None:
        """Count events; ``outcome`` from :data:`EVENT_OUTCOMES`."""
        self._events.count(outcome, count)

    def events_pending(self, count: int) -> None:
        """Say how many stored events wait to be handled."""
        self._pending.set(count)

    def call(self, outcome: str) -> None:
        """Count one call; ``outcome`` from :data:`CALL_OUTCOMES`."""
        self._calls.count(outcome)

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
        self._bytes.count(direction, size)

    def refusal(self, code: RefusalCode) -> None:
        """Count a refusal by its code."""
        self._refusals.count(code.value)

    def render(self) -> bytes:
        """All values in the Prometheus text format, version 0.0.4."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, label: str, known: frozenset[str]) -> _Counts:
        self.labels[f"mxrtc_{name}"] = label, known
        return _Counts(Counter(name, text, (label,), namespace="mxrtc", registry=self.registry), known)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, namespace="mxrtc", registry=self.registry)
