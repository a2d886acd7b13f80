"""Everything that can be set about a peer connection, as one frozen value.

The values come from the configuration or the command line; what they name is checked here once, so that a mistake
is found at start and not in the first call.
"""

from __future__ import annotations

from dataclasses import dataclass

from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.stream import silence, windows
from mxrtc_bridge.core.webrtc.ice import Advertised, IcePolicy


@dataclass(frozen=True, slots=True)
class RtcSettings:
    """Settings of all peer connections. Times are in seconds, sizes in bytes."""

    policy: IcePolicy = IcePolicy.ALL
    """Which local candidates may be used; ``RELAY`` hides every local address."""
    interfaces: tuple[str, ...] = ()
    """Names of network interfaces, addresses or networks to use; empty means all but loopback."""
    advertise: tuple[Advertised, ...] = ()
    """External addresses of a one-to-one NAT, shown in place of the local ones."""
    port_range: tuple[int, int] | None = None
    """First and last UDP port for local candidates; None leaves the choice to the operating system."""

    gather_timeout_s: float = 1.0
    """Longest wait of a description for STUN and TURN servers; what they give later follows by itself. Enough for TURN
    over UDP on a slow line, and no more: where a server is dead each call waits for so long, twice."""
    servers_timeout_s: float = 10.0
    """How long servers are asked; where there is nothing else to offer, the description waits for them so long."""
    channel_refresh_s: float = 240.0
    """After how long a channel of a TURN server is bound again; its permission ends after 300 (RFC 8656 section 9), and
    where binding fails it is tried every 10 s until then."""
    spare_relay_s: float = 60.0
    """How long a relayed address is kept that the path does not use; in its first moments another may be chosen."""
    ice_timeout_s: float = 25.0
    check_again_s: float = 0.5
    """How long the answer to a check of a path, or of a STUN server, is waited for before it is asked again; with many
    paths checks wait longer."""
    dtls_timeout_s: float = 15.0
    sctp_timeout_s: float = 10.0
    consent_interval_s: float = 5.0
    """Between two consent checks (RFC 7675 section 5.1), varied by a fifth."""
    consent_expiry_s: float = silence.CONSENT_S
    """Without any authenticated packet for this long, the other side is gone."""

    max_channels: int = 256
    """Channels of one connection, those of both sides together."""
    opens_per_second: int = 32
    """Lasting rate at which the other side may open channels; a burst of ``max_channels`` is let through."""
    max_message: int = windows.MAX_MESSAGE
    """Largest message in either direction."""
    max_channel_name: int = 256
    """Label and protocol of a channel, together, in bytes."""
    send_mark: int = 256 * 1024
    """Below this much queued payload, more is welcome."""
    send_limit: int = 8 * 1024 * 1024
    """Queued payload that ends the connection: somebody did not look at the mark."""
    receive_window: int = windows.RECEIVE_WINDOW
    """Received payload that may wait in our memory for its consumer, over all channels; incomplete messages may take as
    much again. It bounds the rate of one connection: 80 MB/s at 50 ms of round trip."""

    def __post_init__(self) -> None:
        if self.port_range is not None:
            first, last = self.port_range
            if not 1024 <= first <= last <= 65535:
                raise ConfigError(f"port_range: {first}-{last} is not an ascending range within 1024-65535")
        for name in (
            "gather_timeout_s",
            "servers_timeout_s",
            "ice_timeout_s",
            "dtls_timeout_s",
            "sctp_timeout_s",
            "consent_interval_s",
        ):
            if not 0 < getattr(self, name) <= 600:
                raise ConfigError(f"{name}: {getattr(self, name)} is not within 0-600 s")
        if not 16 * 1024 <= self.max_message <= 256 * 1024:
            raise ConfigError(f"max_message: {self.max_message} is not within 16384-262144")
        if not 1 <= self.max_channels <= 1024:
            raise ConfigError(f"max_channels: {self.max_channels} is not within 1-1024")
        if self.receive_window < 2 * self.max_message:
            raise ConfigError(f"receive_window: {self.receive_window} is less than two messages")
