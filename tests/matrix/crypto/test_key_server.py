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
