"""Which servers the access list of a room shuts out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.access.server_acl import ServerAcl

ALL = ["*"]


@pytest.mark.parametrize(
    ("content", "server", "out"),
    [
        ({"allow": ALL, "deny": ["evil.test"]}, "evil.test", True),
        ({"allow": ALL, "deny": ["evil.test"]}, "EVIL.test:8448", True),
        ({"allow": ALL, "deny": ["EVIL.test"]}, "evil.test.", True),
        ({"allow": ALL, "deny": ["*.evil.test"]}, "a.b.evil.test", True),
        ({"allow": ALL, "deny": ["*.evil.test"]}, "evil.test", False),
        ({"allow": ALL, "deny": ["evi?.test"]}, "evil.test", True),
        ({"allow": ALL}, "good.test", False),
        ({"allow": ["good.test"]}, "good.test:8449", False),
        ({"allow": ["good.test"]}, "other.test", True),
        ({}, "good.test", True),
        ({"deny": []}, "good.test", True),
        ({"allow": ALL, "allow_ip_literals": False}, "10.0.0.1:8448", True),
        ({"allow": ALL, "allow_ip_literals": False}, "[2001:db8::1]", True),
        ({"allow": ALL, "allow_ip_literals": True}, "10.0.0.1", False),
        ({"allow": ALL, "allow_ip_literals": "false"}, "10.0.0.1", False),
        ({"allow": ALL, "deny": "evil.test"}, "good.test", True),
        ({"allow": ALL, "deny": [None, "evil.test"]}, "good.test", True),
        ({"allow": ALL, "deny": ["*a" * 17]}, "good.test", True),
        ({"allow": [*ALL, 7]}, "good.test", False),
        ({"allow": "good.test"}, "good.test", True),
    ],
)
def test_server_is_shut_out(content: dict[str, object], server: str, out: bool) -> None:
    assert ServerAcl(content).shuts_out(server) is out


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(alphabet="ab*?.[]:", max_size=40),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
)


@given(st.fixed_dictionaries({}, optional={"allow": _json, "deny": _json, "allow_ip_literals": _json}), st.text())
def test_content_of_any_form_is_read(content: dict[str, object], server: str) -> None:
    assert ServerAcl(content).shuts_out(server) in (True, False)
    assert ServerAcl({**content, "deny": ALL}).shuts_out(server)
