"""ICE candidates as text: ``candidate:...`` of RFC 8839 section 5.1, read strictly and written.

A candidate ends in one of three ways: it becomes a value, it is *refused* (well formed, but of no use or not allowed
here: TCP, a host name, another component, an address that the policy forbids), or it is *malformed*, which is the other
side's mistake. Names are never looked up: not ``.local`` (RFC 8828 mDNS), not any other. Whichever it is, it costs
nothing but itself: :class:`CandidateIntake` leaves out what cannot be used, wherever candidates come from.

Error texts hold no addresses, for they may be logged.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from mxrtc_bridge.core.errors import CandidateError
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy, IpAddress

MAX_CANDIDATE_CHARS = 512
"""Length of one candidate attribute; RFC 8839 has no limit, real ones have 60 to 200 characters."""

MAX_CANDIDATES = 64
"""Taken of one address family; every one costs connectivity checks towards an address of the sender's choice. By
family, because those of a family that this machine does not have lead nowhere and must not use up the places."""
MAX_RELAYED = 8
"""Taken beside them: relayed ones come last, and are the only ones that work where many others do not."""
MAX_CANDIDATE_LINES = 512
"""Looked at, of use or not."""

MAX_PRIORITY = 2**31 - 1
"""RFC 8445 section 5.1.2."""

CANDIDATE_TYPES = frozenset({"host", "srflx", "prflx", "relay"})

_PRINTABLE = re.compile(r"[ -~]+")
_FOUNDATION = re.compile(r"[A-Za-z0-9+/]{1,32}")
_TOKEN = re.compile(r"[A-Za-z0-9._~!#$%&'*+^`{|}-]{1,64}")
_NUMBER = re.compile(r"[0-9]{1,10}")
_HOST_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One accepted UDP candidate (RFC 8839 section 5.1)."""

    foundation: str
    component: int
    priority: int
    address: IpAddress
    port: int
    type: str
    """``host``, ``srflx``, ``prflx`` or ``relay``."""
    related_address: str | None = None
    """The base of a reflexive or relayed candidate, for diagnostics only; never sent to."""
    related_port: int | None = None


def _malformed(what: str) -> CandidateError:
    return CandidateError(f"the candidate is malformed: {what}")


def _number(text: str, name: str, low: int, high: int) -> int:
    if _NUMBER.fullmatch(text) is None or not low <= int(text) <= high:
        raise _malformed(f"{name} is {text[:20]!a}, it must be a number from {low} to {high}")
    return int(text)


def _address(text: str) -> IpAddress | None:
    if "%" in text:
        raise _malformed("its address has a zone id, which means nothing on another host")
    try:
        return ip_address(text)
    except ValueError:
        pass
    if _HOST_NAME.fullmatch(text) is None:
        raise _malformed("its address is neither an IP address nor a host name")
    return None


def _related_address(text: str | None) -> str | None:
    if text is None or "%" in text:
        return None
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _extensions(fields: list[str]) -> dict[str, str]:
    if len(fields) % 2:
        raise _malformed(f"the extension {fields[-1][:20]!a} has no value")
    return dict(zip(fields[::2], fields[1::2], strict=True))


def _fields(line: str) -> list[str]:
    if len(line) > MAX_CANDIDATE_CHARS:
        raise _malformed(f"it has {len(line)} characters, the limit is {MAX_CANDIDATE_CHARS}")
    if _PRINTABLE.fullmatch(line) is None:
        raise _malformed("it is empty or holds characters other than printable ASCII")
    fields = line.removeprefix("a=").removeprefix("candidate:").split()
    if len(fields) < 8 or fields[6].lower() != "typ":
        raise _malformed("it needs foundation, component, transport, priority, address, port and 'typ' with a type")
    return fields


def parse_candidate(line: str, policy: AddressPolicy) -> Candidate | None:
    """Read one candidate, with or without ``candidate:`` (or ``a=candidate:``) before it.

    Returns:
        The candidate, or None if it is well formed but not for us: not UDP, not component 1, of an unknown type, with
        a host name for an address, or refused by ``policy``.

    Raises:
        CandidateError: it is malformed, or longer than 512 characters.
    """
    foundation, component, transport, priority, address, port, _, kind, *rest = _fields(line)
    if _FOUNDATION.fullmatch(foundation) is None:
        raise _malformed("its foundation is not 1 to 32 ice-chars")
    for name, token in (("transport", transport), ("type", kind)):
        if _TOKEN.fullmatch(token) is None:
            raise _malformed(f"its {name} {token[:20]!a} is not a token")
    extensions = _extensions(rest)
    related_port = extensions.get("rport")
    parsed_address = _address(address)
    if parsed_address is None:
        return None
    candidate = Candidate(
        foundation=foundation,
        component=_number(component, "component", 1, 256),
        priority=_number(priority, "priority", 1, MAX_PRIORITY),
        address=parsed_address,
        port=_number(port, "port", 0, 65535),
        type=kind.lower(),
        related_address=_related_address(extensions.get("raddr")),
        related_port=None if related_port is None else _number(related_port, "rport", 0, 65535),
    )
    wanted = transport.lower() == "udp" and candidate.component == 1 and candidate.type in CANDIDATE_TYPES
    if not wanted or policy.check(candidate.address, candidate.port) is not None:
        return None
    return candidate


class CandidateIntake:
    """The candidates of a description, or those that a party of a call sends later: what is of use, up to the bound.

    Malformed lines, candidates that are not for us, those that came before and those beyond the bound are left out.
    What is of no use takes none of the places.

    Attributes:
        dropped: how many lines were left out.
    """

    def __init__(self, policy: AddressPolicy) -> None:
        self._policy = policy
        self._looked_at = 0
        self._taken: set[Candidate] = set()
        self._places: Counter[tuple[int, bool]] = Counter()
        self.dropped = 0

    def take(self, lines: Iterable[str]) -> tuple[Candidate, ...]:
        """Read lines as :func:`parse_candidate` does; returns the candidates that are new and of use."""
        accepted: list[Candidate] = []
        for line in lines:
            candidate = self._read(line)
            if candidate is None:
                self.dropped += 1
            else:
                accepted.append(candidate)
        return tuple(accepted)

    def _read(self, line: str) -> Candidate | None:
        self._looked_at += 1
        if self._looked_at > MAX_CANDIDATE_LINES:
            return None
        try:
            candidate = parse_candidate(line, self._policy)
        except CandidateError:
            return None
        if candidate is None or candidate in self._taken:
            return None
        relayed = candidate.type == "relay"
        place = candidate.address.version, relayed
        if self._places[place] == (MAX_RELAYED if relayed else MAX_CANDIDATES):
            return None
        self._places[place] += 1
        self._taken.add(candidate)
        return candidate


def format_candidate(candidate: Candidate) -> str:
    """Write ``candidate:...``, without ``a=``: the form of the ``candidate`` key in ``m.call.candidates``."""
    text = (
        f"candidate:{candidate.foundation} {candidate.component} udp {candidate.priority} "
        f"{candidate.address} {candidate.port} typ {candidate.type}"
    )
    if candidate.related_address is not None:
        text += f" raddr {candidate.related_address}"
    if candidate.related_port is not None:
        text += f" rport {candidate.related_port}"
    return text
