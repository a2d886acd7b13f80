"""Makes docs/reference/call-states.md from the tables of the call machine.

``python -m tests.core.call.states_page`` writes the page; a test compares it with what is checked in.
"""

from __future__ import annotations

from pathlib import Path

from mxrtc_bridge.core.call.events import EVENT_TYPES
from mxrtc_bridge.core.call.machine import TABLES, Rule
from mxrtc_bridge.core.call.values import LOCAL_KINDS, REMOTE_KINDS, CallOutcome, CallRole, CallState, Kind

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "call-states.md"

HEAD = """\
# Call states

<!-- Made from the tables in mxrtc_bridge/core/call/machine.py by `make docs`; do not edit. -->

Every call is in exactly one state, and every state has an answer to every event.
Names like `m.call.answer` are messages of the other side; names like `AnswerReady` come from our own side.
A message counts only if it is of this call, from the other user and, once a party is chosen, from that party.
All other messages are counted and dropped before these tables are asked.
`CallTick` means that the deadline of the state has come; a deadline that has come is dealt with before any other event.
An event listed under *ignored* changes nothing.
An event listed under *refused* would be a mistake of our own program: it raises an error and changes nothing.

| state | meaning |
|---|---|
"""


def name(kind: Kind) -> str:
    """The event type of a message, or the class name of a local event."""
    types = {message: event_type for event_type, message in EVENT_TYPES.items()}
    return f"`{types.get(kind, kind.__name__)}`"


def diagram(role: CallRole) -> list[str]:
    edges: dict[tuple[CallState, CallState], list[str]] = {}
    for state, row in TABLES[role].items():
        for kind, rule in row.items():
            for target in rule.leads_to:
                edges.setdefault((state, target), []).append(name(kind).strip("`"))
    drawn = [f"    {source.name} --> {target.name}: {', '.join(kinds)}" for (source, target), kinds in edges.items()]
    return ["```mermaid", "stateDiagram-v2", "    [*] --> IDLE", *drawn, "    ENDED --> [*]", "```"]


def state_table(role: CallRole, state: CallState) -> list[str]:
    row = TABLES[role][state]
    kinds = [kind for kind in (*LOCAL_KINDS, *REMOTE_KINDS) if row[kind].action is not None]
    out = [f"### {role.value}, {state.name}", ""]
    if kinds:
        out += ["| event | what is done | then |", "|---|---|---|"]
        out += [f"| {name(kind)} | {row[kind].says} | {after(row[kind], kind)} |" for kind in kinds]
        out.append("")
    silent: dict[str, list[str]] = {}
    for kind in (*LOCAL_KINDS, *REMOTE_KINDS):
        rule = row[kind]
        if rule.action is None:
            word = "refused" if rule.refused else "ignored"
            reason = "" if rule.refused else f" ({rule.says.removeprefix('ignored: ')})"
            silent.setdefault(f"*{word}*{reason}: ", []).append(name(kind))
    return [*out, *(f"- {word}{', '.join(kinds)}" for word, kinds in silent.items()), ""]


def after(rule: Rule, kind: Kind) -> str:
    states = " or ".join(state.name for state in rule.leads_to)
    if name(kind) == "`m.call.select_answer`":
        return f"unchanged or {states}"
    return states or "unchanged"


def render() -> str:
    out = [HEAD + "\n".join(f"| {state.name} | {state.value} |" for state in CallState), ""]
    out += ["| outcome | meaning |", "|---|---|"]
    out += [f"| {outcome.name} | {outcome.value} |" for outcome in CallOutcome]
    for role in CallRole:
        out += ["", f"## The {role.value}", "", *diagram(role), ""]
        for state in TABLES[role]:
            out += state_table(role, state)
    return "\n".join(out).rstrip() + "\n"


if __name__ == "__main__":
    PAGE.write_text(render())
