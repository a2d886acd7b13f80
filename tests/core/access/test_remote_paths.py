"""Peers with paths, as typed: what is meant, and clear errors for everything else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.access.peer_names import NamingError
from mxrtc_bridge.core.access.remote_paths import RemotePath, parse_remote_name


def parse(text: str) -> RemotePath:
    return parse_remote_name(text, server="example.org")


@pytest.mark.parametrize(
    ("text", "peer", "service", "path"),
    [
        ("build", "@rtc_build:example.org", None, ""),
        ("build:", "@rtc_build:example.org", None, ""),
        ("build:docs/a b.txt", "@rtc_build:example.org", None, "docs/a b.txt"),
        ("build/share", "@rtc_build:example.org", "share", ""),
        ("build/share:docs/*.pdf", "@rtc_build:example.org", "share", "docs/*.pdf"),
        ("build/share:a:b@c/d", "@rtc_build:example.org", "share", "a:b@c/d"),
        ("build/share:docs/", "@rtc_build:example.org", "share", "docs"),
        ("build/share:./docs", "@rtc_build:example.org", "share", "docs"),
        ("build/share:a//b", "@rtc_build:example.org", "share", "a/b"),
        ("build/share:.", "@rtc_build:example.org", "share", ""),
        ("build@other.org", "@rtc_build:other.org", None, ""),
        ("build@other.org:8448", "@rtc_build:other.org:8448", None, ""),
        ("build@other.org:8448/share:x", "@rtc_build:other.org:8448", "share", "x"),
        ("@rtc_build:other.org", "@rtc_build:other.org", None, ""),
        ("@rtc_build:other.org:8448", "@rtc_build:other.org:8448", None, ""),
        ("@rtc_build:other.org/share:**/x", "@rtc_build:other.org", "share", "**/x"),
        ("@rtc_build:[::1]:8448/share:x", "@rtc_build:[::1]:8448", "share", "x"),
    ],
)
def test_what_is_meant(text: str, peer: str, service: str | None, path: str) -> None:
    found = parse(text)
    assert (found.name.peer, found.name.service, found.path) == (peer, service, path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not the name of a peer"),
        (":docs", "not the name of a peer"),
        ("Build:docs", "not the name of a peer"),
        ("build/:docs", "not the name of a service"),
        ("build/a/b:docs", "not the name of a service"),
        ("build/share:/etc/passwd", "begins with '/'"),
        ("build/share:/", "begins with '/'"),
        ("build/share:a/../../b", "cannot be one"),
        ("build/share:..", "cannot be one"),
        ("build/share:a\0b", "cannot be one"),
        ("build/share:a[b", "cannot be one"),
        ("build/share:\udcff", "not text in UTF-8"),
        ("build/share:" + "\u00e4" * 600, "1200 bytes"),
        ("build/share:" + "x" * 5000, "5012 characters"),
        ("build@other.org:docs/x", "not the name of a peer"),
        ("build@other.org:docs", "needs the service"),
        ("@rtc_build:other.org:docs", "needs the service"),
    ],
)
def test_what_cannot_be_meant_is_said(text: str, words: str) -> None:
    with pytest.raises(NamingError, match=words):
        parse(text)


@given(st.text(st.characters(), max_size=60) | st.text("@:/.*[]abz\0\x1b", max_size=30))
def test_any_text_is_a_name_or_an_error_that_can_be_shown(text: str) -> None:
    found = None
    try:
        found = parse(text)
    except NamingError as error:
        words = str(error)
    if found is None:
        assert words.isprintable()
    else:
        assert not found.path.startswith("/")
        assert ".." not in found.path.split("/")
