"""Consent: whether the other side still wants our packets (RFC 7675), and whether they can still get there.

An outage is waited for, as it may end (:mod:`mxrtc_bridge.core.stream.silence`). What does not come back is told from
it by signs, each of which counts only while nothing is heard:

- our address on the path is gone, and another way leads out (:mod:`mxrtc_bridge.engine.roaming`);
- the STUN server sees us by another address than the other side did: a NAT has started again. Where that of the other
  side lets in only whom it has sent to, nothing passes any more. Where it does not, our next question opens the path
  anew, so that is given a moment;
- this machine has slept for longer than the other side waits, which has given up meanwhile, unless it slept as well;
- the machine of the other side says that nobody has the port (ICMP): its program has died. So says a router that has
  just started again, until the side behind it sends something; and so could say a stranger, who changes nothing as
  long as the other side is heard.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from enum import Enum
from random import random
from typing import Protocol

from aioice import stun
from aioice.ice import CandidatePair, StunProtocol

from mxrtc_bridge.engine.clock import asleep_s
from mxrtc_bridge.engine.roaming import has_moved, source_towards
from mxrtc_bridge.rtc.datagrams import Address
from mxrtc_bridge.rtc.settings import RtcSettings
from mxrtc_bridge.rtc.udp import UdpTransport

SILENT_S = 4.0
"""Without any packet for this long it is looked what may have happened; the other side sends every 3 s."""
LOOK_S = 2.0
"""How often that is looked after while the silence lasts."""
REOPENED_S = 4.0
"""How long the answer may take to the question that comes from our new address, which is repeated thrice within."""
REFUSED_S = 7.0
"""How long nothing may come after it was said that nobody has the port. Longer than the pause between two questions of
the other side, which open the way through a router that has started again."""

CONSENT_RETRANSMISSIONS = 5
"""With STUN's 0.5 s, 1 s, 2 s, ... an answer counts for half a minute after the question."""
_MAPPING_RETRANSMISSIONS = 1

_ERRORS = (stun.TransactionError, OSError, ValueError, LookupError)


class PathEnd(Enum):
    """Why a path has ended; the value is said to people."""

    EXPIRED = "the other side is gone: consent to send expired"
    MOVED = "this machine is in another network now"
    MAPPED_ANEW = "the router of this network has started again or has another address: the old path leads nowhere"
    SLEPT = "this machine has slept for longer than the other side waits"
    NOBODY = "the program on the other side has died: its port is closed"


@dataclass(frozen=True, slots=True)
class Reflexive:
    """What a STUN server has said of a socket."""

    server: Address
    mapped: Address


class Agent(Protocol):
    """The ICE agent whose nominated pairs are watched."""

    def nominated_pairs(self) -> list[CandidatePair]: ...

    def reflexive(self, protocol: StunProtocol) -> Reflexive | None:
        """What is known of the mapping of one of its sockets."""
        ...

    async def ask_consent(self, pair: CandidatePair, retransmissions: int) -> stun.Message:
        """Return the authenticated answer; a :class:`stun.TransactionError` says that there is none."""
        ...


class Consent:
    """Watches the nominated pairs of an agent.

    Args:
        agent: whose they are.
        settings: how often consent is asked for, and when it expires.
    """

    def __init__(self, agent: Agent, settings: RtcSettings) -> None:
        self._agent = agent
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._alive_at = 0.0
        self._sources: dict[CandidatePair, str | None] = {}
        self._seen_as: dict[StunProtocol, Address] = {}
        """How the other side has seen our sockets."""
        self._told: dict[StunProtocol, Address] = {}
        """How the STUN server has seen those last that it saw in another way than at the beginning."""
        self._looking = False
        self._doubt: PathEnd | None = None
        self._ends_at = 0.0
        """When the doubt becomes the end, if nothing is heard until then."""
        self._asking: set[asyncio.Task[None]] = set()
        self._mapping: asyncio.Task[None] | None = None

    def note_alive(self) -> None:
        """An authenticated packet came from the other side."""
        self._alive_at = self._loop.time()
        self._doubt = None

    def note_refused(self, address: Address) -> None:
        """It was said that nobody has the port at ``address``, by whom is not known."""
        if any(pair.remote_addr == address for pair in self._agent.nominated_pairs()):
            self._doubt_from_now(PathEnd.NOBODY, REFUSED_S)

    def _doubt_from_now(self, what: PathEnd, patience_s: float) -> None:
        ends_at = self._loop.time() + patience_s
        if self._doubt is None or ends_at < self._ends_at:
            self._doubt, self._ends_at = what, ends_at

    async def watch(self) -> PathEnd:
        """Return once the path has ended.

        The answers to older questions count as well: a path that our own data has filled delays them by seconds. For
        the same reason other authenticated traffic counts, which proves at least as much as an answer would.
        """
        self.note_alive()
        self._find_sources()
        ask_at = self._next_question(self._loop.time())
        asleep = asleep_s()
        try:
            while True:
                now = self._loop.time()
                slept = asleep_s() - asleep
                if slept >= self._settings.consent_expiry_s:
                    asleep += slept
                    self._doubt_from_now(PathEnd.SLEPT, REOPENED_S)
                    self.ask_all()
                silence = now - self._alive_at
                end = self._end(now, silence)
                if end is not None:
                    return end
                if self._look(silent=silence >= SILENT_S):
                    ask_at = now  # also for what may be said to it
                if ask_at <= now:
                    self._find_sources()
                    self.ask_all()
                    ask_at = self._next_question(now)
                pauses = [ask_at - now, self._settings.consent_expiry_s - silence]
                pauses.append(SILENT_S - silence if silence < SILENT_S else LOOK_S)
                if self._doubt is not None:
                    pauses.append(self._ends_at - now)
                await asyncio.sleep(max(min(pauses), 0.001))  # a clock may be too coarse for what is left
        finally:
            for task in self._asking:
                task.cancel()
            if self._mapping is not None:
                self._mapping.cancel()

    def _look(self, *, silent: bool) -> bool:
        """Look for signs while nothing is heard; True if that has just begun."""
        if silent:
            self._ask_mapping()
        if silent == self._looking:
            return False
        self._looking = silent
        for pair in self._agent.nominated_pairs():
            if isinstance(pair.protocol.transport, UdpTransport):
                pair.protocol.transport.report_refusals(wanted=silent)
        return silent

    def _next_question(self, now: float) -> float:
        return now + self._settings.consent_interval_s * (0.8 + 0.4 * random())  # noqa: S311 - spreads load

    def _end(self, now: float, silence: float) -> PathEnd | None:
        if silence >= self._settings.consent_expiry_s:
            return PathEnd.EXPIRED
        if silence < SILENT_S:
            return None
        if any(has_moved(own, pair.remote_addr) for pair, own in self._sources.items() if own):
            return PathEnd.MOVED
        return self._doubt if self._ends_at <= now else None

    def _find_sources(self) -> None:
        pairs = self._agent.nominated_pairs()
        self._sources = {pair: self._sources.get(pair) or _source(pair) for pair in pairs}

    # Questions to the other side

    def ask_all(self) -> None:
        """Ask for consent on each pair."""
        for pair in self._agent.nominated_pairs():
            task = asyncio.create_task(self._ask(pair))
            self._asking.add(task)
            task.add_done_callback(self._asking.discard)

    async def _ask(self, pair: CandidatePair) -> None:
        try:
            answer = await self._agent.ask_consent(pair, CONSENT_RETRANSMISSIONS)
        except _ERRORS:
            return
        self.note_alive()
        mapped = answer.attributes.get("XOR-MAPPED-ADDRESS")
        if mapped is not None:
            self._seen_as[pair.protocol] = mapped

    # Questions to the STUN server

    def _ask_mapping(self) -> None:
        if self._mapping is None or self._mapping.done():
            self._mapping = asyncio.create_task(self._look_for_another_mapping())

    async def _look_for_another_mapping(self) -> None:
        """Ask the STUN server how it sees our sockets, where the other side has seen them as it did.

        Otherwise a NAT shows us to everybody by another address (RFC 4787 section 4.1), and what the server sees says
        nothing about the path.
        """
        for pair in self._agent.nominated_pairs():
            known = self._agent.reflexive(pair.protocol)
            told = self._told.get(pair.protocol) or (known and known.mapped)
            if known is None or self._seen_as.get(pair.protocol) != told:
                continue
            request = stun.Message(message_method=stun.Method.BINDING, message_class=stun.Class.REQUEST)
            try:
                answer, _ = await pair.protocol.request(request, known.server, retransmissions=_MAPPING_RETRANSMISSIONS)
                mapped = answer.attributes["XOR-MAPPED-ADDRESS"]
            except _ERRORS:
                continue
            if mapped != told:
                self._told[pair.protocol] = mapped
                self._doubt_from_now(PathEnd.MAPPED_ANEW, REOPENED_S)
                self.ask_all()


def _source(pair: CandidatePair) -> str | None:
    """Our address on the path of a pair."""
    transport = pair.protocol.transport
    if isinstance(transport, UdpTransport):
        return str(transport.get_extra_info("sockname")[0])
    return source_towards(pair.remote_addr)  # of a relay: the network's other side is far enough away for both
