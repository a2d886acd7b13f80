"""What ``mxrtc verify`` says is remembered is what is remembered."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.verifying import _remember
from mxrtc_bridge.core.errors import HomeserverError, StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.verification_values import Vouched
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists
from mxrtc_bridge.matrix.crypto.store import Changes
from tests.core.verification_ends import ALICE, BUILD, MASTERS, PEER
from tests.matrix.crypto.memory import MemoryStore

COMPARED = MASTERS[PEER]


class Server:
    """A homeserver that shows no identity, or does not answer."""

    def __init__(self, *, away: bool) -> None:
        self.away = away

    async def query_keys(self, *_: object) -> dict[str, Any]:
        if self.away:
            raise HomeserverError("away")
        return {"device_keys": {PEER: {}}, "master_keys": {}, "self_signing_keys": {}}


class FullDisk(MemoryStore):
    async def save(self, changes: Changes) -> None:
        raise StorageError("the disk is full")


@dataclass
class Device:
    """As much of a device as remembering needs."""

    lists: DeviceLists
    user: UserId = ALICE


def lists(store: MemoryStore, *, away: bool = False) -> DeviceLists:
    return DeviceLists(Server(away=away), store, wall_ms=lambda: 1)  # type: ignore[arg-type]


async def remember(device: Device) -> None:
    vouched = Vouched(BUILD, COMPARED)
    await _remember(device, Report(as_json=True), PEER, vouched, own=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("away", [False, True])
async def test_what_was_compared_is_remembered_whatever_the_homeserver_shows_then(
    away: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    store = MemoryStore()
    await remember(Device(lists(store, away=away)))
    said = json.loads(capsys.readouterr().out)
    record = await store.user(PEER)
    assert record is not None
    assert (record.pinned_master, record.verified_master) == (COMPARED, COMPARED)
    assert (said["kind"], said["identity"]) == ("verified", COMPARED)


async def test_nothing_is_said_to_be_known_that_could_not_be_stored(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StorageError, match="disk is full"):
        await remember(Device(lists(FullDisk())))
    assert capsys.readouterr().out == ""
