"""The registration claims exactly the bridge's users, and says what the configuration says."""

from __future__ import annotations

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from mxrtc_bridge.config.registration import random_sender, random_token, render_registration
from tests.long import examples

from .samples import AS_TOKEN, GOOD, HS_TOKEN, changed, load


def registration(data: dict[str, Any]) -> dict[str, Any]:
    loaded: dict[str, Any] = YAML(typ="safe").load(render_registration(load(data), "mxrtcrandom"))
    return loaded


def claimed(data: dict[str, Any], user: str) -> bool:
    """As Synapse decides it: ``re.match``, which anchors only the beginning."""
    users = registration(data)["namespaces"]["users"]
    assert all(entry["exclusive"] for entry in users)
    return any(re.match(entry["regex"], user) for entry in users)


def test_registration_says_what_the_configuration_says() -> None:
    loaded = registration(GOOD)
    del loaded["namespaces"]
    assert loaded == {
        "id": "mxrtc",
        "url": "http://127.0.0.1:29350",
        "as_token": AS_TOKEN,
        "hs_token": HS_TOKEN,
        "sender_localpart": "mxrtcrandom",
        "rate_limited": False,
    }


def test_a_sender_in_the_configuration_stays() -> None:
    assert registration(changed("appservice", "sender_localpart", to="fixed0"))["sender_localpart"] == "fixed0"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("@rtcbot:example.org", True),
        ("@rtc_build:example.org", True),
        ("@rtc_a.b=c/d+e-f_g:example.org", True),
        ("@rtc_:example.org", False),
        ("@rtc_build:example.org.evil.test", False),
        ("@rtc_build:exampleXorg", False),
        ("@rtcbot2:example.org", False),
        ("@rtcXbuild:example.org", False),
        ("x@rtc_build:example.org", False),
        ("@alice:example.org", False),
    ],
)
def test_exactly_our_users_are_claimed(user: str, expected: bool) -> None:
    assert claimed(GOOD, user) is expected


def test_special_characters_of_names_are_escaped() -> None:
    data = changed("homeserver", "domain", to="[2001:db8::1]:8448")
    data["appservice"] |= {"bot": "a.b", "peer_prefix": "x."}
    assert claimed(data, "@a.b:[2001:db8::1]:8448")
    assert claimed(data, "@x.build:[2001:db8::1]:8448")
    assert not claimed(data, "@aXb:[2001:db8::1]:8448")
    assert not claimed(data, "@x.build:2:8448")


def test_random_values_differ_and_need_no_quoting() -> None:
    assert len({random_token() for _ in range(50)}) == 50
    assert len({random_sender() for _ in range(50)}) == 50
    assert re.fullmatch(r"[A-Za-z0-9_-]{64}", random_token())
    assert re.fullmatch(r"mxrtc[a-z0-9]{24}", random_sender())


def test_any_random_token_survives_yaml() -> None:
    for _ in range(examples(200)):
        token = random_token()
        assert registration(changed("appservice", "hs_token", to=token))["hs_token"] == token
