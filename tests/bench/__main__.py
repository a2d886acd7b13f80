"""Run the benchmark and print a table; the same numbers go to ``bench.json``.

``python -m tests.bench [pipe] [transport] [links] [idle] [files] [people] [peers] [setup] [rooms] [repeats] [scale]
[installation]``,
all by default.
Absolute numbers of a shared machine mean little; ratios within one run mean more, and :mod:`tests.bench.goals` says
what they should be.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop
from rich.console import Console
from rich.table import Table

from tests.bench.files import measure_files
from tests.bench.goals import judged
from tests.bench.idle import measure_idle
from tests.bench.installation import measure_installation
from tests.bench.links import measure_links
from tests.bench.peers import measure_peers
from tests.bench.people import measure_people
from tests.bench.pipe import measure_pipe
from tests.bench.repeats import measure_repeats
from tests.bench.rooms import measure_rooms
from tests.bench.scale import measure_scale
from tests.bench.setup import measure_setup
from tests.bench.transport import measure_transport

SECTIONS: dict[str, Callable[[Path], Awaitable[object]]] = {
    "pipe": measure_pipe,
    "transport": measure_transport,
    "links": measure_links,
    "idle": measure_idle,
    "files": measure_files,
    "people": measure_people,
    "peers": measure_peers,
    "setup": measure_setup,
    "rooms": measure_rooms,
    "repeats": measure_repeats,
    "scale": measure_scale,
    "installation": measure_installation,
}


def show(results: dict[str, object]) -> None:
    """Print all numbers as one table, nested names joined by spaces."""
    table = Table(title="mxrtc-bridge benchmark (one run, one machine: compare within the table)")
    table.add_column("what")
    table.add_column("value", justify="right")
    for name, value in _flat(results):
        table.add_row(name, f"{value:.2f}" if isinstance(value, float) else str(value))
    Console(width=110).print(table)


def show_goals(goals: list[dict[str, object]]) -> None:
    """Print what was required and what came of it."""
    table = Table(title="goals (ratios within this run)")
    for column in ("goal", "value", "required", ""):
        table.add_column(column)
    for goal in goals:
        verdict = "[green]held[/green]" if goal["held"] else "[red]missed[/red]"
        table.add_row(str(goal["what"]), f"{goal['value']:.2f}", str(goal["required"]), verdict)
    Console(width=110).print(table)


def _flat(value: object, name: str = "") -> list[tuple[str, object]]:
    if not isinstance(value, dict):
        return [(name, value)]
    return [row for key, inner in value.items() for row in _flat(inner, f"{name}: {key}" if name else str(key))]


async def main(wanted: list[str]) -> None:
    unknown = set(wanted) - set(SECTIONS)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there is {', '.join(SECTIONS)}")
    if not wanted and os.geteuid() != 0:
        print("the section links needs root (network namespaces) and is left out", file=sys.stderr)
        wanted = [name for name in SECTIONS if name != "links"]
    results: dict[str, object] = {"cores": os.cpu_count()}
    for name in wanted or SECTIONS:
        with tempfile.TemporaryDirectory(prefix="mxrtc-bench-") as folder:
            results[name] = await SECTIONS[name](Path(folder))
    show(results)
    results["goals"] = goals = list(judged(results))
    show_goals(goals)
    Path("bench.json").write_text(json.dumps(results, indent=1) + "\n")
    print("written: bench.json")


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1:]))
