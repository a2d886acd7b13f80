"""What an answer to ``/keys/query`` says about a user, and what says nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.key_answers import UserKeys, is_named_in, keys_in

ALICE = UserId("@alice:example.org")
DEVICES = {"PHONE": {"keys": {}}}


@pytest.mark.parametrize(
    ("answer", "devices"),
    [
        ({"device_keys": {ALICE: DEVICES}}, DEVICES),
        ({"device_keys": {ALICE: DEVICES}, "failures": {"example.org": {}}}, DEVICES),
        ({"device_keys": {ALICE: {}}, "failures": {"other.test": {}}}, {}),
        ({"device_keys": {ALICE: {}}}, {}),
        ({"device_keys": {}, "failures": {}}, {}),
        ({"device_keys": {}, "master_keys": {ALICE: {"keys": {}}}}, {}),
        ({"device_keys": {"@bob:example.org": DEVICES}}, {}),
    ],
)
def test_an_answer_tells_which_devices_there_are_or_that_there_are_none(
    answer: dict[str, Any], devices: dict[str, Any]
) -> None:
    found = keys_in(answer, ALICE)
    assert found is not None
    assert found.devices == devices


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"device_keys": None},
        {"device_keys": []},
        {"device_keys": {ALICE: None}},
        {"device_keys": {ALICE: "PHONE"}},
        {"device_keys": {ALICE: []}},
        {"device_keys": {}, "failures": {"example.org": {}}},
        {"device_keys": {}, "failures": {"EXAMPLE.org": {}}},
        {"device_keys": {ALICE: {}}, "failures": {"example.org": {}}},
        {"device_keys": {}, "failures": ["example.org"]},
        # Our homeserver has the identity in its memory, whether the user's server answers or not.
        {"device_keys": {}, "failures": {"example.org": {}}, "master_keys": {ALICE: {"keys": {}}}},
    ],
)
def test_no_answer_and_a_malformed_one_tell_nothing(answer: dict[str, Any]) -> None:
    assert keys_in(answer, ALICE) is None


def test_a_user_who_was_left_out_is_told_from_one_without_devices() -> None:
    assert is_named_in({"device_keys": {ALICE: {}}}, ALICE)
    assert not is_named_in({"device_keys": {}}, ALICE)
    assert not is_named_in({"device_keys": None}, ALICE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(
    st.dictionaries(
        st.sampled_from(["device_keys", "failures", "master_keys", "self_signing_keys"]),
        JSON | st.dictionaries(st.sampled_from([ALICE, "example.org"]), JSON, max_size=2),
    )
)
def test_any_answer_is_keys_or_nothing(answer: dict[str, Any]) -> None:
    found = keys_in(answer, ALICE)
    assert found is None or isinstance(found, UserKeys)
    assert found is None or len(found.digest()) == 32
