"""Lines for a terminal that use a service: what ``how`` answers.

They name the service and never where it leads: the port on the user's side is a usual one for the name, not the
target's.
"""

from __future__ import annotations

from mxrtc_bridge.core.access.peer_names import short_name
from mxrtc_bridge.core.access.targets import AppendTarget, FilesTarget, ReadTarget, Target
from mxrtc_bridge.core.ids import ServiceName, UserId, server_of

USUAL_PREFIX = "rtc_"
"""What ``mxrtc login`` assumes; with another prefix only the full name is right for everybody."""
_PORTS = {
    "ssh": 2222,
    "web": 8080,
    "http": 8080,
    "https": 8443,
    "db": 5432,
    "postgres": 5432,
    "postgresql": 5432,
    "mysql": 3306,
    "redis": 6379,
    "vnc": 5901,
    "rdp": 3389,
}
_PORT = 9000


def name_for(user: UserId, peer: UserId, prefix: str) -> str:
    """How ``user`` names ``peer`` on the command line."""
    return short_name(peer, server=server_of(user), prefix=USUAL_PREFIX) if prefix == USUAL_PREFIX else peer


def lines_for(name: str, service: ServiceName, target: Target | FilesTarget) -> tuple[str, ...]:
    """Return the lines, the most usual first.

    Args:
        name: the peer, as the user names it.
        service: the service.
        target: what kind of service it is.
    """
    full = f"{name}/{service}"
    match target:
        case FilesTarget(direction=direction):
            sends = (f"mxrtc ls {full}", f"mxrtc get '{full}:NAME'") if direction.sends else ()
            return (*((f"mxrtc send FILE {full}",) if direction.receives else ()), *sends)
        case AppendTarget():
            return (f"mxrtc nc {full} < FILE",)
        case ReadTarget():
            return (f"mxrtc nc {full} > FILE",)
    connect = f"mxrtc connect {full} -L {_PORTS.get(service, _PORT)}"
    if service == "ssh":
        return (f"ssh -o ProxyCommand='mxrtc -q nc {full}' USER@{name}", connect)
    return (connect, f"mxrtc nc {full}")
