"""An authorization server is taken for what it says only where that can be trusted."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import LoginError
from mxrtc_bridge.core.login.server import (
    AUTHORIZATION_CODE,
    DEVICE_CODE,
    MAX_URL_CHARS,
    checked_address,
    is_loopback,
    is_on_loopback,
    read_authorization_server,
)
from tests.long import examples

AUTH = "https://auth.example.org"
METADATA: dict[str, object] = {
    "issuer": f"{AUTH}/",
    "token_endpoint": f"{AUTH}/token",
    "registration_endpoint": f"{AUTH}/register",
    "authorization_endpoint": f"{AUTH}/authorize",
    "device_authorization_endpoint": f"{AUTH}/device",
    "revocation_endpoint": f"{AUTH}/revoke",
    "grant_types_supported": [AUTHORIZATION_CODE, DEVICE_CODE, 7],
}


def test_metadata_is_read() -> None:
    server = read_authorization_server(METADATA, loopback=False)
    assert (server.issuer, server.token_endpoint) == (f"{AUTH}/", f"{AUTH}/token")
    assert (server.has_device_code, server.has_authorization_code) == (True, True)
    assert server.grants == {AUTHORIZATION_CODE, DEVICE_CODE}
    assert not server.names_itself


@pytest.mark.parametrize(("said", "names_itself"), [(True, True), (False, False), ("true", False), (1, False)])
def test_server_says_whether_it_names_itself(said: object, names_itself: bool) -> None:
    metadata = {**METADATA, "authorization_response_iss_parameter_supported": said}
    assert read_authorization_server(metadata, loopback=False).names_itself is names_itself


@pytest.mark.parametrize(
    ("without", "ways"),
    [
        ("device_authorization_endpoint", (False, True)),
        ("authorization_endpoint", (True, False)),
        ("grant_types_supported", (False, True)),
    ],
)
def test_what_is_not_said_is_not_offered(without: str, ways: tuple[bool, bool]) -> None:
    server = read_authorization_server({k: v for k, v in METADATA.items() if k != without}, loopback=False)
    assert (server.has_device_code, server.has_authorization_code) == ways


@pytest.mark.parametrize("needed", ["issuer", "token_endpoint", "registration_endpoint"])
def test_what_is_needed_must_be_there(needed: str) -> None:
    with pytest.raises(LoginError, match=f"the {needed} of the authorization server is no address"):
        read_authorization_server({k: v for k, v in METADATA.items() if k != needed}, loopback=False)


@pytest.mark.parametrize("key", [key for key in METADATA if key != "grant_types_supported"])
def test_each_address_must_be_one_by_tls(key: str) -> None:
    with pytest.raises(LoginError, match="does not begin with https://"):
        read_authorization_server({**METADATA, key: "http://auth.example.org/x"}, loopback=True)
    with pytest.raises(LoginError, match="does not begin with https://"):
        read_authorization_server({**METADATA, key: "http://127.0.0.1/x"}, loopback=False)
    read_authorization_server({**METADATA, key: "http://127.0.0.1/x"}, loopback=True)


@pytest.mark.parametrize(
    "value",
    [
        *(None, 1, "", "x", "https://", "https:///x", "https://me@auth.example.org/", "https://a/#b", "https://a:0/"),
        *("https://a:x/", "https://[::1/", "https://a\\b/", "https://a b/", "https://a/\n", "https://ä/"),
        *("javascript:alert(1)", "file:///etc/passwd", "https://a/" + "x" * MAX_URL_CHARS),
    ],
)
def test_what_is_no_address_is_refused(value: object) -> None:
    with pytest.raises(LoginError, match=r"^the place (is no address|does not begin with https://)"):
        checked_address(value, "place", loopback=True)


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("localhost.evil.test", False),
        ("10.0.0.1", False),
        ("example.org", False),
        ("", False),
        ("127.0.0.1.evil.test", False),
    ],
)
def test_this_machine_is_known_by_its_addresses_and_its_name(host: str, is_here: bool) -> None:
    assert is_loopback(host) is is_here


@pytest.mark.parametrize(
    ("address", "is_here"),
    [
        ("http://127.0.0.1:8008", True),
        ("http://[::1]:1/x", True),
        ("https://127.0.0.1", False),
        ("http://example.org", False),
        ("http://[", False),
        ("", False),
    ],
)
def test_homeserver_on_this_machine_has_no_tls(address: str, is_here: bool) -> None:
    assert is_on_loopback(address) is is_here


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=examples(100))
@given(st.dictionaries(st.sampled_from(sorted(METADATA)), JSON | st.just(f"{AUTH}/x")), st.booleans())
def test_whatever_is_said_is_read_or_refused(answer: dict[str, object], loopback: bool) -> None:
    try:
        server = read_authorization_server(answer, loopback=loopback)
    except LoginError:
        return
    assert server.token_endpoint.startswith("https://") or loopback
