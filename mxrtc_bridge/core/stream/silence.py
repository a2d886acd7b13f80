"""How long the other side may be silent before a session ends: one rule, and every time that follows from it.

A path that is cut for :data:`OUTAGE_S` must cut no stream. The consent of ICE (RFC 7675) decides alone, as it is the
only one that hears every packet: SCTP must not give up before it, and the control channel after it only, for a program
that hangs while what carries its packets still answers.

The last packet came at most :data:`QUIET_S` before the cut, and something is sent again at most :data:`REPEAT_S` after
its end. Both together with the outage must be less than :data:`CONSENT_S`, or the outage would be seen as an end.
"""

from __future__ import annotations

OUTAGE_S = 25.0
"""A lift, a tunnel, a handover, a router that starts again."""
CONSENT_S = 30.0
"""Without any authenticated packet for this long we may not send any more (RFC 7675 section 5.1)."""
QUIET_S = 2.0
"""So long after the last message of the other side it is asked for a sign of life by who has opened the session."""
ACCEPTOR_QUIET_S = 3.0
"""The same for who has accepted it; later, so that one question is enough for both."""
REPEAT_S = 2.0
"""Longest pause until SCTP sends again what was not acknowledged, on paths that are not slower than that."""
REPETITIONS = 30
"""Timeouts in a row until SCTP gives up: with pauses of 0.2, 0.4, ... 2 s that is 57 s."""
DEAD_S = 40.0
"""Without a message for this long a program hangs; what comes again after an outage may have to wait in queues."""
