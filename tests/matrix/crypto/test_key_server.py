"""What one device asks, of a homeserver whose answers are scripted."""

from __future__ import annotations

import asyncio

import pytest
from aiohttp import web

from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import DeviceId, UserId
from mxrtc_bridge.matrix.api.transport import RequestPolicy, Transport
from mxrtc_bridge.matrix.crypto.key_server import KeyServer
from tests.matrix.conftest import ScriptedServer


@pytest.mark.parametrize(("wait_s", "asked"), [(0.0, 2), (0.5, 1)])
async def test_question_whose_answer_is_due_at_once_is_sent_on_another_connection_as_well(
    scripted: ScriptedServer, wait_s: float, asked: int
) -> None:
    """What the homeserver may hold is silent for that reason. The same token brings the same messages twice."""

    async def never(_: web.Request) -> web.StreamResponse:
        await asyncio.sleep(3600)
        raise AssertionError

    scripted.answers = [never, web.json_response({"next_batch": "2"})]
    transport = Transport(scripted.url, "token", RequestPolicy(hedge_s=0.05))
    try:
        server = KeyServer(transport, UserId("@a:b.example"), masquerade=False)
        asking = server.sync(DeviceId("D"), since="1", wait_s=wait_s, timeout_s=30 if asked == 2 else 0.3)
        if asked == 2:
            assert await asking == {"next_batch": "2"}
        else:
            with pytest.raises(HomeserverError, match="did not answer"):
                await asking
    finally:
        await transport.close()
    assert ["since=1&" in f"{path}&" for _, path, _, _ in scripted.requests] == [True] * asked


@pytest.mark.parametrize(
    ("status", "errcode", "one_by_one"),
    [(404, "M_UNRECOGNIZED", True), (404, "M_NOT_FOUND", False), (403, "M_FORBIDDEN", False)],
)
async def test_devices_are_deleted_one_by_one_where_the_homeserver_has_no_other_request(
    scripted: ScriptedServer, status: int, errcode: str, one_by_one: bool
) -> None:
    """As Synapse beside matrix-authentication-service."""
    refusal = web.json_response({"errcode": errcode}, status=status)
    scripted.answers = [refusal, web.json_response({}), web.json_response({})]
    transport = Transport(scripted.url, "token", RequestPolicy())
    try:
        deleting = KeyServer(transport, UserId("@a:b.example"), masquerade=True).delete_devices(
            [DeviceId("ONE"), DeviceId("TWO")]
        )
        if one_by_one:
            await deleting
        else:
            with pytest.raises(HomeserverError, match=errcode):
                await deleting
    finally:
        await transport.close()
    asked = [(method, path.partition("?")[0].rpartition("/")[2]) for method, path, _, _ in scripted.requests]
    assert asked == [("POST", "delete_devices"), *([("DELETE", "ONE"), ("DELETE", "TWO")] if one_by_one else [])]
