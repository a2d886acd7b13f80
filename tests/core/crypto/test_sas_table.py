"""The table of a verification: total, and nothing that comes where it does not belong vouches for anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.crypto.sas import EXPECTED, Stage
from mxrtc_bridge.core.crypto.sas_events import EVENT_TYPES, TYPES, SasEvent
from mxrtc_bridge.core.crypto.sas_values import (
    Ask,
    Compared,
    GiveUp,
    Received,
    VerificationEnded,
    VerificationEvent,
    VerificationTick,
)
from tests.core.crypto.sas_ends import ALICE, ANOTHER, CONTENT, GOOD, PEER, PHONE, End, Pair, compared_end, make_end

DONE = VerificationEnded("", by_them=False)


def stages() -> dict[Stage, End]:
    """An end in each stage."""
    found: dict[Stage, End] = {}

    def keep(end: End) -> End:
        found[end.machine.stage] = end
        return end

    keep(make_end(ALICE, PHONE, PEER))
    asked = make_end(ALICE, PHONE, PEER)
    asked.feed(Ask(1))
    keep(asked)
    for steps in range(1, 7):
        pair = Pair()
        pair.feed(pair.a, Ask(1))
        for end in (pair.b, pair.a, pair.b, pair.a, pair.b, pair.a)[:steps]:
            pair.deliver(end)
        found.setdefault(pair.b.machine.stage, pair.b)
        found.setdefault(pair.a.machine.stage, pair.a)
    pair, content = compared_end()
    pair.feed(pair.a, Received("m.key.verification.mac", content))
    keep(pair.a)
    keep(pair.b)
    pair, content = compared_end()
    pair.feed(pair.a, Received("m.key.verification.mac", content))
    pair.feed(pair.a, Compared(same=True))
    keep(pair.a)
    ended = make_end(ALICE, PHONE, PEER)
    ended.feed(GiveUp())
    keep(ended)
    return found


def test_there_is_an_end_in_each_stage() -> None:
    assert set(stages()) == set(Stage) == set(EXPECTED)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("kind", TYPES)
def test_what_is_not_expected_in_a_stage_ends_it_and_vouches_for_nothing(stage: Stage, kind: type[SasEvent]) -> None:
    end = stages()[stage]
    vouched = len(end.vouched)
    end.sent.clear()
    name = kind.__name__.lower()
    content = {**GOOD[name], **ANOTHER.get(name, {})}
    if "from_device" in content and end.machine.device is not None:
        content["from_device"] = end.machine.device
    end.feed(Received(TYPES[kind], content))
    if stage is Stage.ENDED:
        assert end.sent == []
    elif stage is Stage.VERIFIED and kind not in EXPECTED[stage]:
        assert end.ended == [DONE], "what is verified cannot be taken back"
    elif kind not in EXPECTED[stage]:
        assert [each.code for each in end.ended] == ["m.unexpected_message"]
    else:
        assert "m.unexpected_message" not in [each.code for each in end.ended]
    assert len(end.vouched) == vouched


@pytest.mark.parametrize("stage", Stage)
def test_our_side_may_end_it_in_each_stage(stage: Stage) -> None:
    end = stages()[stage]
    end.ended.clear()
    end.feed(GiveUp())
    if stage is Stage.ENDED:
        assert end.ended == []
    else:
        assert [each.code for each in end.ended] == ["" if stage is Stage.VERIFIED else "m.user"]
    assert end.machine.stage is Stage.ENDED
    assert end.feed(GiveUp()) == []


@pytest.mark.parametrize("stage", Stage)
def test_comparing_counts_only_when_there_is_something_to_compare(stage: Stage) -> None:
    end = stages()[stage]
    vouched = len(end.vouched)
    end.sent.clear()
    end.feed(Compared(same=True))
    sent = [each.type for each in end.sent]
    if stage is Stage.COMPARING:
        assert (sent, len(end.vouched)) == (["m.key.verification.mac"], vouched)
    elif stage is Stage.THEY_AGREE:
        assert (sent, len(end.vouched)) == (["m.key.verification.mac", "m.key.verification.done"], vouched + 1)
    else:
        assert (sent, len(end.vouched)) == ([], vouched)


EVENT: st.SearchStrategy[VerificationEvent] = st.one_of(
    st.builds(Received, st.sampled_from(sorted(EVENT_TYPES)), CONTENT),
    st.just(Compared(same=True)),
    st.just(VerificationTick()),
    st.just(Ask(1)),
)


@given(st.sampled_from(sorted(set(Stage) - {Stage.VERIFIED}, key=lambda each: each.value)), st.lists(EVENT, max_size=8))
def test_whatever_comes_is_taken_or_ends_it_and_nothing_forged_is_vouched_for(
    stage: Stage, events: list[VerificationEvent]
) -> None:
    end = stages()[stage]
    for event in events:
        if stage is Stage.THEY_AGREE and isinstance(event, Compared):
            continue  # The other side's codes were right: that is no forgery.
        end.feed(event)
    assert end.vouched == []
    assert len(end.ended) <= 1
    assert (end.machine.stage is Stage.ENDED) == (len(end.ended) == 1)


@pytest.mark.parametrize("stage", Stage)
def test_there_is_a_deadline_until_the_end(stage: Stage) -> None:
    end = stages()[stage]
    assert (end.machine.next_deadline() is None) is (stage is Stage.ENDED)
    assert end.machine.poll_effect() is None
