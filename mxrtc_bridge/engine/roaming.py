"""Whether this machine has gone to another network, so that its paths from before lead nowhere any more.

An outage may end, and is waited for; an address that we no longer have, where another way leads out, does not come
back soon. Nothing is sent to find it out.
"""

from __future__ import annotations

import socket


def has_moved(own: str, remote: tuple[str, int]) -> bool:
    """Whether ``own`` is no address of this machine any more, and it would use another one towards ``remote``."""
    other = source_towards(remote)
    return other not in (None, own) and not is_ours(own)


def source_towards(remote: tuple[str, int]) -> str | None:
    """Return the address that packets to ``remote`` would come from; None where no way leads there."""
    try:
        with _udp_socket(remote[0]) as probe:
            probe.connect(remote)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return None


def is_ours(address: str) -> bool:
    """Whether this machine has the address; also where that cannot be found out."""
    try:
        probe = _udp_socket(address)
    except OSError:
        return True  # too many files are open, as a rule: no reason to end what works
    with probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def _udp_socket(address: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
