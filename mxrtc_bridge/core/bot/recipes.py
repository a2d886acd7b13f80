"""Lines for a terminal that use a service: what ``how`` answers, in a chat and in the terminal.

They name the service and never where it leads: the port on the user's side is a usual one for the name, not the
target's.

They are there to be pasted into a shell, and a user id may hold all that a shell acts on, as ``$(...)``: whoever lists
a peer of such a name must not have anything run by it. So names are quoted where that is needed.
"""

from __future__ import annotations

from shlex import quote

from mxrtc_bridge.core.access.peer_names import short_name
from mxrtc_bridge.core.access.targets import AppendTarget, Direction, FilesTarget, ReadTarget, Target
from mxrtc_bridge.core.ids import ServiceName, UserId, server_of
from mxrtc_bridge.core.stream.messages import ServiceKind

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
_KINDS = {
    Direction.RECEIVE: ServiceKind.INBOX,
    Direction.SEND: ServiceKind.SHARE,
    Direction.BOTH: ServiceKind.FILES,
}


def kind_of(target: Target | FilesTarget) -> ServiceKind:
    """What a service that leads to ``target`` is for."""
    return _KINDS[target.direction] if isinstance(target, FilesTarget) else ServiceKind.STREAM


def usual_port(service: ServiceName) -> int:
    """The port on the user's side that is usual for a service of this name; never the one that it leads to."""
    return _PORTS.get(service, _PORT)


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
    full = quote(f"{name}/{service}")
    match target:
        case AppendTarget():
            return (f"mxrtc nc {full} < FILE",)
        case ReadTarget():
            return (f"mxrtc nc {full} > FILE",)
    return lines_for_kind(name, service, kind_of(target))


def lines_for_kind(name: str, service: ServiceName, kind: ServiceKind) -> tuple[str, ...]:
    """The same as :func:`lines_for`, for somebody who knows no more than what the service is for."""
    plain = f"{name}/{service}"
    full = quote(plain)
    # What takes the place of NAME may have spaces in it.
    put, take = f"mxrtc send FILE {full}", (f"mxrtc ls {full}", f"mxrtc get {_quoted(f'{plain}:NAME')}")
    match kind:
        case ServiceKind.INBOX:
            return (put,)
        case ServiceKind.SHARE:
            return take
        case ServiceKind.FILES:
            return (put, *take)
    connect = f"mxrtc connect {full} -L {usual_port(service)}"
    if service == "ssh":
        # A second shell reads the command, and before it ssh, to which "%" means something.
        through = _quoted(f"mxrtc -q nc {full}".replace("%", "%%"))
        return (f"ssh -o ProxyCommand={through} USER@{quote(name)}", connect)
    return (connect, f"mxrtc nc {full}")


def first_line(name: str, service: ServiceName, kind: ServiceKind) -> str:
    """The shortest line that does something with a service, for a list of many."""
    full = quote(f"{name}/{service}")
    match kind:
        case ServiceKind.STREAM:
            return f"mxrtc connect {full}"
        case ServiceKind.INBOX:
            return f"mxrtc send FILE {full}"
    return f"mxrtc ls {full}"


def _quoted(text: str) -> str:
    """Quote text for a shell, whether it needs it or not."""
    return "'" + text.replace("'", "'\"'\"'") + "'"
