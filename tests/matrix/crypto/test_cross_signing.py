"""What a homeserver does not say about our own device and identity is not taken for lost, and replaced by nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.matrix.crypto.cross_signing import OtherIdentityError, shown_identities
from mxrtc_bridge.matrix.crypto.device import CryptoDevice
from mxrtc_bridge.matrix.crypto.keys import IdentityKeys
from tests.hostile_json import JSON
from tests.long import examples
from tests.matrix.crypto.device_world import PEER, Server
from tests.matrix.crypto.key_homeserver import PICKLE_KEY
from tests.matrix.crypto.memory import MemoryStore

OURS = IdentityKeys.derived(b"k" * 32, PEER)
NO_ANSWERS: list[dict[str, Any]] = [
    {},
    {"device_keys": []},
    {"device_keys": {PEER: None}},
    {"device_keys": {}, "failures": {"example.org": {}}},
    {"device_keys": {}, "failures": []},
]


class RecordingServer(Server):
    """Notes what is made and replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[str] = []

    async def make_device(self, *_args: object) -> None:
        self.done.append("device")

    async def upload_identity(self, *_args: object) -> None:
        self.done.append("identity")

    async def upload_signatures(self, *_args: object) -> dict[str, Any]:
        self.done.append("signatures")
        return {}


def device_at(server: RecordingServer, store: MemoryStore, identity: IdentityKeys | None = None) -> CryptoDevice:
    return CryptoDevice(
        server,  # type: ignore[arg-type]
        store,
        user=PEER,
        pickle_key=PICKLE_KEY,
        display_name="x",
        wall_ms=lambda: 10**12,
        identity=identity,
    )


@pytest.mark.parametrize("answer", NO_ANSWERS, ids=repr)
async def test_device_of_the_last_run_waits_for_an_answer_about_it(answer: dict[str, Any]) -> None:
    server, store = RecordingServer(), MemoryStore()
    first = device_at(server, store)
    await first.start()
    account = await store.account()
    server.wrong = answer
    with pytest.raises(HomeserverError, match="does not say") as caught:
        await device_at(server, store).start()
    assert caught.value.retryable
    assert (server.done, await store.account()) == (["device"], account)


@pytest.mark.parametrize("answer", [*NO_ANSWERS, {"device_keys": {}, "master_keys": []}], ids=repr)
async def test_no_identity_is_published_in_the_place_of_one_that_nobody_knows_of(answer: dict[str, Any]) -> None:
    server = RecordingServer()
    server.wrong = answer
    with pytest.raises(HomeserverError, match="does not say"):
        await device_at(server, MemoryStore(), identity=OURS).start()
    assert server.done == []


@settings(max_examples=examples(20), deadline=None)
@given(JSON.filter(lambda key: key is not None))
async def test_identity_that_cannot_be_read_is_another_one_and_not_none(master: object) -> None:
    answer = {"device_keys": {}, "master_keys": {PEER: master}}
    assert PEER in shown_identities(answer, [PEER])
    server = RecordingServer()
    server.wrong = answer
    with pytest.raises(OtherIdentityError):
        await device_at(server, MemoryStore(), identity=OURS).start()
    assert server.done == []
