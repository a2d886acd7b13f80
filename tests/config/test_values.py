"""The small languages of the values: what they read, what they refuse, and that writing is the inverse of reading."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.config import values
from mxrtc_bridge.config.values import TcpListen, UnixListen
from mxrtc_bridge.core.access.targets import AppendTarget, ReadTarget, TcpTarget, UnixTarget

GOOD: list[tuple[Callable[[Any], Any], object, object]] = [
    (values.parse_duration, "500ms", 0.5),
    (values.parse_duration, "10s", 10.0),
    (values.parse_duration, "5m", 300.0),
    (values.parse_duration, "12h", 43200.0),
    (values.parse_duration, "30d", 2592000.0),
    (values.parse_duration, "1h30m", 5400.0),
    (values.parse_duration, "3650d", 315360000.0),
    (values.parse_duration, "1w", 604800.0),
    (values.parse_duration, "0s", 0.0),
    (values.parse_target, "tcp:127.0.0.1:22", TcpTarget("127.0.0.1", 22)),
    (values.parse_target, "tcp:[::1]:65535", TcpTarget("::1", 65535)),
    (values.parse_target, "tcp:db-1.internal.example.org:5432", TcpTarget("db-1.internal.example.org", 5432)),
    (values.parse_target, "tcp:docker_name:80", TcpTarget("docker_name", 80)),
    (values.parse_target, "unix:/run/x.sock", UnixTarget("/run/x.sock")),
    (values.parse_target, "unix:/" + "x" * 106, UnixTarget("/" + "x" * 106)),
    (values.parse_target, "append:/var/log/it.log", AppendTarget("/var/log/it.log")),
    (values.parse_target, "read:/" + "x" * 4094, ReadTarget("/" + "x" * 4094)),
    (values.parse_listen, "127.0.0.1:1", TcpListen("127.0.0.1", 1)),
    (values.parse_listen, "[0:0:0:0:0:0:0:1]:29350", TcpListen("::1", 29350)),
    (values.parse_listen, "unix:/run/mxrtc/as.sock", UnixListen("/run/mxrtc/as.sock")),
    (values.parse_network, "10.0.0.0/8", ipaddress.ip_network("10.0.0.0/8")),
    (values.parse_network, "192.0.2.7", ipaddress.ip_network("192.0.2.7/32")),
    (values.parse_network, "2001:db8::/32", ipaddress.ip_network("2001:db8::/32")),
    (values.parse_interface, "eth0", "eth0"),
    (values.parse_interface, "br-0a1b2c.5", "br-0a1b2c.5"),
    (values.parse_interface, "192.0.2.0/24", "192.0.2.0/24"),
    (values.parse_server_name, "example.org", "example.org"),
    (values.parse_server_name, "localhost:8448", "localhost:8448"),
    (values.parse_server_name, "[2001:db8::1]:8448", "[2001:db8::1]:8448"),
    (values.parse_server_name, "1.example", "1.example"),
    (values.parse_server_name, "192.0.2.7:8448", "192.0.2.7:8448"),
    (values.parse_server_name, "xn--bcher-kva.example", "xn--bcher-kva.example"),
    (values.parse_server_name, "odd-.example.org", "odd-.example.org"),
    (values.parse_http_url, "https://matrix.example.org/", "https://matrix.example.org"),
    (values.parse_http_url, "http://[::1]:8008", "http://[::1]:8008"),
    (values.parse_ice_uri, "stun:stun.example.org", "stun:stun.example.org"),
    (values.parse_ice_uri, "turns:[2001:db8::1]:443?transport=tcp", "turns:[2001:db8::1]:443?transport=tcp"),
    (values.parse_time, "1970-01-02", 86_400_000),
    (values.parse_time, "1970-01-01T01:00:00+01:00", 0),
    (values.parse_time, "1970-01-01T00:00:01Z", 1000),
]

BAD: list[tuple[Callable[[Any], Any], object, str]] = [
    (values.parse_duration, 10, "not a duration"),
    (values.parse_duration, True, "not a duration"),
    (values.parse_duration, "10", "not a duration"),
    (values.parse_duration, "1.5s", "not a duration"),
    (values.parse_duration, "-1s", "not a duration"),
    (values.parse_duration, "10 s", "not a duration"),
    (values.parse_duration, "1234567890s", "not a duration"),
    (values.parse_target, "127.0.0.1:22", "write tcp:HOST:PORT"),
    (values.parse_target, "udp:127.0.0.1:22", "write tcp:HOST:PORT"),
    (values.parse_target, "append:log", "absolute path of a file"),
    (values.parse_target, "append:/var/log/", "absolute path of a file"),
    (values.parse_target, "read:/a\0b", "absolute path of a file"),
    (values.parse_target, "read:/" + "x" * 4095, "the limit is 4095"),
    (values.parse_target, "tcp:127.0.0.1", "not HOST:PORT"),
    (values.parse_target, "tcp:::1:22", "in brackets"),
    (values.parse_target, "tcp:127.0.0.1:0", "between 1 and 65535"),
    (values.parse_target, "tcp:127.0.0.1:65536", "between 1 and 65535"),
    (values.parse_target, "tcp:127.0.0.1:22/../x", "not HOST:PORT"),
    (values.parse_target, "tcp:127.1:22", "neither an IP address nor a host name"),
    (values.parse_target, "tcp:0x7f000001:22", "neither an IP address nor a host name"),
    (values.parse_target, "tcp:[not-v6]:22", "not HOST:PORT"),
    (values.parse_target, "tcp:a..b:22", "neither an IP address nor a host name"),
    (values.parse_target, "unix:run/x.sock", "absolute path"),
    (values.parse_target, "unix:/run/\0x", "absolute path"),
    (values.parse_target, "unix:/" + "x" * 107, "108 bytes; the limit is 107"),
    (values.parse_target, "unix:/" + "\u00e4" * 54, "109 bytes"),
    (values.parse_listen, "localhost:29350", "not an IP address"),
    (values.parse_listen, "29350", "not HOST:PORT"),
    (values.parse_network, "10.0.0.1/8", "did you mean 10.0.0.0/8?"),
    (values.parse_network, "10.0.0.0/33", "not a network"),
    (values.parse_network, "example.org", "not a network"),
    (values.parse_interface, "an interface", "neither an interface"),
    (values.parse_interface, "a" * 16, "neither an interface"),
    (values.parse_server_name, "https://example.org", "without https://"),
    (values.parse_server_name, "example.org/", "not a server name"),
    (values.parse_server_name, "--help", "not a server name"),
    (values.parse_server_name, "-example.org", "not a server name"),
    (values.parse_server_name, ".example.org", "not a server name"),
    (values.parse_server_name, "under_score.example", "not a server name"),
    (values.parse_server_name, "[-::1]", "not a server name"),
    (values.parse_user, "@alice:--help", "not a user id"),
    (values.parse_room, "#rtc:-example.org", "nor an alias"),
    (values.parse_http_url, "matrix.example.org", "not a URL"),
    (values.parse_http_url, "ftp://example.org", "not a URL"),
    (values.parse_http_url, "http://example.org:99999", "not a URL"),
    (values.parse_http_url, "http://[::1", "not a URL"),
    (values.parse_http_url, "http://user:secret@example.org", "user name"),
    (values.parse_http_url, "http://example.org/?a=b", "a query"),
    (values.parse_http_url, "http://example.org/a b", "not a URL"),
    (values.parse_ice_uri, "stun.example.org", "not a STUN or TURN URI"),
    (values.parse_ice_uri, "stun://stun.example.org", "not a STUN or TURN URI"),
    (values.parse_time, "tomorrow", "write 2030-01-31"),
    (values.parse_time, "2030-02-30", "write 2030-01-31"),
    (values.parse_time, "2030-01-31T18:00:00", "add Z"),
]  # fmt: skip


@pytest.mark.parametrize(("parse", "text", "value"), GOOD, ids=[f"{p.__name__}-{t}"[:60] for p, t, _ in GOOD])
def test_notation_reads(parse: Callable[[Any], Any], text: object, value: object) -> None:
    assert parse(text) == value


@pytest.mark.parametrize(("parse", "text", "message"), BAD, ids=[f"{p.__name__}-{t}"[:60] for p, t, _ in BAD])
def test_notation_refuses_with_the_reason(parse: Callable[[Any], Any], text: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        parse(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("parse", sorted({p for p, _, _ in GOOD}, key=lambda p: p.__name__), ids=lambda p: p.__name__)
@given(text=st.text(max_size=40) | st.from_regex(r"(tcp|unix|turn|server):[\[\]0-9a-z.:/]{0,30}"))
def test_any_text_is_read_or_refused(parse: Callable[[Any], Any], text: str) -> None:
    with contextlib.suppress(ValueError):
        parse(text)


@given(st.integers(1, 10**9 - 1), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations_are_written_as_they_are_read(number: int, unit: str) -> None:
    seconds = values.parse_duration(f"{number}{unit}")
    text = values.format_duration(seconds)
    assert len(text) <= len(f"{number}{unit}") + 2
    if len(text) <= 10:
        assert values.parse_duration(text) == pytest.approx(seconds)
