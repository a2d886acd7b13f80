"""Makes ``docs/explanation/networks.md`` of the rows and of the times that one run of their tests has noted.

After ``make test-long LONG_TESTS=tests/nets``, ``python -m tests.nets.page`` takes the times over, for ``make docs``.
"""

from __future__ import annotations

import json
from pathlib import Path

from tests.nets.rows import ROWS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/explanation/networks.md"
MEASURED = Path(__file__).with_name("measured.json")
NOTES = ROOT / "build/networks"
"""Where tests note times: a file for each row."""

HEAD = """\
# On which networks it works

Each row is a network that users have had, built of routers and firewalls on one machine, with a real homeserver, TURN server, bridge and `mxrtc`, each in a network of its own.
Every row is tried by tests: those in bold whenever anything is changed, all of them with `make test-long LONG_TESTS=tests/nets`.

*Direct* means that packets pass between the two machines, *relayed* that they pass through the TURN server.
What you wait is the time from Enter to the end of `mxrtc ping build -c 1`, or of what stands there; of the same in several networks it is the longest.
The start of the program is part of it; the lines take no time unless the row says so, where yours add a few of their round trips.

"""  # noqa: E501 - one sentence a line
TAIL = """
What to do about each of them: [get through firewalls](../how-to/turn.md), and [find out what is wrong](../how-to/troubleshooting.md).
The times are those of a machine with two processors that had other things to do as well; `make test-long LONG_TESTS=tests/nets` shows yours.
"""  # noqa: E501


def take_over() -> None:
    """Keep the times that the tests have noted, for the page; rows that were not run keep theirs."""
    kept = json.loads(MEASURED.read_text()) if MEASURED.exists() else {}
    for path in sorted(NOTES.glob("*.json")):
        kept[path.stem] = json.loads(path.read_text())
    MEASURED.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")


def render() -> str:
    """Return the page."""
    measured = json.loads(MEASURED.read_text())
    lines = ["| | the network | what works | what you wait |", "|---|---|---|---|"]
    for row in ROWS:
        times = "; ".join(f"{what} {seconds:g} s" for what, seconds in measured.get(f"{row.number:02}", {}).items())
        number = f"**{row.number}**" if row.ordinary else row.number
        lines.append(f"| {number} | {row.network} | {row.works} | {times} |")
    return HEAD + "\n".join(lines) + "\n" + TAIL


if __name__ == "__main__":
    take_over()
