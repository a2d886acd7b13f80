"""How much of each module the tests run, and the least that they have to: ``make test`` compares at its end.

What counts is the share of lines and branches together that the measured tests have run, from all processes that have
written to ``build/coverage``. ``coverage_floors.toml`` has a floor for each module. Floors only rise: `make
coverage-floors` lifts them to two points below what was measured last, and lowers none. The two points are there
because some branches depend on time, on chance or on the machine.

A module under 85 % has a reason beside its floor. One without a floor is new and has to reach 85 %.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
FILE = Path(__file__).with_suffix(".toml")
WANTED = 85
SLACK = 2
"""In points: how much less than the last time may be run by chance."""


@dataclass(frozen=True)
class Floor:
    """The least share of a module that is run, in percent."""

    percent: int
    why: str = ""
    """Why it is below what is wanted, where it is."""


def read(file: Path = FILE) -> dict[str, Floor]:
    """Return the floors by the module's path in the package."""
    table = tomllib.loads(file.read_text())
    return {name: Floor(percent, table["reasons"].get(name, "")) for name, percent in table["floors"].items()}


def measure() -> dict[str, float]:
    """Combine what all processes have written, and return the percentages by the module's path."""
    from coverage import Coverage

    report = ROOT / "build/coverage/report.json"
    if not list(report.parent.glob("data.*")):
        raise SystemExit("nothing was measured: run 'make test' first")
    with contextlib.chdir(ROOT):
        measured = Coverage()
        measured.combine(keep=True)
        measured.json_report(outfile=str(report), ignore_errors=True)
    files = json.loads(report.read_text())["files"].items()
    shares = {name.removeprefix("mxrtc_bridge/"): file["summary"] for name, file in files}
    return {name: share["percent_covered"] for name, share in shares.items() if share["num_statements"]}


def complaints(measured: dict[str, float], floors: dict[str, Floor]) -> Iterable[str]:
    """Say which modules are below their floors, and what to do about it."""
    for name, percent in measured.items():
        floor = floors.get(name, Floor(WANTED))
        if percent < floor.percent:
            kind = "its floor is" if name in floors else "it is new, and has to reach"
            yield (
                f"{name}: the tests run {percent:.1f} % of it, {kind} {floor.percent} %. Test what they leave out: "
                f".venv/bin/coverage report --show-missing --include=mxrtc_bridge/{name}"
            )
    for name in floors.keys() - measured.keys():
        yield f"{name}: there is no such module any more; 'make coverage-floors' takes it out of {FILE.name}"


def risen(measured: dict[str, float], floors: dict[str, Floor]) -> dict[str, Floor]:
    """Return the floors, lifted to what was measured without the slack."""
    found = {}
    for name, percent in measured.items():
        old = floors.get(name, Floor(0))
        lifted = max(old.percent, int(percent) - SLACK)
        found[name] = Floor(lifted, old.why if lifted < WANTED else "")
    return found


def write(floors: dict[str, Floor], file: Path = FILE) -> None:
    """Write them; a comment at the head stays."""
    head = file.read_text().partition("[floors]")[0]
    lines = [f'"{name}" = {floor.percent}' for name, floor in sorted(floors.items())]
    reasons = [f'"{name}" = "{floor.why}"' for name, floor in sorted(floors.items()) if floor.percent < WANTED]
    file.write_text(head + "\n".join(["[floors]", *lines, "", "[reasons]", *reasons, ""]))


def main() -> int:
    """Compare, or with ``--raise`` lift the floors first; returns the exit code."""
    measured, floors = measure(), read()
    if "--raise" in sys.argv:
        floors = risen(measured, floors)
        write(floors)
    said = list(complaints(measured, floors))
    for line in said:
        print(line, file=sys.stderr)
    total = sum(measured.values()) / len(measured)
    print(f"coverage: {total:.1f} % of a module on average, {len(said)} of {len(measured)} modules below their floors")
    return bool(said)


if __name__ == "__main__":
    sys.exit(main())
