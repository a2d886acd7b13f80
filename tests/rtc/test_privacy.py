"""Nothing that identifies a network or opens a session is written to the log at INFO or above."""

from __future__ import annotations

import logging

import pytest

from mxrtc_bridge.rtc.ice_servers import ServerPlan, TurnServer
from tests.rtc.peers import Pair, make_peer


async def test_log_of_a_whole_session_holds_no_address_and_no_credential(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    plan = ServerPlan(turn=(TurnServer("127.0.0.1", 9, "tcp", False, "turn-user", "turn-secret"),))
    async with Pair(make_peer(plan=plan)) as pair:
        await pair.open()
        secrets = [pair.caller.peer._ice.local_password, pair.caller.peer._ice.local_username]
        await pair.caller.peer.close()
        await pair.callee.until_lost()
    for text in ["127.0.0.1", "turn-user", "turn-secret", *secrets]:
        assert text not in caplog.text
    assert "TURN server over tcp gave no relayed address" in caplog.text
