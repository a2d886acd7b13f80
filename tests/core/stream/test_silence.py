"""The times by which a session lives or ends fit each other."""

from __future__ import annotations

from mxrtc_bridge.core.stream import silence
from mxrtc_bridge.rtc.settings import RtcSettings
from mxrtc_bridge.sctp.settings import SctpSettings


def test_an_outage_is_over_before_anything_ends_the_session() -> None:
    assert RtcSettings().consent_expiry_s == silence.CONSENT_S
    assert silence.QUIET_S + silence.OUTAGE_S + silence.REPEAT_S < silence.CONSENT_S
    assert silence.ACCEPTOR_QUIET_S + silence.OUTAGE_S + silence.REPEAT_S < silence.DEAD_S


def test_consent_ends_a_session_before_sctp_and_the_control_channel_do() -> None:
    pauses = [min(SctpSettings().rto_min * 2**turn, silence.REPEAT_S) for turn in range(silence.REPETITIONS + 1)]
    assert sum(pauses) > silence.CONSENT_S + RtcSettings().consent_interval_s
    assert silence.CONSENT_S + RtcSettings().consent_interval_s < silence.DEAD_S
