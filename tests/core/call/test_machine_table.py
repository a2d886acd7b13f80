"""The tables of the call machine: total, closed, true to what they say, and the source of the page about them."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.call.events import CallMessage
from mxrtc_bridge.core.call.machine import TABLES
from mxrtc_bridge.core.call.values import LOCAL_KINDS, REMOTE_KINDS, CallRole, CallState, Kind, MemberLeft, Remote
from mxrtc_bridge.core.errors import StateError
from tests.core.call import states_page
from tests.core.call.messages import AT, SAMPLES, USER

CELLS = [(role, state, kind) for role in CallRole for state in TABLES[role] for kind in SAMPLES]


def test_the_tables_have_a_rule_for_every_kind_of_event_in_every_state() -> None:
    for role, states in TABLES.items():
        for state, row in states.items():
            assert set(row) == {*LOCAL_KINDS, *REMOTE_KINDS}, (role, state)
    assert {state for states in TABLES.values() for state in states} == set(CallState)


def test_every_state_but_the_first_can_be_reached_and_every_one_can_end() -> None:
    for states in TABLES.values():
        reached = {target for row in states.values() for rule in row.values() for target in rule.leads_to}
        assert reached == set(states) - {CallState.IDLE}
        for state in set(states) - {CallState.ENDED}:
            assert CallState.ENDED in states[state][MemberLeft].leads_to


@pytest.mark.parametrize(("role", "state", "kind"), CELLS)
def test_each_cell_of_the_table_does_what_it_says(role: CallRole, state: CallState, kind: Kind) -> None:
    """Refused and ignored events change nothing; all others lead where their rule says."""
    bench, rule = AT[role](state), TABLES[role][state][kind]
    before = (bench.machine.next_deadline(), bench.machine.remote_party)
    sample = SAMPLES[kind]
    event = Remote(USER, sample) if isinstance(sample, CallMessage) else sample
    if rule.refused:
        with pytest.raises(StateError, match=kind.__name__):
            bench.machine.handle(bench.now, event)
        effects = []
    else:
        effects = bench.feed(event)
    assert bench.state in (rule.leads_to or (state,))
    if rule.action is None:
        assert effects == []
        assert (bench.machine.next_deadline(), bench.machine.remote_party) == before


@pytest.mark.parametrize(("role", "state"), [(role, state) for role in CallRole for state in TABLES[role]])
def test_a_state_has_a_deadline_exactly_if_it_cannot_last(role: CallRole, state: CallState) -> None:
    lasting = {CallState.IDLE, CallState.CONNECTED, CallState.ENDED}
    bench = AT[role](state)
    assert (bench.machine.next_deadline() is None) == (state in lasting)
    early = (bench.machine.next_deadline() or bench.now + 10_000) - bench.now - 0.001
    assert bench.wait(early) == []
    assert bench.state is state


def test_the_page_in_the_documentation_is_made_from_the_table() -> None:
    assert states_page.PAGE.read_text() == states_page.render(), "run: python -m tests.core.call.states_page"
