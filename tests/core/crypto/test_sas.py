"""Verification by emoji: whom it vouches for, and everything that it must not vouch for."""

from __future__ import annotations

from typing import Any

import pytest

from mxrtc_bridge.core.crypto.sas import TIMEOUT_S, Stage
from mxrtc_bridge.core.crypto.sas_codes import EMOJI, ShortCode
from mxrtc_bridge.core.crypto.sas_events import TYPES, SasEvent
from mxrtc_bridge.core.crypto.sas_values import (
    Ask,
    Compared,
    Received,
    RemoteKeys,
    VerificationEnded,
    VerificationTick,
    VerifiedKeys,
)
from mxrtc_bridge.core.ids import DeviceId
from tests.core.crypto.sas_ends import (
    ALICE,
    BUILD,
    DEVICES,
    GOOD,
    LAPTOP,
    MASTERS,
    PEER,
    PHONE,
    REFERENCE,
    REQUEST,
    Pair,
    compared_end,
    key,
    make_end,
    start_of,
)

DONE = VerificationEnded("", by_them=False)


# What it is for


def test_both_show_the_same_and_vouch_for_device_and_identity_of_the_other() -> None:
    pair = Pair()
    pair.begin()
    assert pair.a.codes == pair.b.codes
    assert len(pair.a.codes) == 1
    assert (pair.a.vouched, pair.b.vouched) == ([], []), "nobody has compared anything yet"
    pair.agree()
    assert pair.a.vouched == [VerifiedKeys(BUILD, MASTERS[PEER])]
    assert pair.b.vouched == [VerifiedKeys(PHONE, MASTERS[ALICE])]
    assert (pair.a.ended, pair.b.ended) == ([DONE], [DONE])
    assert {pair.a.machine.stage, pair.b.machine.stage} == {Stage.ENDED}


def test_it_vouches_for_the_device_alone_where_the_other_side_vouches_for_no_identity() -> None:
    pair = Pair(a=make_end(ALICE, PHONE, PEER, identity=False))
    pair.begin()
    pair.agree()
    assert pair.b.vouched == [VerifiedKeys(PHONE, None)]
    assert pair.a.vouched == [VerifiedKeys(BUILD, MASTERS[PEER])]


def test_two_devices_of_one_user_verify_each_other_and_the_others_are_told() -> None:
    pair = Pair(a=make_end(ALICE, PHONE, ALICE), b=make_end(ALICE, LAPTOP, ALICE))
    pair.begin()
    assert pair.a.sent[0].devices == (LAPTOP,), "all but our own"
    pair.agree()
    assert pair.a.vouched == [VerifiedKeys(LAPTOP, MASTERS[ALICE])]
    assert pair.b.vouched == [VerifiedKeys(PHONE, MASTERS[ALICE])]


def test_the_first_device_that_is_ready_is_taken_and_the_others_are_cancelled() -> None:
    end = make_end(PEER, BUILD, ALICE)
    (request,) = end.feed(Ask(5))
    assert (set(request.devices), request.content["timestamp"]) == ({PHONE, LAPTOP}, 5)
    ready = {"from_device": LAPTOP, "methods": ["m.sas.v1", "m.qr_code.show.v1"], **REFERENCE}
    cancel, start = end.feed(Received("m.key.verification.ready", ready))
    assert (cancel.devices, cancel.content["code"]) == ((PHONE,), "m.accepted")
    assert (start.devices, start.type) == ((LAPTOP,), "m.key.verification.start")
    assert end.feed(Received("m.key.verification.ready", {**ready, "from_device": PHONE})) == []
    assert end.machine.stage is Stage.STARTED


def test_a_device_that_declines_ends_it_for_all() -> None:
    end = make_end(PEER, BUILD, ALICE)
    end.feed(Ask(5))
    (told,) = end.feed(Received("m.key.verification.cancel", {"code": "m.user", "reason": "no", **REFERENCE}))
    assert (set(told.devices), told.content["code"]) == ({PHONE, LAPTOP}, "m.user")
    assert end.ended == [VerificationEnded("m.user", by_them=True, reason="no")]


@pytest.mark.parametrize("first", ["a", "b"])
def test_either_person_may_be_the_first_to_agree(first: str) -> None:
    pair = Pair()
    pair.begin()
    ends = [pair.a, pair.b] if first == "a" else [pair.b, pair.a]
    for end in ends:
        pair.feed(end, Compared(same=True))
        pair.run()
    assert (len(pair.a.vouched), len(pair.b.vouched), pair.a.ended, pair.b.ended) == (1, 1, [DONE], [DONE])


@pytest.mark.parametrize("who", ["a", "b"])
def test_one_person_who_sees_a_difference_ends_it_for_both(who: str) -> None:
    pair = Pair()
    pair.begin()
    pair.feed(getattr(pair, who), Compared(same=False))
    pair.run()
    pair.agree()
    assert (pair.a.vouched, pair.b.vouched) == ([], [])
    assert {each.code for end in (pair.a, pair.b) for each in end.ended} == {"m.mismatched_sas"}


def test_both_may_start_at_once_and_the_start_of_the_smaller_one_counts() -> None:
    """Here each side has accepted the other's request, which the specification allows for two devices of one user."""
    pair = Pair(a=make_end(ALICE, LAPTOP, ALICE), b=make_end(ALICE, PHONE, ALICE))
    for end in (pair.a, pair.b):
        pair.feed(end, Ask(1))
        pair.wires[id(pair.other(end))].clear()
    for end, other in ((pair.a, PHONE), (pair.b, LAPTOP)):
        ready = {"from_device": other, "methods": ["m.sas.v1"], **REFERENCE}
        pair.feed(end, Received("m.key.verification.ready", ready))
    pair.run()
    assert pair.a.codes == pair.b.codes
    assert pair.b.machine.stage is Stage.COMPARING
    accepts = [end for end in (pair.a, pair.b) if any(sent.type.endswith(".accept") for sent in end.sent)]
    assert accepts == [pair.b]


def test_messages_in_a_room_refer_to_the_event_of_the_request() -> None:
    relation: dict[str, object] = {"m.relates_to": {"rel_type": "m.reference", "event_id": "$request"}}
    pair = Pair(make_end(ALICE, PHONE, PEER, reference=relation), make_end(PEER, BUILD, ALICE, reference=relation))
    pair.begin()
    pair.agree()
    assert (len(pair.a.vouched), len(pair.b.vouched)) == (1, 1)
    for sent in (*pair.a.sent, *pair.b.sent):
        assert sent.content["m.relates_to"] == relation["m.relates_to"]
        assert "transaction_id" not in sent.content


@pytest.mark.parametrize("kind", TYPES)
def test_a_message_that_is_nested_too_deeply_for_python_is_read_or_refused(kind: type[SasEvent]) -> None:
    nested: dict[str, Any] = {}
    for _ in range(5000):
        nested = {"a": nested}
    pair = Pair()
    pair.begin()
    pair.feed(pair.a, Received(TYPES[kind], {**GOOD[kind.__name__.lower()], "a": nested}))
    assert pair.a.vouched == []


def test_a_message_that_comes_twice_counts_once() -> None:
    pair = Pair()
    pair.feed(pair.a, Ask(1))
    while any(pair.wires.values()):
        for end in (pair.a, pair.b):
            if pair.wires[id(end)]:
                again = pair.wires[id(end)][0]
                pair.deliver(end)
                pair.feed(end, Received(again.type, again.content))
    pair.agree()
    assert (len(pair.a.vouched), len(pair.b.vouched), pair.a.cancelled, pair.b.cancelled) == (1, 1, None, None)


# Somebody in between


class Between:
    """Answers both sides with keys of its own: what a homeserver can do, as the messages come in plain text."""

    def __init__(self) -> None:
        self.a, self.b = make_end(ALICE, PHONE, PEER), make_end(PEER, BUILD, ALICE)
        self.to_a = make_end(PEER, BUILD, ALICE, secret=key("mallory 1"))
        self.to_b = make_end(ALICE, PHONE, PEER, secret=key("mallory 2"))
        for left, right, asks in ((self.a, self.to_a, self.a), (self.to_b, self.b, self.to_b)):
            pair = Pair(left, right)
            pair.feed(asks, Ask(1))
            pair.run()


def test_somebody_in_between_makes_the_two_sides_show_different_things() -> None:
    between = Between()
    assert between.a.codes != between.b.codes


def test_a_key_chosen_after_the_other_one_was_seen_is_refused() -> None:
    pair = Pair()
    pair.feed(pair.a, Ask(1))
    for end in (pair.b, pair.a, pair.b, pair.a, pair.b):
        pair.deliver(end)
    pair.wires[id(pair.a)].clear()
    pair.feed(pair.a, Received("m.key.verification.key", {"key": key("another"), **REFERENCE}))
    assert (pair.a.codes, pair.a.cancelled) == ([], "m.mismatched_commitment")


def test_a_start_that_was_changed_on_the_way_breaks_the_commitment() -> None:
    pair = Pair()
    pair.feed(pair.a, Ask(1))
    pair.deliver(pair.b)
    pair.deliver(pair.a)
    start = pair.wires[id(pair.b)].popleft()
    weaker = {**start.content, "short_authentication_string": ["decimal"]}
    pair.feed(pair.b, Received(start.type, weaker))
    pair.run()
    assert (pair.a.codes, pair.a.cancelled) == ([], "m.mismatched_commitment")


@pytest.mark.parametrize("what", ["device", "identity"])
def test_keys_that_are_not_those_that_the_homeserver_shows_are_refused(what: str) -> None:
    devices = {**DEVICES[PEER], BUILD: key("mallory")} if what == "device" else DEVICES[PEER]
    known = RemoteKeys(PEER, devices, MASTERS[PEER] if what == "device" else key("mallory"))
    pair = Pair(a=make_end(ALICE, PHONE, PEER, known=known))
    pair.begin()
    pair.agree()
    if what == "device":
        assert (pair.a.vouched, pair.a.cancelled) == ([], "m.key_mismatch")
    else:
        assert pair.a.vouched == [VerifiedKeys(BUILD, None)], "of an identity that is not shown nothing is known"


def test_a_device_with_the_name_of_an_identity_is_refused() -> None:
    """Else the code over the one could be taken for a code over the other."""
    name = DeviceId(MASTERS[PEER])
    known = RemoteKeys(PEER, {name: MASTERS[PEER]}, MASTERS[PEER])
    pair = Pair(b=make_end(PEER, name, ALICE, keys={}), a=make_end(ALICE, PHONE, PEER, known=known))
    pair.begin()
    pair.agree()
    assert (pair.a.vouched, pair.a.cancelled) == ([], "m.key_mismatch")


def test_an_identity_without_the_device_that_speaks_for_it_is_refused() -> None:
    pair = Pair(b=make_end(PEER, BUILD, ALICE, keys={}))
    pair.begin()
    pair.agree()
    assert (pair.a.vouched, pair.a.cancelled) == ([], "m.key_mismatch")


@pytest.mark.parametrize(
    "change",
    [
        lambda mac, keys: ({}, keys),
        lambda mac, keys: (mac, key("x")),
        lambda mac, keys: ({name: key("x") for name in mac}, keys),
        lambda mac, keys: ({name: code for name, code in mac.items() if name != f"ed25519:{BUILD}"}, keys),
        lambda mac, keys: ({**mac, "ed25519:OTHER": key("x")}, keys),
        lambda mac, keys: ({**mac, f"ed25519:{MASTERS[PEER]}": mac[f"ed25519:{BUILD}"]}, keys),
    ],
)
@pytest.mark.parametrize("agreed_before", [True, False])
def test_codes_that_are_wrong_vouch_for_nothing(change: Any, agreed_before: bool) -> None:
    pair, content = compared_end()
    if agreed_before:
        pair.feed(pair.a, Compared(same=True))
    mac, keys = change(content["mac"], content["keys"])
    pair.feed(pair.a, Received("m.key.verification.mac", {"mac": mac, "keys": keys, **REFERENCE}))
    pair.feed(pair.a, Compared(same=True))
    assert (pair.a.vouched, pair.a.cancelled) == ([], "m.key_mismatch")


def test_codes_of_the_other_side_alone_vouch_for_nothing() -> None:
    pair, content = compared_end()
    pair.feed(pair.a, Received("m.key.verification.mac", content))
    assert (pair.a.machine.stage, pair.a.vouched) == (Stage.THEY_AGREE, [])
    pair.feed(pair.a, Compared(same=True))
    assert len(pair.a.vouched) == 1


# What is refused


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"methods": []}, "m.unknown_method"),
        ({"methods": ["m.qr_code.scan.v1"]}, "m.unknown_method"),
        ({"from_device": "NOBODY"}, "m.invalid_message"),
        ({"from_device": None}, "m.invalid_message"),
        ({"methods": "m.sas.v1"}, "m.invalid_message"),
        ({"timestamp": -1}, "m.invalid_message"),
    ],
)
def test_a_request_that_cannot_be_met_is_cancelled(changes: dict[str, Any], code: str) -> None:
    end = make_end(PEER, BUILD, ALICE)
    end.feed(Received(REQUEST.type, {**REQUEST.content, **changes}))
    assert [each.code for each in end.ended] == [code]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"method": "m.reciprocate.v1"}, "m.unknown_method"),
        ({"key_agreement_protocols": ["curve25519"]}, "m.unknown_method"),
        ({"hashes": []}, "m.unknown_method"),
        ({"message_authentication_codes": ["hkdf-hmac-sha256"]}, "m.unknown_method"),
        ({"short_authentication_string": ["colours"]}, "m.unknown_method"),
        ({"from_device": LAPTOP}, "m.invalid_message"),
        ({"hashes": ["x"] * 33}, "m.invalid_message"),
        ({"padding": "x" * 9000}, "m.invalid_message"),
        ({"padding": 1.5}, "m.invalid_message"),
    ],
)
def test_a_start_that_we_do_not_know_is_cancelled(changes: dict[str, Any], code: str) -> None:
    end = make_end(PEER, BUILD, ALICE)
    end.feed(REQUEST)
    start = Pair().a.machine
    content = {**start_of(start), **changes}
    end.feed(Received("m.key.verification.start", content))
    assert (end.cancelled, end.codes) == (code, [])


@pytest.mark.parametrize(
    "changes",
    [
        {"key_agreement_protocol": "curve25519"},
        {"hash": "md5"},
        {"message_authentication_code": "hkdf-hmac-sha256"},
        {"short_authentication_string": []},
    ],
)
def test_an_answer_that_was_not_offered_is_cancelled(changes: dict[str, Any]) -> None:
    pair = Pair()
    pair.feed(pair.a, Ask(1))
    for end in (pair.b, pair.a, pair.b):
        pair.deliver(end)
    accept = pair.wires[id(pair.a)].popleft()
    pair.feed(pair.a, Received(accept.type, {**accept.content, **changes}))
    assert pair.a.cancelled == "m.unknown_method"


@pytest.mark.parametrize("bad", ["x", "=" * 43, key("no key")])
def test_a_key_that_is_none_is_refused(bad: str) -> None:
    pair = Pair()
    pair.feed(pair.a, Ask(1))
    for end in (pair.b, pair.a, pair.b):
        pair.deliver(end)
    pair.feed(pair.b, Received("m.key.verification.key", {"key": bad, **REFERENCE}))
    assert (pair.b.cancelled, pair.b.codes) == ("m.invalid_message", [])


# Time and endings


def test_it_ends_after_ten_minutes() -> None:
    pair = Pair()
    pair.begin()
    pair.feed(pair.a, VerificationTick(), TIMEOUT_S - 0.1)
    assert pair.a.ended == []
    pair.feed(pair.a, VerificationTick(), TIMEOUT_S)
    assert pair.a.cancelled == "m.timeout"
    pair.run()
    assert pair.b.ended == [VerificationEnded("m.timeout", by_them=True, reason="it took too long")]
    assert pair.a.feed(Compared(same=True)) == []


def test_what_is_verified_stays_so_when_the_last_word_does_not_come() -> None:
    pair, content = compared_end()
    pair.feed(pair.a, Received("m.key.verification.mac", content))
    pair.feed(pair.a, Compared(same=True))
    pair.feed(pair.a, VerificationTick(), TIMEOUT_S)
    assert (len(pair.a.vouched), pair.a.ended, pair.a.cancelled) == (1, [DONE], None)


def test_the_other_side_may_fail_after_ours_has_verified_it_and_that_is_said() -> None:
    pair, content = compared_end()
    pair.feed(pair.a, Received("m.key.verification.mac", content))
    pair.feed(pair.a, Compared(same=True))
    pair.feed(pair.a, Received("m.key.verification.cancel", {"code": "m.key_mismatch", "reason": "x", **REFERENCE}))
    assert pair.a.ended == [VerificationEnded("m.key_mismatch", by_them=True, reason="x")]


def test_codes_are_shown_with_names_and_numbers() -> None:
    code = ShortCode((0, 1, 2, 3, 4, 5, 63), (1000, 2000, 9191))
    assert code.names == ("Dog", "Cat", "Lion", "Horse", "Unicorn", "Pig", "Pin")
    assert str(code).endswith("📌 Pin   (1000 2000 9191)")
    assert (len(EMOJI), len({name for _, name in EMOJI}), len({symbol for symbol, _ in EMOJI})) == (64, 64, 64)
