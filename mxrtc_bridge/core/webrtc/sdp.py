"""Reading of descriptions before any library sees them, and writing of our own.

:func:`parse_description` accepts one data section (RFC 8841) over ICE (RFC 8839) and DTLS (RFC 8842, 8122), as
Chromium, Firefox, libdatachannel, pion and aiortc write it, and refuses what could not work or is not safe: a library
that met an audio section would start a decoder for it, one that met a missing fingerprint would hang. The result is a
value that holds nothing but what was checked; lines that we have no use for are not carried on, whatever is in them.

Where others leave something out or write more than is needed, the reading is theirs, so that no call fails by it
(RFC 8866 section 5, RFC 9429 section 5.8):

* a line ends with CRLF, LF or CR; blank lines, and spaces at the end of a line or around a value, mean nothing;
* lines and attributes that we have no use for may be missing, repeated or unknown, and may stand in any order;
* no ``a=setup``: the offerer is active (RFC 4145 section 4), the answerer too (what RFC 8842 section 5.3 asks of it);
* no ``a=mid``: one is made up; no ``a=sctp-port`` or ``a=max-message-size``: what RFC 8841 says;
* an attribute that occurs twice must say the same twice: whoever added the other line might have meant harm.

Whatever the text, the outcome is a :class:`Description` or a :class:`DescriptionError`. Sizes and counts are checked
before anything is kept. Error texts hold no addresses and no passwords, for they may be logged.

    refused with the code    when
    too_large                over 16 KiB
    bad_line                 a line is not of the form ``x=...``, or the first is not ``v=0``
    small_messages           ``a=max-message-size`` is less than 16 KiB, the payload messages of our protocols
    media_refused            there is a section that is not ``application``
    no_data_section          there is no data section; many_sections: more than one
    section_rejected         the data section has port 0
    bad_section              its protocol or format is not that of a data channel
    missing_attribute, bad_attribute, conflicting_attribute
    no_fingerprint, weak_fingerprint, bad_fingerprint, conflicting_fingerprints

Candidates are never a reason: those that cannot be used or are too many are left out, as
:class:`mxrtc_bridge.core.webrtc.candidate.CandidateIntake` has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from mxrtc_bridge.core.errors import DescriptionError, RefusalCode, StateError
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.candidate import Candidate, CandidateIntake, format_candidate

MAX_SDP_BYTES = 16 * 1024
"""Limit for a session description, in UTF-8 bytes; data-only descriptions of browsers have 1 to 4 KiB."""
MIN_MESSAGE_SIZE = 16 * 1024
"""What the other side must take: the payload messages of our protocols have as much."""

DEFAULT_MID = "0"
DEFAULT_SCTP_PORT = 5000
DEFAULT_MAX_MESSAGE_SIZE = 64 * 1024
"""RFC 8841 section 6.1: what absence of the attribute means."""
UNLIMITED_MESSAGE_SIZE = 2**30
"""Our reading of 0 ("any size"), and of everything above."""


class Setup(Enum):
    """``a=setup`` (RFC 8842)."""

    ACTPASS = "actpass"
    ACTIVE = "active"
    PASSIVE = "passive"


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
    password: str = field(repr=False)
    ice_lite: bool
    fingerprints: tuple[Fingerprint, ...]
    setup: Setup
    sctp_port: int
    max_message_size: int
    candidates: tuple[Candidate, ...]
    end_of_candidates: bool
    dropped_candidates: int = 0
    """How many candidates were left out; only a number, for the log."""


_UFRAG = re.compile(r"[A-Za-z0-9+/]{4,256}")
_PASSWORD = re.compile(r"[A-Za-z0-9+/]{22,256}")
_MID = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]{1,64}")
_PORT = re.compile(r"[0-9]{1,5}")
_SIZE = re.compile(r"[0-9]{1,20}")
_FLAG = re.compile(r"")
_SETUP = re.compile(r"actpass|active|passive", re.IGNORECASE)
_SINGLE = {
    "ice-ufrag": _UFRAG,
    "ice-pwd": _PASSWORD,
    "mid": _MID,
    "setup": _SETUP,
    "sctp-port": _PORT,
    "max-message-size": _SIZE,
    "ice-lite": _FLAG,
    "end-of-candidates": _FLAG,
}
_MANY = ("candidate", "fingerprint")
# Only in the session part, or only in the section; elsewhere these attributes mean nothing and are ignored.
_SESSION_ONLY = {"ice-lite"}
_SECTION_ONLY = {"mid", "sctp-port", "max-message-size", "candidate"}

_LINE_ENDS = re.compile(r"[\r\n]+")
_LINE = re.compile(r"[a-z]=[^\0]*")
_HASH_BYTES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
_WEAK_HASHES = {"sha-1", "md5", "md2"}
_FINGERPRINT = re.compile(r"([A-Za-z0-9-]{1,32}) +([!-~]+)")
_HEX_PAIRS = re.compile(r"[0-9A-F]{2}(:[0-9A-F]{2})*")

_PROTOCOLS = {"UDP/DTLS/SCTP", "TCP/DTLS/SCTP"}
_LEGACY_PROTOCOL = "DTLS/SCTP"  # draft-ietf-mmusic-sctp-sdp before -07: the format is the SCTP port


class _Part:
    """The attributes of the session part or of the section, those that we know."""

    def __init__(self, ignored: set[str]) -> None:
        self._ignored = ignored
        self.single: dict[str, str] = {}
        self.many: dict[str, list[str]] = {name: [] for name in _MANY}

    def add(self, line: str) -> None:
        name, _, value = line.partition(":")
        value = value.strip(" \t")
        if name in self._ignored:
            return
        if name in _MANY:
            self.many[name].append(value)
        elif name in _SINGLE:
            self._add_single(name, value)

    def _add_single(self, name: str, value: str) -> None:
        if _SINGLE[name].fullmatch(value) is None:
            # The value is not shown: it may be a password.
            raise DescriptionError(
                RefusalCode.BAD_ATTRIBUTE, f"a={name} does not have the form or the length that it must have"
            )
        if self.single.setdefault(name, value) != value:
            raise DescriptionError(RefusalCode.CONFLICTING_ATTRIBUTE, f"a={name} occurs twice with different values")


def _split_lines(text: str) -> list[str]:
    # Characters first: encoding a huge text only to measure it would be the attack.
    if len(text) > MAX_SDP_BYTES or len(text.encode("utf-8", "surrogatepass")) > MAX_SDP_BYTES:
        raise DescriptionError(RefusalCode.TOO_LARGE, f"the description is larger than {MAX_SDP_BYTES} bytes")
    lines = [line for line in (each.rstrip(" \t") for each in _LINE_ENDS.split(text)) if line]
    for number, line in enumerate(lines, 1):
        if _LINE.fullmatch(line) is None:
            raise DescriptionError(RefusalCode.BAD_LINE, f"line {number} of the description is not of the form x=value")
    if lines[:1] != ["v=0"]:
        raise DescriptionError(RefusalCode.BAD_LINE, "the description does not begin with v=0")
    return lines


def _media_lines(lines: list[str]) -> tuple[int, list[str]]:
    """Return the index of the only media line, and its fields."""
    indexes = [index for index, line in enumerate(lines) if line.startswith("m=")]
    fields = [lines[index][2:].split() or [""] for index in indexes]
    for section in fields:
        if section[0] != "application":
            raise DescriptionError(
                RefusalCode.MEDIA_REFUSED,
                f"the description has a section for {section[0][:20]!a}; only a data channel is served",
            )
    if not indexes:
        raise DescriptionError(RefusalCode.NO_DATA_SECTION, "the description has no m=application section")
    if len(indexes) > 1:
        raise DescriptionError(
            RefusalCode.MANY_SECTIONS, f"the description has {len(indexes)} data sections, the limit is 1"
        )
    return indexes[0], fields[0]


def _legacy_sctp_port(media: list[str], lines: list[str]) -> int | None:
    """Check the media line; return the SCTP port if it is of the legacy form, which names it."""
    if len(media) != 4:
        raise DescriptionError(
            RefusalCode.BAD_SECTION, "the media line must be m=application, a port, a protocol and one format"
        )
    _, port, protocol, form = media
    if _PORT.fullmatch(port) is None or int(port) > 65535:
        raise DescriptionError(
            RefusalCode.BAD_SECTION, f"the port {port[:20]!a} of the media line is not from 0 to 65535"
        )
    if int(port) == 0:
        raise DescriptionError(RefusalCode.SECTION_REJECTED, "the data section is rejected: its port is 0")
    protocol = protocol.upper()
    if protocol in _PROTOCOLS and form == "webrtc-datachannel":
        return None
    if protocol != _LEGACY_PROTOCOL or _PORT.fullmatch(form) is None:
        raise DescriptionError(
            RefusalCode.BAD_SECTION,
            f"protocol {protocol[:30]!a} with format {form[:30]!a} is not that of a data channel",
        )
    if not any(line.split()[:2] == [f"a=sctpmap:{form}", "webrtc-datachannel"] for line in lines):
        raise DescriptionError(RefusalCode.BAD_SECTION, f"a=sctpmap does not map {form} to webrtc-datachannel")
    return int(form)


def _fingerprints(values: list[str]) -> tuple[Fingerprint, ...]:
    known: dict[str, Fingerprint] = {}
    weak = False
    for text in values:
        match = _FINGERPRINT.fullmatch(text)
        if match is None:
            raise DescriptionError(RefusalCode.BAD_FINGERPRINT, "a=fingerprint must be an algorithm and a value")
        algorithm, value = match[1].lower(), match[2].upper()
        if algorithm not in _HASH_BYTES:
            weak = weak or algorithm in _WEAK_HASHES
            continue
        if _HEX_PAIRS.fullmatch(value) is None or value.count(":") + 1 != _HASH_BYTES[algorithm]:
            raise DescriptionError(
                RefusalCode.BAD_FINGERPRINT,
                f"the {algorithm} fingerprint must be {_HASH_BYTES[algorithm]} pairs of hex digits",
            )
        fingerprint = Fingerprint(algorithm, value)
        # Two certificates cannot both be the one that DTLS will see: somebody added a line.
        if known.setdefault(algorithm, fingerprint) != fingerprint:
            raise DescriptionError(
                RefusalCode.CONFLICTING_FINGERPRINTS, f"there are two different {algorithm} fingerprints"
            )
    if known:
        return tuple(known.values())
    if weak:
        raise DescriptionError(
            RefusalCode.WEAK_FINGERPRINT, "the only fingerprints are weak ones; sha-256 or better is needed"
        )
    raise DescriptionError(RefusalCode.NO_FINGERPRINT, "the description has no fingerprint by sha-256 or better")


def _setup(text: str, kind: DescriptionType) -> Setup:
    setup = Setup(text.lower())
    if kind is DescriptionType.ANSWER and setup is Setup.ACTPASS:
        raise DescriptionError(
            RefusalCode.BAD_ATTRIBUTE, "an answer must choose a=setup:active or passive, not actpass"
        )
    return setup


def _sctp_port(text: str | None, legacy: int | None) -> int:
    port = int(text) if text is not None else DEFAULT_SCTP_PORT if legacy is None else legacy
    if not 1 <= port <= 65535:
        raise DescriptionError(RefusalCode.BAD_ATTRIBUTE, f"the SCTP port {port} is not from 1 to 65535")
    return port


def _max_message_size(text: str | None) -> int:
    if text is None:
        return DEFAULT_MAX_MESSAGE_SIZE
    if 0 < int(text) < MIN_MESSAGE_SIZE:
        raise DescriptionError(
            RefusalCode.SMALL_MESSAGES, f"a=max-message-size is {int(text)}; {MIN_MESSAGE_SIZE} bytes are needed"
        )
    return min(int(text), UNLIMITED_MESSAGE_SIZE) or UNLIMITED_MESSAGE_SIZE


def _reader(session: _Part, section: _Part) -> tuple[Callable[[str], str | None], Callable[[str], str]]:
    """Return two readers of an attribute: the section's value counts before the session's."""

    def optional(name: str) -> str | None:
        return section.single.get(name, session.single.get(name))

    def required(name: str) -> str:
        value = optional(name)
        if value is None:
            raise DescriptionError(RefusalCode.MISSING_ATTRIBUTE, f"the data section has no a={name}")
        return value

    return optional, required


def parse_description(text: str, kind: DescriptionType, policy: AddressPolicy) -> Description:
    """Read and check a session description of the other side.

    Args:
        text: the SDP.
        kind: offer or answer; an answer must have chosen its DTLS role.
        policy: judges the addresses of the candidates; what cannot be used is left out and counted.

    Raises:
        DescriptionError: with one of the codes listed at the head of this module; no other exception leaves it.
    """
    lines = _split_lines(text)
    index, media = _media_lines(lines)
    session, section = _Part(ignored=_SECTION_ONLY), _Part(ignored=_SESSION_ONLY)
    for part, part_lines in ((session, lines[:index]), (section, lines[index + 1 :])):
        for line in part_lines:
            if line.startswith("a="):
                part.add(line[2:])
    legacy_port = _legacy_sctp_port(media, lines[index + 1 :])
    optional, required = _reader(session, section)
    intake = CandidateIntake(policy)
    return Description(
        mid=optional("mid") or DEFAULT_MID,
        ufrag=required("ice-ufrag"),
        password=required("ice-pwd"),
        ice_lite=optional("ice-lite") is not None,
        fingerprints=_fingerprints(section.many["fingerprint"] or session.many["fingerprint"]),
        setup=_setup(optional("setup") or Setup.ACTIVE.value, kind),
        sctp_port=_sctp_port(optional("sctp-port"), legacy_port),
        max_message_size=_max_message_size(optional("max-message-size")),
        candidates=intake.take(section.many["candidate"]),
        end_of_candidates=optional("end-of-candidates") is not None,
        dropped_candidates=intake.dropped,
    )


def format_description(description: Description, kind: DescriptionType, *, session_id: int) -> str:
    """Write our own description: one data section with everything in it, lines ended by CRLF.

    Args:
        description: what to write; ``dropped_candidates`` is not part of it.
        kind: offer or answer.
        session_id: for the origin line (RFC 9429 section 5.2.1: random, below 2^63); not checked by anyone.

    Raises:
        StateError: an answer that does not choose a DTLS role.
    """
    if kind is DescriptionType.ANSWER and description.setup is Setup.ACTPASS:
        raise StateError("an answer must choose the DTLS role active or passive")
    lines = ["v=0", f"o=- {session_id} 1 IN IP4 127.0.0.1", "s=-", "t=0 0", f"a=group:BUNDLE {description.mid}"]
    if description.ice_lite:
        lines.append("a=ice-lite")
    lines += [
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        f"a=mid:{description.mid}",
        "a=sendrecv",
        f"a=ice-ufrag:{description.ufrag}",
        f"a=ice-pwd:{description.password}",
        "a=ice-options:trickle",
        *(f"a=fingerprint:{each.algorithm} {each.value}" for each in description.fingerprints),
        f"a=setup:{description.setup.value}",
        f"a=sctp-port:{description.sctp_port}",
        f"a=max-message-size:{description.max_message_size}",
        *(f"a={format_candidate(candidate)}" for candidate in description.candidates),
    ]
    if description.end_of_candidates:
        lines.append("a=end-of-candidates")
    return "\r\n".join(lines) + "\r\n"


class DescriptionType(Enum):
    """The ``type`` of a session description (JSEP, RFC 9429)."""

    OFFER = "offer"
    ANSWER = "answer"
