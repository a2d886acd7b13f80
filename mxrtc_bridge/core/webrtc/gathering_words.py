"""What came of asking the STUN and TURN servers, in words for a person."""

from __future__ import annotations

from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport, ServerAttempt, ServerOutcome

MAX_NAMED = 6
"""Servers that one sentence names."""

NO_TURN = "the homeserver gives no TURN server (voip/turnServer), which would relay them"

_WORDS = {
    ServerOutcome.OK: "answers",
    ServerOutcome.PENDING: "has not answered yet",
    ServerOutcome.TIMED_OUT: "does not answer",
    ServerOutcome.REFUSED: "cannot be connected to: nothing listens there, or a firewall refuses it",
    ServerOutcome.UNREACHABLE: "cannot be reached from this network",
    ServerOutcome.NAME_UNKNOWN: "has a name that does not resolve",
    ServerOutcome.CERTIFICATE: "has a certificate that this machine does not trust",
    ServerOutcome.CREDENTIALS: "refuses the user name and password that it is asked with",
    ServerOutcome.QUOTA: "is full, or has given this user all that it may have",
}


def outcome_words(attempt: ServerAttempt) -> str:
    """What one server did, to stand behind its name."""
    return _WORDS.get(attempt.outcome) or f"fails: {attempt.detail or 'it does not say why'}"


def relay_words(report: GatheringReport) -> str:
    """Why nothing was relayed, with each server by its name; never that a TURN server would help where there is one."""
    asked = [each for each in report.attempts if each.relays]
    working = [each.uri for each in asked if each.outcome is ServerOutcome.OK]
    if working:
        return f"{working[0]} gives this side a relayed address, and nothing of the other side comes through it either"
    named = [f"{each.uri} {outcome_words(each)}" for each in asked]
    named += [f"{uri} cannot be used: only turn: and turns: over TCP, and turn: over UDP" for uri in report.unusable]
    if not named:
        return NO_TURN
    more = [f"and {len(named) - MAX_NAMED} more"] if len(named) > MAX_NAMED else []
    return f"no TURN server relays them: {', '.join(named[:MAX_NAMED] + more)}"


def left_out_words(report: GatheringReport) -> str:
    """That this machine has more addresses than are offered, which may be why; nothing where it has not."""
    count = report.addresses_left_out
    return f"; {count} more addresses of this machine were not tried: --interface says which to use" if count else ""
