"""Strict reading of descriptions and candidates, before any library sees them."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from enum import Enum

IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Setup(Enum):
    """``a=setup`` (RFC 8842)."""

    ACTPASS = "actpass"
    ACTIVE = "active"
    PASSIVE = "passive"


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
    related_port: int | None = None


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """``a=fingerprint`` (RFC 8122): lower-case algorithm, upper-case colon-separated hex."""

    algorithm: str
    value: str


@dataclass(frozen=True, slots=True)
class Description:
    """What is left of an offer or answer after the filter: one data section."""

    mid: str
    ufrag: str
    password: str
    ice_lite: bool
    fingerprints: tuple[Fingerprint, ...]
    setup: Setup
    sctp_port: int
    max_message_size: int
    candidates: tuple[Candidate, ...]
    end_of_candidates: bool
    dropped_candidates: int = 0
    """How many candidates the address policy refused; only a number, for the log."""
