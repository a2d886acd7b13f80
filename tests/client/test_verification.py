"""What ``mxrtc verify`` says is remembered is what is remembered."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass

import pytest

from mxrtc_bridge.client import verification
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.verification import Happenings, next_happening, remember
from mxrtc_bridge.core.crypto.sas_values import VerifiedKeys
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.device_lists import DeviceLists
from tests.core.crypto.sas_ends import ALICE, BUILD, MASTERS, PEER
from tests.honesty import Honesty
from tests.matrix.crypto.key_homeserver import KeyHomeserver
from tests.matrix.crypto.memory import MemoryStore

COMPARED = MASTERS[PEER]


@dataclass
class Device:
    """As much of a device as remembering needs."""

    lists: DeviceLists
    user: UserId = ALICE


def lists(store: MemoryStore, honesty: Honesty = Honesty.TRUE) -> DeviceLists:
    """With a homeserver that shows no identity, or another one where it is stale."""
    server = KeyHomeserver()
    if honesty is Honesty.STALE:
        server.make_identity(PEER, "another")
        server.log_in(PEER, "DEVICE")
    server.honesty = honesty
    return DeviceLists(server, store, wall_ms=lambda: 1)  # type: ignore[arg-type]


async def noted(device: Device) -> None:
    vouched = VerifiedKeys(BUILD, COMPARED)
    await remember(device, Report(as_json=True), PEER, vouched, own=False)  # type: ignore[arg-type]


@pytest.mark.parametrize("honesty", Honesty)
async def test_what_was_compared_is_remembered_whatever_the_homeserver_shows_then(
    honesty: Honesty, capsys: pytest.CaptureFixture[str]
) -> None:
    store = MemoryStore()
    await noted(Device(lists(store, honesty)))
    said = json.loads(capsys.readouterr().out)
    record = await store.user(PEER)
    assert record is not None
    assert (record.pinned_master, record.verified_master) == (COMPARED, COMPARED)
    assert (said["kind"], said["identity"]) == ("verified", COMPARED)


async def test_nothing_is_said_to_be_known_that_could_not_be_stored(capsys: pytest.CaptureFixture[str]) -> None:
    store = MemoryStore()
    store.honesty = Honesty.WRONG
    with pytest.raises(StorageError, match="disk is full"):
        await noted(Device(lists(store)))
    assert capsys.readouterr().out == ""


class Open:
    """One verification that ends at a time of the clock that goes on while the machine sleeps."""

    def __init__(self, happened: Happenings) -> None:
        self.open = (self,)
        self.machine = self
        self._happened = happened

    def next_deadline(self) -> float:
        return 10_000.0

    async def tick(self) -> None:
        self._happened.put_nowait("ended")


async def test_time_that_the_machine_slept_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "elapsed_s", lambda: 10_000.0)
    happened: Happenings = asyncio.Queue()
    async with asyncio.timeout(5):
        assert await next_happening(Open(happened), happened) == "ended"  # type: ignore[arg-type]
