"""Options of the command line as values."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.options import Forward, parse_forward


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("2222", Forward("127.0.0.1", 2222, None)),
        ("0", Forward("127.0.0.1", 0, None)),
        ("8080=web", Forward("127.0.0.1", 8080, "web")),
        ("localhost:65535=a.b", Forward("localhost", 65535, "a.b")),
        ("[::1]:80", Forward("::1", 80, None)),
        ("*:80", Forward("0.0.0.0", 80, None)),
    ],
)
def test_forward_is_read(text: str, forward: Forward) -> None:
    assert parse_forward(text) == forward


@pytest.mark.parametrize(
    "text",
    ["", "x", "65536", "1:2:3", "-1", "80=", "80=UP", "80=" + "x" * 64, "::1:80", "80 ", "\uff18\uff10", "a b:1"],
)
def test_forward_that_cannot_be_one_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(ClientError, match="-L") as caught:
        parse_forward(text)
    assert caught.value.code is Exit.USAGE


@given(st.text(max_size=40))
def test_any_text_is_a_forward_or_refused(text: str) -> None:
    try:
        forward = parse_forward(text)
    except ClientError:
        return
    assert 0 <= forward.port <= 65535


def test_nothing_but_a_star_listens_for_everybody() -> None:
    """A forward is open to the network only when it was typed so."""
    assert [parse_forward(text).host for text in ("80", "80=web", "127.0.0.1:80")] == ["127.0.0.1"] * 3
