"""The factory: one certificate for each user, kept; servers asked for each call, and not needed."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from ipaddress import ip_address

import pytest

from mxrtc_bridge.core.errors import ConfigError, HomeserverError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.webrtc.ice_servers import IceServer
from mxrtc_bridge.rtc import factory
from mxrtc_bridge.rtc.factory import PeerFactory
from mxrtc_bridge.rtc.ice_servers import ServerPlan
from tests.rtc.peers import LOOPBACK, offer_of

BUILD = UserId("@rtc_build:example.org")
OTHER = UserId("@rtc_other:example.org")


class MemoryStore:
    def __init__(self) -> None:
        self.kept: dict[UserId, str] = {}
        self.loads = 0

    async def load(self, user: UserId) -> str | None:
        self.loads += 1
        await asyncio.sleep(0)
        return self.kept.get(user)

    async def save(self, user: UserId, pem: str) -> None:
        await asyncio.sleep(0)
        assert user not in self.kept
        self.kept[user] = pem


async def no_servers(user: UserId) -> tuple[IceServer, ...]:
    return ()


async def fingerprint(factory: PeerFactory, user: UserId) -> str:
    peer = await factory.create(user)
    try:
        return offer_of(await peer.create_offer()).fingerprints[0].value
    finally:
        await peer.close()


async def test_fingerprint_of_a_user_stays_the_same_across_peers_and_restarts() -> None:
    store = MemoryStore()
    first = PeerFactory(LOOPBACK, store, no_servers)
    known = await fingerprint(first, BUILD)
    assert await fingerprint(first, BUILD) == known
    assert await fingerprint(PeerFactory(LOOPBACK, store, no_servers), BUILD) == known
    assert await fingerprint(first, OTHER) != known
    assert set(store.kept) == {BUILD, OTHER}


async def test_two_calls_at_once_make_one_certificate() -> None:
    factory = PeerFactory(LOOPBACK, MemoryStore(), no_servers)
    first, second = await asyncio.gather(fingerprint(factory, BUILD), fingerprint(factory, BUILD))
    assert first == second


async def test_cache_of_certificates_is_bounded() -> None:
    store = MemoryStore()
    factory = PeerFactory(LOOPBACK, store, no_servers, max_cached_certificates=2)
    for number in (1, 2, 3, 3, 2, 1):
        await factory.create(UserId(f"@rtc_{number}:example.org"))
    assert store.loads == 4


async def test_broken_stored_certificate_is_told() -> None:
    store = MemoryStore()
    store.kept[BUILD] = "nonsense"
    with pytest.raises(ConfigError, match="cannot be read"):
        await PeerFactory(LOOPBACK, store, no_servers).create(BUILD)


async def test_servers_are_asked_for_the_user(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    asked: list[UserId] = []

    async def servers(user: UserId) -> tuple[IceServer, ...]:
        asked.append(user)
        return (IceServer(("turn:turn.example", "stuns:turn.example"), "name", "password"),)

    factory = PeerFactory(LOOPBACK, MemoryStore(), servers)
    peer = await factory.create(BUILD)
    assert asked == [BUILD]
    assert peer._ice._gathering._plan.turn[0].credential == "password"
    assert "password" not in caplog.text
    await factory.create(BUILD)
    assert caplog.text.count("ICE server 'stuns:turn.example' cannot be used") == 1, "not with each call"
    await peer.close()


async def test_call_goes_on_without_servers_when_the_homeserver_fails(caplog: pytest.LogCaptureFixture) -> None:
    async def servers(user: UserId) -> tuple[IceServer, ...]:
        raise HomeserverError("the homeserver did not answer")

    peer = await PeerFactory(LOOPBACK, MemoryStore(), servers).create(BUILD)
    assert peer._ice._gathering._plan == ServerPlan()
    assert "no list of STUN and TURN servers: the homeserver did not answer; going on without" in caplog.text
    await peer.close()


async def test_call_goes_on_without_servers_when_the_homeserver_hangs() -> None:
    async def servers(user: UserId) -> tuple[IceServer, ...]:
        await asyncio.Event().wait()
        raise AssertionError("never reached")

    peer = await PeerFactory(LOOPBACK, MemoryStore(), servers, servers_timeout_s=0.05).create(BUILD)
    assert peer._ice._gathering._plan == ServerPlan()
    await peer.close()


async def test_addresses_that_are_left_out_are_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    many = [(f"br-{number}", ip_address(f"10.1.0.{number}")) for number in range(1, 13)]
    monkeypatch.setattr(factory, "local_addresses", lambda: many)
    made = PeerFactory(replace(LOOPBACK, interfaces=()), MemoryStore(), no_servers)
    for _ in range(2):
        await (await made.create(BUILD)).close()
    assert [record.message for record in caplog.records if "addresses" in record.message] == [
        (
            "of 12 addresses of this machine 8 are offered, those of default routes first; "
            "ice.interfaces or --interface says which"
        )
    ]
