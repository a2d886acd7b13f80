"""What an association is told at its start: ports, sizes, limits and times.

Every limit holds before anything is allocated for the input that it bounds; docs/reference/sctp.md lists what happens
at each.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class SctpSettings:
    """Settings of one association; sizes in bytes, times in seconds."""

    local_port: int = 5000
    """Our SCTP port, as announced in the description (RFC 8841)."""
    remote_port: int = 5000
    """The other side's, from its description."""
    packet_size: int = 1172
    """Largest SCTP packet without a search: 1200 bytes of UDP payload (RFC 8831 section 5) less 28 of a DTLS record."""
    packet_size_floor: int = 1172
    """Largest packet until a probe of ``packet_size`` was answered; equal to it where that is not in doubt."""
    packet_size_ceiling: int = 1172
    """Largest packet that path MTU probing tries (RFC 8899); equal to ``packet_size`` for no probing."""
    interleaving: bool = True
    """Offer I-DATA (RFC 8260)."""
    zero_checksum: bool = True
    """Accept, and send where accepted, a checksum of zero (RFC 9653): DTLS protects every packet already."""

    receive_window: int = 4 * MIB
    """Received bytes that may wait for the application; incomplete messages may take as much again."""
    max_message: int = 256 * KIB
    """Largest message received; a larger one aborts the association."""
    max_remote_message: int = 64 * KIB
    """Largest message sent, from the other side's description (RFC 8841 section 6)."""
    max_streams: int = 65_535
    """Streams in each direction (RFC 8831 section 6.2): some implementations never use a number twice."""
    max_used_streams: int = 4096
    """Streams on which something has come and that were not reset since; more abort, as each costs memory."""
    max_fragments: int = 65_536
    """Fragments of incomplete messages, and whole messages that wait for earlier ones."""
    max_tsn_span: int = 65_536
    """How far beyond the cumulative acknowledgement a TSN may lie; one that lies further is dropped."""
    max_gaps: int = 1024
    """Separate ranges of TSNs that are remembered beyond the cumulative acknowledgement."""
    max_gap_blocks: int = 512
    """Gap blocks of one SACK that are looked at; the rest of it is ignored."""
    max_queued: int = 64 * MIB
    """Bytes that may wait for sending or acknowledgement, all streams together."""
    max_queued_messages: int = 262_144
    """Messages that may wait for sending, all streams together."""
    max_control_bytes: int = 64 * KIB
    """Answers (HEARTBEAT-ACK, ERROR, RE-CONFIG) that may wait for sending; what exceeds it is not answered."""

    setup_timeout: float = 1.0
    """First wait for an answer in the set-up, doubled each time; less than a round trip does no harm there."""
    rto_initial: float = 1.0
    rto_min: float = 0.2
    rto_max: float = 10.0
    backoff_max: float = 10.0
    """Longest pause that repetition in vain leads to; a timeout that round trips have made longer stays as it is."""
    ack_delay: float = 0.025
    """How long the acknowledgement of a single packet may wait (RFC 9260 section 6.2 allows 0.5)."""
    closed_window_ack: float = 0.25
    """Least time between acknowledgements while our window is closed: libwebrtc sends one packet for each."""
    heartbeat_interval: float = 30.0
    """Idle time after which the other side is asked whether it is still there; 0 for never."""
    reset_patience: float = 30.0
    """How long the other side may be silent on a stream, after it has answered our reset of it, without its own."""
    max_retransmissions: int = 10
    """Timeouts in a row after which the association has failed."""
    max_init_retransmissions: int = 8
    cookie_lifetime: float = 60.0
