"""A call whose offer cannot be served is answered with the reason, if the caller has a right to know one."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.call.events import Hangup, Reject, Version
from mxrtc_bridge.core.errors import RefusalCode
from mxrtc_bridge.core.ids import CallId, PartyId
from tests.engine.call_bench import ALICE, OFFER, Bridge, running


@pytest.mark.parametrize("denied", [False, True])
@pytest.mark.parametrize("version", Version)
@pytest.mark.parametrize("fault", [RefusalCode.SDP_TOO_LARGE, RefusalCode.BAD_CONTENT])
async def test_invite_that_cannot_be_read_is_answered_with_the_reason_to_whoever_has_a_right(
    fault: RefusalCode, version: Version, denied: bool
) -> None:
    async with running(Bridge()) as bridge:
        bridge.denied = {ALICE} if denied else set()
        await bridge.invite(sdp="", fault=fault, version=version)
        await bridge.until(lambda: bool(bridge.ended))
        (sent,) = bridge.sent
        assert isinstance(sent, Reject if version is Version.V1 else Hangup)
        assert sent.reason == (fault if not denied else None if version is Version.V1 else "user_hangup")
        assert bridge.refusals() == ["denied" if denied else fault]


async def test_voice_call_is_told_why_and_is_not_busy() -> None:
    async with running(Bridge()) as bridge:
        await bridge.invite(sdp=OFFER + "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n")
        await bridge.until(lambda: bool(bridge.ended))
        assert bridge.sent == [Reject(CallId("c1"), PartyId("ours"), Version.V1, "media_refused")]
        assert bridge.told_why == ["media_refused"]
