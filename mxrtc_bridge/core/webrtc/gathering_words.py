"""What came of asking the STUN and TURN servers, in words for a person."""

from __future__ import annotations

from mxrtc_bridge.core.webrtc.gathering_report import GatheringReport, ServerAttempt, ServerOutcome

MAX_NAMED = 3
"""Servers with the same fault that a sentence names: it is cut at 400 characters where it is shown."""

NO_TURN = "the homeserver gives no TURN server (voip/turnServer), which would relay them"

USABLE = "a server that relays is named turn:HOST:PORT, by UDP or TCP, or turns:HOST:PORT, by TCP"

_WORDS = {
    ServerOutcome.OK: "answers",
    ServerOutcome.PENDING: "has not answered yet",
    ServerOutcome.TIMED_OUT: "does not answer",
    ServerOutcome.REFUSED: "cannot be connected to: nothing listens there, or a firewall refuses it",
    ServerOutcome.UNREACHABLE: "cannot be reached from this network",
    ServerOutcome.NAME_UNKNOWN: "has a name that does not resolve",
    ServerOutcome.CERTIFICATE: "has a certificate that this machine does not trust",
    ServerOutcome.CREDENTIALS: "refuses the user name and password that it is asked with",
    ServerOutcome.FORBIDS: "relays, but to no address of the other side, as it forbids them (denied-peer-ip of coturn)",
    ServerOutcome.QUOTA: "is full, or has given this user all that it may have",
}

_PRIVATE = {
    True: "relays from an address that few can reach, as it does not know its public one (external-ip of coturn)",
    False: "sees this machine at an address that few can reach: a NAT or a container's proxy in front of it hides ours",
}

_SHORT = {ServerOutcome.PENDING: "no answer yet", ServerOutcome.QUOTA: "full"}


def outcome_words(attempt: ServerAttempt) -> str:
    """What one server did, to stand behind its name."""
    if attempt.outcome is ServerOutcome.PRIVATE:
        return _PRIVATE[attempt.relays]
    words = _WORDS.get(attempt.outcome)
    if words is None:
        return f"fails: {attempt.detail or 'it does not say why'}"
    return f"{words}: {attempt.detail}" if attempt.detail else words


def relay_words(report: GatheringReport) -> str:
    """Why nothing was relayed, with each server by its name; never that a TURN server would help where there is one."""
    asked = [each for each in report.attempts if each.relays]
    working = [each.uri for each in asked if each.outcome is ServerOutcome.OK]
    if working:
        return f"{working[0]} gives this side a relayed address, and nothing of the other side comes through it either"
    by_outcome: dict[str, list[str]] = {}
    for each in asked:
        by_outcome.setdefault(_fault(each), []).append(each.uri)
    if report.unusable:
        by_outcome["cannot be used"] = list(report.unusable)
    if not by_outcome:
        return NO_TURN
    return f"no TURN server relays them ({'; '.join(f'{why}: {_listed(uris)}' for why, uris in by_outcome.items())})"


def _fault(attempt: ServerAttempt) -> str:
    if attempt.outcome is ServerOutcome.CERTIFICATE and attempt.detail:
        return f"{attempt.outcome.value}, {attempt.detail}"
    return attempt.detail or _SHORT.get(attempt.outcome, attempt.outcome.value)


def _listed(uris: list[str]) -> str:
    more = f" and {len(uris) - MAX_NAMED} more" if len(uris) > MAX_NAMED else ""
    return ", ".join(uris[:MAX_NAMED]) + more


def left_out_words(report: GatheringReport) -> str:
    """That this machine has more addresses than are offered, which may be why; nothing where it has not."""
    count = report.addresses_left_out
    return f"; {count} more addresses of this machine were not tried: --interface says which to use" if count else ""
