"""Which proxy is used is decided as people know it from curl and git."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.config.proxies import MAX_CHARS, Proxy, ProxyChoice, choose_proxy, parse_proxy
from mxrtc_bridge.core.errors import ConfigError
from tests.long import examples

HS = "https://matrix.example.org:8448/x"
A, B = Proxy("http", "a", 1), Proxy("socks5", "b", 1080)


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("http://proxy.test:3128", Proxy("http", "proxy.test", 3128)),
        ("proxy.test:3128", Proxy("http", "proxy.test", 3128)),
        ("https://proxy.test/", Proxy("https", "proxy.test", 443)),
        ("socks5://127.0.0.1", Proxy("socks5", "127.0.0.1", 1080)),
        ("socks5h://[::1]:9", Proxy("socks5", "::1", 9)),
        ("socks4a://x:1", Proxy("socks4", "x", 1)),
        ("http://me:p%40ss@proxy.test:1", Proxy("http", "proxy.test", 1, "me", "p@ss")),
    ],
)
def test_address_of_a_proxy_is_read(text: str, proxy: Proxy) -> None:
    assert parse_proxy(text) == proxy


def test_password_is_shown_nowhere() -> None:
    proxy = parse_proxy("socks5://me:secret@[::1]:9")
    assert "secret" not in f"{proxy} {proxy!r} {ProxyChoice(proxy, 'x')!r}"
    assert str(proxy) == "socks5://[::1]:9"
    with pytest.raises(ConfigError) as caught:
        choose_proxy(HS, {"HTTPS_PROXY": "ftp://me:secret@x"})
    assert "secret" not in str(caught.value)
    assert str(caught.value).startswith("HTTPS_PROXY: ")


@pytest.mark.parametrize(
    "text",
    [
        *("", "http://", "ftp://x", "http://x:0", "http://x:y", "http://x/path", "http://x?q", "http://[", "a b"),
        *("http://ä", "x\n", "http://" + "x" * MAX_CHARS),
    ],
)
def test_what_is_no_proxy_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no address of a proxy; write it like"):
        parse_proxy(text)


@pytest.mark.parametrize(
    ("environment", "configured", "choice"),
    [
        ({}, "", ProxyChoice(None)),
        ({"HTTPS_PROXY": "a:1"}, "", ProxyChoice(A, "HTTPS_PROXY")),
        ({"https_proxy": "a:1", "HTTPS_PROXY": "x:1"}, "", ProxyChoice(A, "https_proxy")),
        ({"ALL_PROXY": "socks5://b"}, "", ProxyChoice(B, "ALL_PROXY")),
        ({"ALL_PROXY": "socks5://b", "HTTPS_PROXY": "a:1"}, "", ProxyChoice(A, "HTTPS_PROXY")),
        ({"HTTP_PROXY": "a:1"}, "", ProxyChoice(None)),
        ({"HTTPS_PROXY": ""}, "", ProxyChoice(None)),
        ({"MXRTC_PROXY": "socks5://b", "HTTPS_PROXY": "a:1"}, "", ProxyChoice(B, "MXRTC_PROXY")),
        ({"MXRTC_PROXY": "none", "HTTPS_PROXY": "a:1"}, "", ProxyChoice(None, "MXRTC_PROXY")),
        ({"MXRTC_PROXY": "none", "HTTPS_PROXY": "x:1"}, "a:1", ProxyChoice(A, "homeserver.proxy")),
        ({"HTTPS_PROXY": "a:1"}, "none", ProxyChoice(None, "homeserver.proxy")),
        ({"HTTPS_PROXY": "a:1", "NO_PROXY": "*"}, "", ProxyChoice(None, "NO_PROXY")),
        ({"HTTPS_PROXY": "a:1", "no_proxy": "x, example.org"}, "", ProxyChoice(None, "no_proxy")),
        ({"MXRTC_PROXY": "a:1", "NO_PROXY": "*"}, "", ProxyChoice(A, "MXRTC_PROXY")),
        ({"NO_PROXY": "*"}, "", ProxyChoice(None)),
    ],
)
def test_the_nearest_word_counts(environment: dict[str, str], configured: str, choice: ProxyChoice) -> None:
    assert choose_proxy(HS, environment, configured) == choice


@pytest.mark.parametrize(
    ("pattern", "address", "without"),
    [
        ("example.org", HS, True),
        (".example.org", HS, True),
        ("*.example.org", HS, True),
        ("EXAMPLE.org", HS, True),
        ("matrix.example.org", HS, True),
        ("matrix.example.org:8448", HS, True),
        ("matrix.example.org:443", HS, False),
        ("ample.org", HS, False),
        ("trix.example.org", HS, False),
        ("other.test", HS, False),
        (".", HS, False),
        (":", HS, False),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3:1", True),
        ("10.1.2.3:2", "https://10.1.2.3:1", False),
        ("10.1.2.3:1", "https://10.1.2.3:1", True),
        ("fd00::/8", "https://[fd00::1]", True),
        ("[fd00::1]", "https://[fd00::1]", True),
        ("fd00::1", "https://[fd00::2]", False),
    ],
)
def test_what_is_excepted_is_reached_without(pattern: str, address: str, without: bool) -> None:
    choice = choose_proxy(address, {"ALL_PROXY": "a:1", "NO_PROXY": f"x.test,{pattern}"})
    assert (choice.proxy is None) is without


@pytest.mark.parametrize("address", ["http://127.0.0.1:8008", "https://[::1]", "http://localhost:1"])
def test_this_machine_is_reached_by_a_proxy_only_where_that_is_meant_for_us(address: str) -> None:
    """As the other end of a tunnel may be: what is loopback there is the homeserver's machine."""
    general = {"ALL_PROXY": "x:1", "http_proxy": "x:1", "https_proxy": "x:1"}
    assert choose_proxy(address, general) == ProxyChoice(None)
    assert choose_proxy(address, {**general, "MXRTC_PROXY": "a:1"}) == ProxyChoice(A, "MXRTC_PROXY")
    assert choose_proxy(address, general, "a:1") == ProxyChoice(A, "homeserver.proxy")


def test_header_of_whoever_asks_a_web_server_is_no_proxy() -> None:
    """As a program of CGI finds it among its variables."""
    environment = {"HTTP_PROXY": "a:1"}
    assert choose_proxy("http://example.org", environment).proxy == A
    assert choose_proxy("http://example.org", {**environment, "REQUEST_METHOD": "GET"}).proxy is None


@settings(max_examples=examples(200))
@given(st.text(max_size=30), st.text(max_size=30))
def test_whatever_is_named_is_a_proxy_or_refused(proxy: str, excepted: str) -> None:
    try:
        choice = choose_proxy(HS, {"ALL_PROXY": proxy, "NO_PROXY": excepted})
    except ConfigError:
        return
    assert choice.because in ("", "ALL_PROXY", "NO_PROXY")
