"""What the homeserver shows of the identities of our users, and when it is believed to know none."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from mxrtc_bridge.bridge.devices.identities import BridgeIdentities
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.api.transport import Transport
from tests.config.samples import GOOD, load

USER = UserId("@rtc_build:example.org")


class Server:
    def __init__(self, error: HomeserverError) -> None:
        self._error = error

    async def query_keys(self, _users: Iterable[UserId]) -> Mapping[str, object]:
        raise self._error


@pytest.mark.parametrize(
    ("status", "has_none"),
    [(404, True), (400, True), (405, True), (0, False), (200, False), (401, False), (502, False)],
)
async def test_only_a_homeserver_that_does_not_know_the_question_has_no_identities(status: int, has_none: bool) -> None:
    """An answer that cannot be read would let an account be taken whose identity is somebody's."""
    transport = Transport("http://127.0.0.1:1")
    identities = BridgeIdentities(load(GOOD), transport)
    identities._is_on = True
    identities._server = Server(HomeserverError("no", status))  # type: ignore[assignment]
    try:
        if has_none:
            assert await identities.shown([USER]) == {}
        else:
            with pytest.raises(HomeserverError):
                await identities.shown([USER])
    finally:
        await transport.close()
