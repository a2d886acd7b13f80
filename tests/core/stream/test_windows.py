"""Limits that follow from one another: who keeps to the receive window is never cut, however slow the service is."""

from __future__ import annotations

import pytest

from mxrtc_bridge.core.stream import windows
from mxrtc_bridge.rtc.settings import RtcSettings
from mxrtc_bridge.sctp.channels import ChannelMessage, DataChannels
from mxrtc_bridge.sctp.dcep import OpenMessage
from mxrtc_bridge.sctp.settings import SctpSettings
from tests.sctp.links import pair


@pytest.mark.parametrize("packet", [1172, 9000, 60_000])
@pytest.mark.parametrize("size", [1000, 16_384, 65_535, 65_536])
def test_whoever_fills_the_window_of_a_service_that_rests_is_not_cut(size: int, packet: int) -> None:
    settings = SctpSettings(
        receive_window=windows.RECEIVE_WINDOW,
        max_message=windows.MAX_MESSAGE,
        packet_size=packet,
        packet_size_floor=packet,
        packet_size_ceiling=packet,
    )
    world = pair(1, None, settings)
    sender = DataChannels(world.left.association, dtls_client=True)
    resting = DataChannels(world.right.association, dtls_client=False)
    held = 0

    def take() -> None:
        nonlocal held
        while (event := resting.poll_event()) is not None:
            if isinstance(event, ChannelMessage):
                held += event.size  # as a sink that takes nothing: nothing is told as consumed

    world.right.drain = take  # type: ignore[method-assign]
    world.start()
    world.run(1)
    number = sender.open(world.now, OpenMessage("rest", "raw.mxrtc"))
    for _ in range(2 * windows.RECEIVE_WINDOW // size):
        sender.send(world.now, number, bytes(size))
    world.flush()
    world.run(60)
    # Many small messages cost more than their payload, so fewer of them fit.
    assert windows.RECEIVE_WINDOW // 8 < held <= windows.MAX_UNWRITTEN


def test_a_session_has_the_window_and_the_message_that_the_limit_is_made_of() -> None:
    assert RtcSettings().receive_window == windows.RECEIVE_WINDOW
    assert RtcSettings().max_message == windows.MAX_MESSAGE
