"""What came of asking the STUN and TURN servers, as a value for whoever tells a person why there is no path.

It names servers by their URIs (RFC 7064, RFC 7065), which hold no secret, and holds no address of this machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class ServerOutcome(Enum):
    """What came of asking one server."""

    OK = "ok"
    """It gave an address."""
    PENDING = "pending"
    """No answer yet, or none was needed any more."""
    TIMED_OUT = "timed out"
    """No answer within the whole time that servers are given."""
    REFUSED = "refused"
    """Nothing listens there, or a firewall says so."""
    UNREACHABLE = "unreachable"
    """There is no way to any of its addresses from here."""
    NAME_UNKNOWN = "name unknown"
    """Its name does not resolve."""
    CERTIFICATE = "certificate not trusted"
    """Its certificate is expired, made for another name, or signed by an authority that this machine does not know."""
    CREDENTIALS = "credentials refused"
    """It does not accept the user name and password that the homeserver or the configuration gives."""
    QUOTA = "quota"
    """It has no more relayed addresses, for this user or at all."""
    PRIVATE = "private address"
    """It gave an address that can only be used nearer to it than it is itself: it is behind a NAT and does not know."""
    FORBIDS = "forbids the other side's addresses"
    """It gave one, and lets nothing be sent from it to any address of the other side."""
    FAILED = "failed"
    """Something else; :attr:`ServerAttempt.detail` says what."""


@dataclass(frozen=True, slots=True)
class ServerAttempt:
    """One server that was asked."""

    uri: str
    """Without a secret, transport included: ``turns:turn.example.org:443?transport=tcp``."""
    outcome: ServerOutcome
    detail: str = ""
    """For ``FAILED`` and ``CERTIFICATE``: a short phrase without addresses, such as ``error 403``."""

    @property
    def relays(self) -> bool:
        """Whether a relayed address was asked for, and not only how we look from outside."""
        return self.uri.startswith("turn")


@dataclass(frozen=True, slots=True)
class GatheringReport:
    """How one gathering of candidates has gone so far."""

    attempts: tuple[ServerAttempt, ...] = ()
    """In the order in which the servers were asked; servers that nobody had to ask are not among them."""
    kinds: tuple[str, ...] = ()
    """Which kinds of candidates there are: ``host``, ``srflx``, ``relay``."""
    addresses_left_out: int = 0
    """Addresses of this machine that would be allowed but are not offered, as there are too many."""
    unusable: tuple[str, ...] = ()
    """URIs of servers that no library of ours speaks to, at most 128 characters each."""
