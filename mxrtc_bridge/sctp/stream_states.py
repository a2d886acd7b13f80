"""What a stream number can be, both directions together: all states, all inputs, one table (RFC 8831 section 6.7).

Each direction is ended by whoever sends on it, by a reset request of its own. The number is free for its next channel
when both have ended. The two sides never know that at the same moment: what ends a direction here is our request that
was answered, or theirs that was carried out, and an answer may be lost. So what the other side sends after the end of
its direction belongs to the next channel, and shows that for the other side the number is free already.

Pure values: what is to be done is carried out by :mod:`mxrtc_bridge.sctp.channels`.
"""

from __future__ import annotations

from enum import Enum
from types import MappingProxyType
from typing import NamedTuple


class StreamState(Enum):
    """A stream number."""

    __hash__ = object.__hash__  # that of Enum runs in Python, twice for each step

    FREE = "free"
    """No channel, and nothing is under way: here we may send an OPEN, if the number is one of ours."""
    OVER = "over"
    """Free again after a channel, and nothing has come since. To answer another reset by one of ours, as for a channel
    that only they know of, would end the next channel: str0m 0.24 asks for each reset twice, and again for each of
    ours."""
    OPEN = "open"
    CLOSING = "closing"
    """The end of our direction is asked for; neither has ended."""
    ENDED_THERE = "ended there"
    """Their direction has ended; the end of ours is asked for."""
    ENDED_HERE = "ended here"
    """Our direction has ended; they have yet to end theirs."""
    GIVEN_UP = "given up"
    """As before, but they have been silent for too long: there is no channel any more, and the number is not free."""


class StreamInput(Enum):
    """What happens to it."""

    __hash__ = object.__hash__

    OPEN_RECEIVED = "OPEN received"
    ODD = "odd message received"
    """One that breaks the protocol of channels."""
    ACK = "ACK received"
    MESSAGE = "message received"
    """Any other."""
    CLOSE = "close"
    """Our side wants no more of it."""
    THEIR_RESET = "their reset"
    """They asked for the end of their direction, all of its messages have come, and it is carried out."""
    RESET_DONE = "our reset done"
    """They answered our request, or have shown that they have carried it out."""
    SILENCE = "silence"
    """They have said nothing on it for long since that."""


class StreamAction(Enum):
    """What is to be done."""

    OFFER = "offer"
    """A channel begins: tell of it."""
    DELIVER = "deliver"
    """Hand on the message."""
    DROP = "drop"
    """Give the bytes of the message back to the window."""
    RESET = "reset"
    """Ask for the end of our direction, after what is queued on it."""
    TELL_CLOSING = "tell closing"
    TELL_REFUSED = "tell refused"
    """Say why it is closed."""
    TELL_CLOSED = "tell closed"
    """The channel is gone."""
    AWAIT = "await"
    """Begin to wait for their reset, or begin again."""
    KEEP = "keep"
    """It is of the next channel: see whether it shows that our request was carried out; else it waits for that."""


class StreamStep(NamedTuple):
    """The next state, and what is to be done, in order."""

    state: StreamState
    actions: tuple[StreamAction, ...] = ()


def _table() -> dict[tuple[StreamState, StreamInput], StreamStep]:
    state, happens, do = StreamState, StreamInput, StreamAction
    rows: dict[StreamState, dict[StreamInput, StreamStep]] = {
        state.FREE: {
            happens.OPEN_RECEIVED: StreamStep(state.OPEN, (do.OFFER,)),
            happens.ODD: StreamStep(state.CLOSING, (do.TELL_REFUSED, do.RESET)),
            happens.ACK: StreamStep(state.FREE),
            # Of a channel that was agreed on beforehand, which nobody here knows of: they get to know.
            happens.MESSAGE: StreamStep(state.CLOSING, (do.DROP, do.TELL_REFUSED, do.RESET)),
            happens.CLOSE: StreamStep(state.FREE),
            happens.THEIR_RESET: StreamStep(state.ENDED_THERE, (do.RESET,)),
            happens.RESET_DONE: StreamStep(state.FREE),
            happens.SILENCE: StreamStep(state.FREE),
        },
        state.OVER: {
            happens.OPEN_RECEIVED: StreamStep(state.OPEN, (do.OFFER,)),
            happens.ODD: StreamStep(state.CLOSING, (do.TELL_REFUSED, do.RESET)),
            happens.ACK: StreamStep(state.OVER),
            happens.MESSAGE: StreamStep(state.CLOSING, (do.DROP, do.TELL_REFUSED, do.RESET)),
            happens.CLOSE: StreamStep(state.OVER),
            happens.THEIR_RESET: StreamStep(state.OVER),
            happens.RESET_DONE: StreamStep(state.OVER),
            happens.SILENCE: StreamStep(state.OVER),
        },
        state.OPEN: {
            happens.OPEN_RECEIVED: StreamStep(state.CLOSING, (do.TELL_CLOSING, do.TELL_REFUSED, do.RESET)),
            happens.ODD: StreamStep(state.CLOSING, (do.TELL_CLOSING, do.TELL_REFUSED, do.RESET)),
            happens.ACK: StreamStep(state.OPEN),
            happens.MESSAGE: StreamStep(state.OPEN, (do.DELIVER,)),
            happens.CLOSE: StreamStep(state.CLOSING, (do.RESET,)),
            happens.THEIR_RESET: StreamStep(state.ENDED_THERE, (do.TELL_CLOSING, do.RESET)),
            happens.RESET_DONE: StreamStep(state.OPEN),
            happens.SILENCE: StreamStep(state.OPEN),
        },
        state.CLOSING: {
            happens.OPEN_RECEIVED: StreamStep(state.CLOSING),
            happens.ODD: StreamStep(state.CLOSING),
            happens.ACK: StreamStep(state.CLOSING),
            happens.MESSAGE: StreamStep(state.CLOSING, (do.DELIVER,)),
            happens.CLOSE: StreamStep(state.CLOSING),
            happens.THEIR_RESET: StreamStep(state.ENDED_THERE),
            happens.RESET_DONE: StreamStep(state.ENDED_HERE, (do.AWAIT,)),
            happens.SILENCE: StreamStep(state.CLOSING),
        },
        state.ENDED_THERE: {
            happens.OPEN_RECEIVED: StreamStep(state.ENDED_THERE, (do.KEEP,)),
            happens.ODD: StreamStep(state.ENDED_THERE, (do.KEEP,)),
            happens.ACK: StreamStep(state.ENDED_THERE, (do.KEEP,)),
            happens.MESSAGE: StreamStep(state.ENDED_THERE, (do.KEEP,)),
            happens.CLOSE: StreamStep(state.ENDED_THERE),
            happens.THEIR_RESET: StreamStep(state.ENDED_THERE, (do.KEEP,)),
            happens.RESET_DONE: StreamStep(state.OVER, (do.TELL_CLOSED,)),
            happens.SILENCE: StreamStep(state.ENDED_THERE),
        },
        state.ENDED_HERE: {
            happens.OPEN_RECEIVED: StreamStep(state.ENDED_HERE),
            happens.ODD: StreamStep(state.ENDED_HERE),
            happens.ACK: StreamStep(state.ENDED_HERE, (do.AWAIT,)),
            happens.MESSAGE: StreamStep(state.ENDED_HERE, (do.DELIVER, do.AWAIT)),
            happens.CLOSE: StreamStep(state.ENDED_HERE),
            happens.THEIR_RESET: StreamStep(state.OVER, (do.TELL_CLOSED,)),
            happens.RESET_DONE: StreamStep(state.ENDED_HERE),
            happens.SILENCE: StreamStep(state.GIVEN_UP, (do.TELL_CLOSED,)),
        },
        state.GIVEN_UP: {
            happens.OPEN_RECEIVED: StreamStep(state.OPEN, (do.OFFER,)),
            happens.ODD: StreamStep(state.GIVEN_UP),
            happens.ACK: StreamStep(state.GIVEN_UP),
            happens.MESSAGE: StreamStep(state.GIVEN_UP, (do.DROP,)),
            happens.CLOSE: StreamStep(state.GIVEN_UP),
            happens.THEIR_RESET: StreamStep(state.OVER),
            happens.RESET_DONE: StreamStep(state.GIVEN_UP),
            happens.SILENCE: StreamStep(state.GIVEN_UP),
        },
    }
    return {(before, event): step for before, row in rows.items() for event, step in row.items()}


STEPS = MappingProxyType(_table())
"""A step for each state and each input."""
