"""What the numbers should be: ratios within one run, so that they mean something on any machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Goal:
    """One requirement."""

    what: str
    path: tuple[str, ...]
    """Where the number stands in the results."""
    at_least: float | None = None
    at_most: float | None = None

    def held_by(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @property
    def required(self) -> str:
        return f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"


_LINKS = ("50 ms", "50 ms, 0.1 % loss", "50 ms, 1 % loss")
_SLOW = "20 ms, 100 Mbit/s"

GOALS = (
    Goal("one channel, to libdatachannel", ("transport", "ours_to_libdatachannel"), at_least=1.2),
    Goal("one channel, to stock aiortc", ("transport", "ours_to_stock"), at_least=3),
    Goal("1 byte beside bulk, to idle, loopback", ("transport", "ping", "ours", "beside_to_idle"), at_most=2),
    Goal("whole pipe down, to libdatachannel's bare channel", ("pipe", "pipe_to_libdatachannel", "down"), at_least=0.8),
    Goal("whole pipe up, to libdatachannel's bare channel", ("pipe", "pipe_to_libdatachannel", "up"), at_least=0.8),
    *(Goal(f"{name}, to TCP bbr", ("links", name, "to_tcp_bbr"), at_least=0.5) for name in _LINKS),
    Goal(f"{_SLOW}, share of the link that is filled", ("links", _SLOW, "filled"), at_least=0.95),
    Goal(f"{_SLOW}, payload, to TCP bbr", ("links", _SLOW, "to_tcp_bbr"), at_least=0.93),
    Goal(f"{_SLOW}, ms added beside bulk", ("links", _SLOW, "ping_added_ms"), at_most=25),
    Goal("idle, files left open after close", ("idle", "files_left"), at_most=0),
    Goal("idle, tasks left after close", ("idle", "tasks_left"), at_most=0),
    Goal("idle, objects left after close", ("idle", "objects_left"), at_most=0),
    Goal("idle, KiB for each association", ("idle", "kib_each"), at_most=200),
    Goal("idle, percent of a core for each", ("idle", "cpu_percent_each"), at_most=0.02),
    Goal("idle, MiB more after as many again", ("idle", "mib_more_after_as_many_again"), at_most=14),
    Goal("large file, sent, to the plain pipe", ("files", "send_to_pipe"), at_least=0.9),
    Goal("large file, fetched, to the plain pipe", ("files", "get_to_pipe"), at_least=0.9),
    Goal("large file, MiB that the bridge grows", ("files", "memory_growth_mib", "bridge"), at_most=32),
    Goal("large file, MiB that the client grows", ("files", "memory_growth_mib", "client"), at_most=32),
    *(
        Goal(f"10,000 grants, us for a decision: {who}", ("people", "decision", who, "slowest_of_100_us"), at_most=1000)
        for who in ("allowed", "denied", "a stranger", "a call")
    ),
    Goal(
        "20,000 wildcards, us for an unknown user", ("people", "policy lists", "slowest unknown user, us"), at_most=1000
    ),
    Goal("20,000 wildcards, us for a change", ("people", "policy lists", "slowest change, us"), at_most=5000),
    Goal("set-up by devices, to that by a room", ("setup", "device_to_room"), at_most=1.5),
    Goal("set-up in an encrypted room, to that in a plain one", ("setup", "encrypted_to_plain"), at_most=2),
    Goal("50 idle peers with devices, percent of a core", ("peers", "on", "cpu_percent"), at_most=5),
    Goal("50 idle peers with devices, requests a minute", ("peers", "on", "requests_a_minute"), at_most=100),
    Goal("50 idle peers, announced, requests a minute", ("peers", "announced", "requests_a_minute"), at_most=25),
    Goal("1,000 sessions, us for a page of who", ("people", "who, a page", "slowest_of_100_us"), at_most=50_000),
    *(
        Goal(
            f"100,000 records, ms for a page of the log: {what}", ("people", "audit", "log page, ms", what), at_most=250
        )
        for what in ("the newest", "of a user", "of a peer")
    ),
    Goal("client installed, MB of files", ("installation", "client", "files, MB"), at_most=60),
    Goal("client, s of processor time to start a call", ("installation", "client", "start, s", "ping"), at_most=0.35),
    Goal("10,000 grants, us for a page of them", ("people", "grants, a page", "slowest_of_100_us"), at_most=50_000),
)


def judged(results: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """Yield each goal that this run has a number for, with the number and whether it holds."""
    for goal in GOALS:
        value: Any = results
        for key in goal.path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, int | float):
            yield {"what": goal.what, "value": value, "required": goal.required, "held": goal.held_by(value)}
