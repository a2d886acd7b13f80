"""Signatures, and keys that a hostile homeserver or user has written."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import vodozemac
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.crypto.records import Trust
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.cross_signing import identity_content
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys, derive
from mxrtc_bridge.matrix.crypto.signed_json import (
    MAX_DEVICES,
    identity_of,
    is_key,
    is_signed,
    is_signed_by_owner,
    parse_cross_signing,
    parse_device_keys,
    parse_devices,
    parse_one_time_key,
    unpadded,
    with_signature,
)
from tests.core.crypto.test_canonical_json import OBJECT

ALICE, MALLORY = UserId("@alice:example.org"), UserId("@mallory:example.org")
KEYS = IdentityKeys.derived(b"k" * 32, ALICE)
ACCOUNT = OwnAccount.new(ALICE, DeviceId("PHONE"), bytes(32))

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(OBJECT)
def test_signature_holds_for_this_value_user_and_key_only(value: dict[str, Any]) -> None:
    value = {key: item for key, item in value.items() if key not in ("signatures", "unsigned")}
    name, key = KEYS.master.public, KEYS.master.public
    signed = with_signature(value, ALICE, name, KEYS.master.sign)
    assert is_signed(signed, ALICE, name, key)
    assert is_signed({**signed, "unsigned": {"age": 1}}, ALICE, name, key), "unsigned is not signed"
    again = with_signature(signed, MALLORY, "x", KEYS.user_signing.sign)
    assert is_signed(again, ALICE, name, key), "another signature changes nothing"
    assert not is_signed({**signed, "more": 1}, ALICE, name, key)
    assert not is_signed(signed, MALLORY, name, key)
    assert not is_signed(signed, ALICE, name, KEYS.self_signing.public)


@given(ANYTHING)
def test_signatures_of_any_form_are_no_signatures(signatures: object) -> None:
    assert not is_signed({"signatures": signatures}, ALICE, "A", KEYS.master.public)
    assert not is_signed({"signatures": {ALICE: signatures}}, ALICE, "A", KEYS.master.public)
    assert not is_signed({"signatures": {ALICE: {"ed25519:A": signatures}}}, ALICE, "A", KEYS.master.public)


@given(st.binary(min_size=30, max_size=34))
def test_key_has_32_bytes_in_its_one_spelling(data: bytes) -> None:
    assert is_key(unpadded(data)) == (len(data) == 32)
    if len(data) == 32:
        text = unpadded(data)
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
        # The last character carries two bits that mean nothing: with them set it is another text for the same key.
        other = text[:-1] + alphabet[alphabet.index(text[-1]) | 1]
        assert not is_key(other)
        assert not is_key(text + "=")


# --- devices


def changes() -> list[tuple[str, Any]]:
    def change(name: str, value: object) -> tuple[str, Any]:
        return name, lambda keys: keys.update({name: value})

    return [
        change("user_id", MALLORY),
        change("device_id", "LAPTOP"),
        change("algorithms", ["m.olm.v1.curve25519-aes-sha2"]),
        change("algorithms", "all"),
        change("keys", []),
        change("keys", {"ed25519:PHONE": ACCOUNT.ed25519, "curve25519:PHONE": ACCOUNT.ed25519}),
        change("signatures", {}),
        change("padding", "x" * 9000),
    ]


def test_device_that_signs_itself_is_read() -> None:
    keys = parse_device_keys(ACCOUNT.device_keys(), ALICE, "PHONE")
    assert (keys.device, keys.ed25519, keys.curve25519) == ("PHONE", ACCOUNT.ed25519, ACCOUNT.curve25519)


@pytest.mark.parametrize(("name", "change"), changes())
def test_device_that_was_tampered_with_does_not_exist(name: str, change: Any) -> None:
    keys = copy.deepcopy(ACCOUNT.device_keys())
    change(keys)
    with pytest.raises(EventError):
        parse_device_keys(keys, ALICE, "PHONE")


@given(ANYTHING)
def test_any_device_keys_are_keys_or_an_error(value: object) -> None:
    with pytest.raises(EventError):
        parse_device_keys(value, ALICE)
    assert parse_devices({"PHONE": value}, ALICE) == ()
    assert parse_devices(value, ALICE) == ()
    assert parse_cross_signing(value, value, ALICE) is None
    device = identity_of(parse_device_keys(ACCOUNT.device_keys(), ALICE), Trust.UNSIGNED)
    assert parse_one_time_key(value, device) is None
    assert parse_one_time_key({"signed_curve25519:A": value}, device) is None


def test_devices_beyond_the_limit_are_left_out() -> None:
    many = {}
    for number in range(MAX_DEVICES + 3):
        account = OwnAccount.new(ALICE, DeviceId(f"D{number}"), bytes(32))
        many[f"D{number}"] = account.device_keys()
    assert len(parse_devices(many, ALICE)) == MAX_DEVICES


def test_one_time_key_counts_only_if_the_device_has_signed_it() -> None:
    device = identity_of(parse_device_keys(ACCOUNT.device_keys(), ALICE), Trust.UNSIGNED)
    key = vodozemac.Account().curve25519_key.to_base64()
    good = with_signature({"key": key}, ALICE, "PHONE", ACCOUNT.sign)
    assert parse_one_time_key({"signed_curve25519:A": good}, device) == key
    assert parse_one_time_key({"curve25519:A": key}, device) is None, "an unsigned key is nobody's"
    assert parse_one_time_key({"signed_curve25519:A": {**good, "fallback": True}}, device) is None
    other = with_signature({"key": key}, ALICE, "PHONE", KEYS.master.sign)
    assert parse_one_time_key({"signed_curve25519:A": other}, device) is None


# --- identities


def test_chain_from_the_master_key_to_the_device_holds() -> None:
    content = identity_content(ALICE, KEYS)
    identity = parse_cross_signing(content["master_key"], content["self_signing_key"], ALICE)
    assert identity is not None
    assert (identity.master, identity.self_signing) == (KEYS.master.public, KEYS.self_signing.public)
    name = KEYS.self_signing.public
    signed = parse_device_keys(with_signature(ACCOUNT.device_keys(), ALICE, name, KEYS.self_signing.sign), ALICE)
    assert is_signed_by_owner(signed, identity)
    assert not is_signed_by_owner(parse_device_keys(ACCOUNT.device_keys(), ALICE), identity)
    assert not is_signed_by_owner(signed, None)


def test_chain_with_a_foreign_link_does_not_hold() -> None:
    content, other = identity_content(ALICE, KEYS), identity_content(ALICE, IdentityKeys.derived(b"m" * 32, ALICE))
    of_mallory = identity_content(MALLORY, KEYS)
    chains = [
        (content["master_key"], other["self_signing_key"]),
        (other["master_key"], content["self_signing_key"]),
        (of_mallory["master_key"], content["self_signing_key"]),
        (content["master_key"], content["user_signing_key"]),
        (content["self_signing_key"], content["master_key"]),
        (content["master_key"], {**content["self_signing_key"], "signatures": {}}),
    ]
    assert [parse_cross_signing(*chain, ALICE) for chain in chains] == [None] * len(chains)


def test_secrets_are_the_same_for_the_same_key_and_differ_by_user_and_purpose() -> None:
    assert IdentityKeys.derived(b"k" * 32, ALICE).master.public == KEYS.master.public
    other = IdentityKeys.derived(b"k" * 32, MALLORY)
    keys = {each.public for keys in (KEYS, other) for each in (keys.master, keys.self_signing, keys.user_signing)}
    assert len(keys) == 6
    assert derive(b"k" * 32, "pickle") != derive(b"m" * 32, "pickle")
    assert "private" not in repr(KEYS).lower()
