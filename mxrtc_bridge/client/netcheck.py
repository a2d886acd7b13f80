"""``mxrtc netcheck``: what this network lets through, before a call needs it."""

from __future__ import annotations

import os

from mxrtc_bridge.client.calls.connection import USUAL_BYTES
from mxrtc_bridge.client.exit_codes import ClientError, Exit, explain_refusal
from mxrtc_bridge.client.login.tokens import tokens_of
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.waiting import Waiting
from mxrtc_bridge.config.proxies import choose_proxy
from mxrtc_bridge.core.call.limits import CLOCK_TOLERANCE_MS
from mxrtc_bridge.core.errors import HomeserverError
from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.core.webrtc.gathering_words import USABLE
from mxrtc_bridge.core.webrtc.ice_servers import IceServer
from mxrtc_bridge.core.webrtc.network import Network
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.login import Account
from mxrtc_bridge.rtc.ice_servers import plan_servers
from mxrtc_bridge.rtc.network_survey import SERVER_S, survey

MAX_COLUMNS = 400
CLOCK_EXACT_S = 3.0
"""A homeserver says its time in whole seconds, and the answer takes its time."""
_MARKS = {True: "ok", False: "FAIL", None: "-"}


async def netcheck(context: Context) -> None:
    """Say line by line what was found, and at the end what it means.

    Raises:
        ClientError: no call works from here, or the homeserver does not answer.
        HomeserverError: it refuses us.
        ConfigError: no network interface is up.
    """
    login, waiting = context.state.load_login(), Waiting(context.report, context.call.timeout_s)
    account = Account(login.homeserver, login.user_id, login.device_id, tokens_of(context.state, login))
    _tell_proxy(context, login.homeserver)
    async with account.connect(waiting.patience) as homeserver:
        servers = await _servers(context, waiting, homeserver)
    limit = min(SERVER_S, context.call.timeout_s)
    network = await survey(plan_servers(servers), context.call.interfaces, timeout_s=limit)
    _tell_network(context, network)
    known = network.relays or network.lets_udp_out is not None
    _tell(context, "verdict", network.allows_calls if known else None, network.verdict)
    if not network.allows_calls:
        raise ClientError(Exit.NO_PATH, network.verdict)


async def _servers(context: Context, waiting: Waiting, homeserver: Homeserver) -> tuple[IceServer, ...]:
    try:
        async with waiting.limited():
            servers = await homeserver.turn_server()
    except (HomeserverError, ClientError) as error:
        why = explain_refusal(error) if isinstance(error, HomeserverError) else str(error)
        _tell(context, "homeserver", False, why)
        raise
    _tell(context, "homeserver", True, "the homeserver answers")
    offset = homeserver.clock_offset_s
    if offset is not None:
        fits = abs(offset) * 1000 <= CLOCK_TOLERANCE_MS
        apart = f"this clock is {abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} the homeserver's"
        if abs(offset) < CLOCK_EXACT_S:
            apart = "this clock and the homeserver's agree"
        remedy = "" if fits else "; calls are refused where clocks are so far apart: set the one that is wrong"
        _tell(context, "clock", fits, apart + remedy, offset_s=round(offset, 1))
    return servers


def _tell_proxy(context: Context, homeserver: str) -> None:
    choice = choose_proxy(homeserver, os.environ)
    if choice.proxy is not None:
        words = f"the homeserver is reached by the proxy {choice.proxy} ({choice.because}), and peers are not"
        _tell(context, "proxy", None, words, proxy=choice.proxy.address, because=choice.because)
    elif choice.because:
        words = f"the homeserver is reached without a proxy ({choice.because})"
        _tell(context, "proxy", None, words, proxy=None, because=choice.because)


def _tell_network(context: Context, network: Network) -> None:
    for family, out in (("IPv4", network.ipv4), ("IPv6", network.ipv6)):
        _tell(context, family.lower(), out or None, f"this machine has {'a' if out else 'no'} way out by {family}")
    for seen in network.servers:
        attempt = seen.attempt
        _tell(
            *(context, "server", seen.works, str(seen)),
            uri=attempt.uri,
            outcome=attempt.outcome.value,
            detail=attempt.detail,
            ms=round(seen.seconds * 1000),
        )
    for uri in network.unusable:
        _tell(context, "server", False, f"{uri} cannot be used; {USABLE}", uri=uri, outcome="unusable")
    if not any(seen.attempt.relays for seen in network.servers):
        _tell(context, "turn", None, "the homeserver gives no TURN server (voip/turnServer) that can be used")
    match network.lets_udp_out:
        case None:
            _tell(context, "udp", None, "whether UDP gets out is not known: there is no server to ask")
        case True:
            _tell(context, "udp", True, "UDP gets out, and answers come back")
        case False:
            _tell(context, "udp", False, "no UDP gets out, or no server answers by it")
    if network.packet_bytes is not None:
        words = f"packets of {network.packet_bytes} bytes get through, and no larger one of those that were tried"
        _tell(context, "mtu", network.packet_bytes >= USUAL_BYTES, words, bytes=network.packet_bytes)


def _tell(context: Context, what: str, ok: bool | None, words: str, **fields: object) -> None:
    line = display(f"{_MARKS[ok]:<5}{words}", MAX_COLUMNS)
    context.report.data("netcheck", line, what=what, ok=ok, message=words, **fields)
