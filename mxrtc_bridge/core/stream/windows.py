"""How much received payload may wait for whoever takes it: one place, where each limit follows from the one before.

A sender is slowed down by the receive window and must never be cut for filling it. With nothing under way it may put
one more packet into a window that is closed (RFC 9260 section 6.1), and that packet may complete a message: so a stream
that a session counts as a violation holds more than the window, a message and a packet.
"""

from __future__ import annotations

KIB = 1024

MAX_MESSAGE = 64 * KIB
"""Largest message in either direction, as our description says (RFC 8841 section 6)."""
MAX_PACKET = 64 * KIB
"""No datagram is larger."""
RECEIVE_WINDOW = 4 * KIB * KIB
"""Payload of all channels of a session that may wait for its consumer: at 50 ms of round trip it allows 80 MB/s."""
MAX_UNWRITTEN = RECEIVE_WINDOW + MAX_MESSAGE + MAX_PACKET
"""Payload of one stream without credits that may wait for its sink: more comes only from who does not keep to the
window."""
