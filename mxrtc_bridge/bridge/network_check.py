"""What ``mxrtc-bridge check`` finds about the network: who can reach this machine, which servers relay, the clock."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection

from mxrtc_bridge.config.config import IceSettings
from mxrtc_bridge.config.problems import Finding, Level
from mxrtc_bridge.core.call.limits import CLOCK_TOLERANCE_MS
from mxrtc_bridge.core.errors import ConfigError, HomeserverError
from mxrtc_bridge.core.webrtc.gathering_words import USABLE, outcome_words
from mxrtc_bridge.core.webrtc.ice import IcePolicy, IpAddress
from mxrtc_bridge.core.webrtc.network import Network, ServerSeen
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.rtc.ice_servers import ServerPlan, plan_servers
from mxrtc_bridge.rtc.interfaces import choose_addresses, local_addresses
from mxrtc_bridge.rtc.network_survey import SERVER_S, survey

_SET_UP = "run coturn and set turn_uris and turn_shared_secret in homeserver.yaml"
_MEND = "check the secret, the ports, the certificate and coturn's log"
STRICT = "users behind strict firewalls cannot connect"


async def check_network(
    ice: IceSettings, homeserver: Homeserver, *, timeout_s: float = SERVER_S
) -> AsyncIterator[Finding]:
    """Say what stands between this machine and its callers.

    Args:
        ice: which servers, addresses and relays are configured.
        homeserver: gives the other servers, and its time.
        timeout_s: how long each server may take.
    """
    servers = ice.servers
    if ice.use_homeserver_servers:
        try:
            # As the user that the registration itself has made: a check makes no accounts.
            servers = (*servers, *await homeserver.turn_server())
        except HomeserverError as error:
            yield Finding(
                Level.WARN, f"the homeserver gives no TURN servers: {error}", "set turn_uris in homeserver.yaml"
            )
            return
    offset = homeserver.clock_offset_s
    if offset is not None and abs(offset) * 1000 > CLOCK_TOLERANCE_MS:
        what = f"this clock is {abs(offset):.0f} s {'behind' if offset > 0 else 'ahead of'} the homeserver's"
        yield Finding(Level.WARN, f"{what}: calls are refused as too old", "set the clock that is wrong")
    plan = plan_servers(servers)
    try:
        addresses = choose_addresses(local_addresses(), ice.interfaces)
        network = await survey(plan, ice.interfaces, timeout_s=timeout_s)
    except ConfigError as error:
        level = Level.FAIL if ice.interfaces else Level.WARN  # a network that is down comes back
        yield Finding(level, str(error), "correct ice.interfaces, or bring the interface up")
        return
    if plan.turn:
        for finding in judge_servers(network):
            yield finding
    else:
        yield judge_reach(ice, addresses, plan)
    for uri in network.unusable:
        yield Finding(Level.WARN, f"{uri} cannot be used", USABLE)


def judge_servers(network: Network) -> list[Finding]:
    """What the TURN servers do, each by its name."""
    turn = [each for each in network.servers if each.attempt.relays]
    failing = [each for each in turn if not each.works]
    if not network.relays:
        return [
            Finding(
                Level.FAIL, f"no TURN server gives a relayed address that others can reach: {_listed(failing)}", _MEND
            )
        ]
    findings = [Finding(Level.OK, f"TURN gives a relayed address ({len(turn) - len(failing)} of {len(turn)} URIs)")]
    if failing:
        findings.append(Finding(Level.WARN, _listed(failing), _MEND))
    if network.lets_udp_out is False:
        what = "no server answers by UDP, so no session is direct, and all are relayed by TCP"
        findings.append(Finding(Level.WARN, what, "let this machine send UDP, and receive the answers"))
    return findings


def _listed(servers: list[ServerSeen]) -> str:
    return ", ".join(f"{each.attempt.uri} {outcome_words(each.attempt)}" for each in servers)


def judge_reach(ice: IceSettings, addresses: Collection[IpAddress], plan: ServerPlan) -> Finding:
    """Who can connect where there is no TURN server.

    Args:
        ice: what is advertised, and whether only relays may be used.
        addresses: those of this machine that are offered.
        plan: has the STUN servers.
    """
    none = "there is no TURN server"
    if ice.policy is IcePolicy.RELAY:
        return Finding(Level.FAIL, f"{none}, and ice.policy allows relays only: nobody can connect", _SET_UP)
    advertised = {each.external.version for each in ice.advertise}
    versions = advertised | {each.version for each in addresses if each.is_global}
    if 4 in versions:
        return Finding(Level.WARN, f"{none}, so {STRICT}", _SET_UP)
    forward = f"{_SET_UP}, or have a range of UDP ports forwarded to this machine and set ice.advertise and port_range"
    if versions:
        what = f"{none}, and this machine offers IPv4 addresses of its own network only (ice.advertise names no other)"
        return Finding(Level.WARN, f"{what}: users without IPv6 cannot connect", forward)
    what = f"{none}, and this machine offers addresses of its own network only (ice.advertise names no other)"
    if plan.stun:
        return Finding(Level.WARN, f"{what}: by the STUN server some users outside can connect, and {STRICT}", forward)
    return Finding(Level.WARN, f"{what}: nobody outside of that network can connect", forward)
