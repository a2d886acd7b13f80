"""What a network lets through, as a value, and in words for a person."""

from __future__ import annotations

from dataclasses import dataclass

from mxrtc_bridge.core.webrtc.gathering_report import ServerAttempt, ServerOutcome
from mxrtc_bridge.core.webrtc.gathering_words import outcome_words

_ANSWERED = frozenset({ServerOutcome.OK, ServerOutcome.PRIVATE, ServerOutcome.CREDENTIALS, ServerOutcome.QUOTA})
"""Outcomes that only a server can have which has heard us, and whom we have heard."""


@dataclass(frozen=True, slots=True)
class ServerSeen:
    """One STUN or TURN server that was asked for itself."""

    attempt: ServerAttempt
    seconds: float
    """From the first packet, name and TLS included, until it had answered or was given up."""

    @property
    def works(self) -> bool:
        return self.attempt.outcome is ServerOutcome.OK

    @property
    def by_udp(self) -> bool:
        return self.attempt.uri.startswith("stun:") or self.attempt.uri.endswith("transport=udp")

    def __str__(self) -> str:
        """A line for a person; it may name an address, if that is what the homeserver gives."""
        words = "relays" if self.works and self.attempt.relays else outcome_words(self.attempt)
        return f"{self.attempt.uri} {words}, after {self.seconds * 1000:.0f} ms"


@dataclass(frozen=True, slots=True)
class Network:
    """What was seen of the network that a machine is in."""

    servers: tuple[ServerSeen, ...] = ()
    unusable: tuple[str, ...] = ()
    """URIs of servers that no library of ours speaks to."""
    ipv4: bool = False
    """Whether there is a route to the rest of the internet."""
    ipv6: bool = False
    packet_bytes: int | None = None
    """The largest IP packet, of the sizes that were tried, which a STUN server has answered; None: none was."""

    @property
    def lets_udp_out(self) -> bool | None:
        """Whether UDP gets out and back; None where there was no server to ask."""
        asked = [each for each in self.servers if each.by_udp]
        return any(each.attempt.outcome in _ANSWERED for each in asked) if asked else None

    @property
    def relays(self) -> bool:
        """Whether any TURN server gives a relayed address that others can reach."""
        return any(each.works and each.attempt.relays for each in self.servers)

    @property
    def allows_calls(self) -> bool:
        """False where no call can be expected to work: no server answers by UDP, and nothing relays."""
        return self.relays or self.lets_udp_out is not False

    @property
    def verdict(self) -> str:
        """What all of it means, in a sentence."""
        if self.relays:
            by = "direct or relayed" if self.lets_udp_out else "relayed, as no server answers by UDP"
            return f"calls work from this network, {by}"
        if self.lets_udp_out is None:
            return "there is no STUN or TURN server to ask, so only a call shows whether UDP gets out"
        if self.lets_udp_out:
            return "calls work from this network where a direct path exists; nothing relays the others"
        return "no call works from this network: no server answers by UDP, and none relays"
