"""A configuration with many services and grants for one large group costs what it says, not the product of the two."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from mxrtc_bridge.bridge.access.configured_rooms import named_rooms
from mxrtc_bridge.bridge.current_config import CurrentConfig
from mxrtc_bridge.config import access
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.core.access.grants import GrantTable
from mxrtc_bridge.core.access.policy import Allow, Policy, Subject
from mxrtc_bridge.core.ids import RoomId, UserId

from .samples import GOOD, load

SERVICES, MEMBERS, ROOM = 1000, 1000, RoomId("!team:example.org")


def text_with(**changes: Any) -> dict[str, Any]:
    data = copy.deepcopy(GOOD)
    data["groups"]["crowd"] = [f"room:{ROOM}", *(f"@u{number}:example.org" for number in range(MEMBERS - 1))]
    services = {
        f"s{number}": {"target": "tcp:127.0.0.1:1", "grantable_to": ["group:crowd"]} for number in range(SERVICES // 10)
    }
    data["peers"] |= {f"many{number}": {"services": copy.deepcopy(services)} for number in range(10)}
    return data | changes


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The subjects that are read from text."""
    seen: list[str] = []
    plain = access.parse_subject

    def parse(text: str) -> Subject:
        seen.append(text)
        return plain(text)

    monkeypatch.setattr(access, "parse_subject", parse)
    return seen


def lists_of(config: Config) -> set[int]:
    return {id(each.grantable_to) for peer in config.peers.values() for each in peer.services.values()}


def test_a_group_is_read_once_for_a_thousand_services_and_grants(read: list[str]) -> None:
    grants = [{"id": f"g{number}", "from": ["group:crowd"], "to": ["many0/s0"]} for number in range(500)]
    config = load(text_with(grants=[*GOOD["grants"], *grants]))
    assert len(read) < MEMBERS + 10
    assert len(lists_of(config)) == 2, "they share one set, and those without any another"
    assert len({id(grant.subjects) for grant in config.grants}) == 2
    assert len(config.grantable_to) == MEMBERS


def test_members_of_a_group_are_read_once_also_beside_others(read: list[str]) -> None:
    data = text_with()
    for number in range(100):
        data["peers"]["many0"]["services"][f"s{number}"]["grantable_to"] = ["group:crowd", f"@x{number}:example.org"]
    config = load(data)
    assert len(read) < MEMBERS + 110
    first = next(each for each in config.peers.values() if each.name == "many0").services
    assert all(len(service.grantable_to) == MEMBERS + 1 for service in first.values())


def test_rooms_that_the_file_names_are_gathered_once_and_not_for_each_event(monkeypatch: pytest.MonkeyPatch) -> None:
    current, given = CurrentConfig(load(text_with())), GrantTable()
    monkeypatch.setattr(Policy, "rooms", lambda _self: pytest.fail("the grants of the file are gone through again"))
    assert [named_rooms(current, given) for _ in range(100)] == [frozenset({ROOM})] * 100


def test_each_member_has_what_each_of_the_grants_gives() -> None:
    grants = [
        {"id": f"g{number}", "from": ["group:crowd"], "to": [f"many{number % 10}/s{number // 10}"]}
        for number in range(200)
    ]
    config = load(text_with(grants=[*grants, {"id": "one", "from": ["@u5:example.org"], "to": ["many9/s99"]}]))
    policy, peer = config.policy(), config.peer_id("many3")
    assert isinstance(policy.service_access(UserId("@u7:example.org"), peer, "s19", 0), Allow)
    assert not isinstance(policy.service_access(UserId("@u7:example.org"), peer, "s20", 0), Allow)
    assert len(policy.services_for(UserId("@u5:example.org"), 0)) == 10
    assert policy.service_access(UserId("@u5:example.org"), config.peer_id("many9"), "s99", 0) == Allow("one")
