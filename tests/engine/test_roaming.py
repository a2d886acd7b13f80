"""Another network is told from an outage by our own address, which is gone while another way leads out."""

from __future__ import annotations

import os
import resource
import socket
from contextlib import suppress

import pytest

from mxrtc_bridge.engine import roaming
from mxrtc_bridge.engine.roaming import has_moved, is_ours, source_towards

HERE = ("127.0.0.1", 9)
NEVER_OURS = "192.0.2.77"


def test_address_that_is_gone_while_another_way_leads_out_is_another_network() -> None:
    assert has_moved(NEVER_OURS, HERE)


def test_address_that_we_have_is_no_other_network() -> None:
    assert not has_moved("127.0.0.1", HERE)
    assert not has_moved("127.0.0.2", HERE), "it is ours, although another one would be taken"


def test_no_way_at_all_is_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roaming, "source_towards", lambda _remote: None)
    assert not has_moved(NEVER_OURS, HERE)


def test_without_files_left_no_address_counts_as_gone() -> None:
    """What runs would be cut at the moment at which nothing can take its place."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), limits[1]))
    files = []
    try:
        with suppress(OSError):
            while True:
                files.append(os.dup(0))
        seen = [is_ours(NEVER_OURS), has_moved(NEVER_OURS, HERE)]
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert seen == [True, False]
    assert not is_ours(NEVER_OURS)


def test_source_is_found_without_a_packet() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.setblocking(False)
        assert source_towards(listening.getsockname()) == "127.0.0.1"
        with pytest.raises(BlockingIOError):
            listening.recv(1)
    assert source_towards(("not an address", 1)) is None
