"""One byte stream over a data channel: the machine of ``tcp.v1.mxrtc``, both roles.

Everything that affects its transitions is in this file, and what it has in common with the raw one in
:mod:`mxrtc_bridge.core.stream.halves`; docs/reference/protocol.md section 3 is its specification.

What it guards against:
 - bytes that are lost without anybody noticing: only ``fin`` and its acknowledgement end a direction in order, all
   other ends reset the local side;
 - memory without bounds: what came from the channel is bounded by the credit that was given, what came from the sink
   by pausing it; no peer can make either grow;
 - one slow stream that holds up all others: bytes under a credit that we promised are reported as consumed when they
   arrive, so that the SCTP receive window, which all streams share, stays open. Bytes that came on the initial credit
   alone were never promised a place; they are reported when the local side takes them.

How it works: a phase for the stream as a whole, and one state for each of its halves. The phase decides by a table
which messages the other side may send; the sink's state decides by a table which sink events may come. A message
outside its row is a violation by the other side and ends the stream; a sink event outside its row is a mistake of our
own driver: :class:`~mxrtc_bridge.core.errors.StateError`, and nothing has changed. After the end every event is
allowed and does nothing, except that late messages are reported as consumed and a sink that comes late is reset.

One file: everything that affects the transitions of one machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.core.stream import events, messages
from mxrtc_bridge.core.stream.events import StreamOutcome, StreamRole
from mxrtc_bridge.core.stream.halves import (
    ByteStreamMachine,
    ReceiveState,
    SendState,
    SinkState,
    checked_window,
    text_size,
)

ANSWER_TIMEOUT_S = 15.0
"""How long an opener waits for ``ok``: the acceptor's own limit for its target (10 s), and a slow path."""
FIN_TIMEOUT_S = 30.0
"""How long the acknowledgement of ``fin`` may take once all bytes are acknowledged."""


class StreamPhase(Enum):
    """Where the stream as a whole is."""

    OPENING = "opening"
    """Opener: the channel is not open yet."""
    AWAITING_OK = "awaiting ok"
    """Opener: the acceptor has not answered; the initial credit may be used."""
    CONNECTING = "connecting"
    """Acceptor: the local side is not there yet; what comes is held."""
    FLOWING = "flowing"
    """Both sides are there."""
    FINISHED = "finished"


MESSAGES: Mapping[tuple[StreamRole, StreamPhase], frozenset[type[messages.Message]]] = {
    (StreamRole.OPENER, StreamPhase.OPENING): frozenset(),  # never read: any message means that the channel is open
    (StreamRole.OPENER, StreamPhase.AWAITING_OK): frozenset({messages.Ok, messages.Err, messages.Rst}),
    (StreamRole.OPENER, StreamPhase.FLOWING): frozenset({messages.Ack, messages.Fin, messages.Rst}),
    # The opener does not know how far the acceptor is: both of its rows are the same.
    (StreamRole.ACCEPTOR, StreamPhase.CONNECTING): frozenset({messages.Open, messages.Ack, messages.Fin, messages.Rst}),
    (StreamRole.ACCEPTOR, StreamPhase.FLOWING): frozenset({messages.Open, messages.Ack, messages.Fin, messages.Rst}),
}
"""What the other side may send. The phases that a role never sees have no row; FINISHED reads no messages."""


class StreamMachine(ByteStreamMachine):
    """One stream of ``tcp.v1.mxrtc``.

    Args:
        role: which side of the channel we are.
        window: the credit that we offer, in bytes, 16 KiB to 16 MiB.
        stream_id: sent with ``open`` if given (opener only).

    Raises:
        StateError: ``window`` is out of range.
    """

    def __init__(
        self, role: StreamRole, *, window: int = messages.DEFAULT_WINDOW, stream_id: str | None = None
    ) -> None:
        super().__init__(role, send_limit=messages.INITIAL_CREDIT, window=checked_window(window))
        self.phase = StreamPhase.OPENING if role is StreamRole.OPENER else StreamPhase.CONNECTING
        self._stream_id = stream_id
        self._heard = False
        self._answer_by: float | None = None
        self._fin_ack_by: float | None = None

    @property
    def send_state(self) -> SendState:
        return self._send.state

    @property
    def receive_state(self) -> ReceiveState:
        return self._receive.state

    def set_window(self, window: int) -> None:
        """Offer ``window`` bytes from the next acknowledgement on; credit that was given is never taken back.

        Raises:
            StateError: ``window`` is out of range.
        """
        self._receive.window = checked_window(window)

    def next_deadline(self) -> float | None:
        """Return when a Tick is due, or None."""
        # Never both: the acknowledgement of fin is awaited only after the answer.
        return self._fin_ack_by if self._answer_by is None else self._answer_by

    # The channel

    def _channel_opened(self, now: float) -> None:
        if self.phase is not StreamPhase.OPENING:
            return
        self.phase = StreamPhase.AWAITING_OK
        self._answer_by = now + ANSWER_TIMEOUT_S
        if self._stream_id is not None:
            self._say(messages.Open(self._stream_id))
        self._receive.promise()
        if self._receive.promised > messages.INITIAL_CREDIT:
            self._say(messages.Ack(0, self._receive.window))
        self._continue_sending(now)

    def _text_received(self, now: float, text: str) -> None:
        if text:
            self._emit(events.Consumed(text_size(text)))
        # The other side answers only after it saw the channel open, whatever our transport has told us so far.
        self._channel_opened(now)
        first, self._heard = not self._heard, True
        message = messages.TCP.decode(text)
        if message is None:
            return
        allowed = MESSAGES[self.role, self.phase]
        if type(message) not in allowed or (isinstance(message, messages.Open) and not first):
            raise WireError("out_of_turn", f"{type(message).__name__.lower()} came while {self.phase.value}")
        match message:
            case messages.Open():
                pass  # The id is for later versions, which can resume a stream.
            case messages.Ok(window=window):
                self._accepted(now, window)
            case messages.Err(code=code, message=reason):
                self._end(StreamOutcome.REFUSED, code.value, reason, events.CloseChannel(), events.ResetSink())
            case messages.Ack(offset=offset, window=window):
                self._acknowledged(offset, window)
            case messages.Fin(offset=offset):
                self._fin_received(offset)
            case messages.Rst(code=rst_code):
                self._end(
                    StreamOutcome.RESET,
                    rst_code,
                    messages.RESET_BY_OTHER_SIDE,
                    events.CloseChannel(),
                    events.ResetSink(),
                )

    def _binary_received(self, now: float, data: bytes) -> None:
        self._channel_opened(now)
        if not data:
            return
        half = self._receive
        half.received += len(data)
        if len(data) > messages.MAX_PAYLOAD_BYTES:
            raise WireError("too_long", f"payload of {len(data)} bytes; the limit is {messages.MAX_PAYLOAD_BYTES}")
        if self.phase is StreamPhase.AWAITING_OK:
            raise WireError("out_of_turn", "payload came before ok")
        if half.state is not ReceiveState.OPEN:
            raise WireError("out_of_turn", "payload came after fin")
        if half.received > half.limit:
            raise WireError("over_credit", f"payload up to {half.received}; the credit ended at {half.limit}")
        self._heard = True
        half.held.append(data)
        self._write_held()

    def _channel_closed(self, _now: float) -> None:
        if self._send.state is SendState.DONE and self._receive.state is ReceiveState.DRAINING:
            # All of both directions has arrived; only our own sink is still busy with it.
            self._end(StreamOutcome.CLEAN, "", "both directions ended", events.CloseSink())
        else:
            self._end(
                StreamOutcome.LOST, "closed", "the channel closed before the stream had ended", events.ResetSink()
            )

    def _accepted(self, now: float, window: int) -> None:
        self.phase = StreamPhase.FLOWING
        self._answer_by = None
        self._send.limit = max(self._send.limit, window)
        self._emit(events.Accepted())
        self._await_fin_ack(now)
        self._announce()

    def _acknowledged(self, offset: int, window: int) -> None:
        half = self._send
        if not half.acked <= offset <= half.sent:
            raise WireError("bad_offset", f"ack of {offset}; {half.acked} to {half.sent} was possible")
        half.acked = offset
        half.limit = max(half.limit, offset + window)
        if half.state is SendState.FIN_SENT and offset == half.sent:
            half.state = SendState.DONE
            self._fin_ack_by = None
            self._end_when_done()
        else:
            self._announce()

    def _fin_received(self, offset: int) -> None:
        half = self._receive
        if half.state is not ReceiveState.OPEN:
            raise WireError("out_of_turn", "fin came twice")
        if offset != half.received:
            raise WireError("bad_offset", f"fin at {offset}; {half.received} bytes came")
        half.state = ReceiveState.DRAINING
        if self._sink is SinkState.PRESENT:
            self._emit(events.FinishSink())
        self._settle_receiving()

    # The sink

    def _sink_connected(self, now: float) -> None:
        self._sink = SinkState.PRESENT
        if self.role is StreamRole.ACCEPTOR:
            self.phase = StreamPhase.FLOWING
            self._receive.promise()
            self._say(messages.Ok(self._receive.window))
        self._write_held()
        if self._receive.state is ReceiveState.DRAINING:
            self._emit(events.FinishSink())
        self._settle_receiving()
        self._continue_sending(now)

    def _sink_refused(self, code: str, message: str) -> None:
        known = _err_code(code)
        self._break(StreamOutcome.REFUSED, known.value, message, tell=known.value)

    def _sink_written(self, size: int) -> None:
        half = self._receive
        half.take_written(size)
        if half.state is ReceiveState.OPEN and half.ack_due:
            half.promise()
            self._say(messages.Ack(half.acked, half.window))
        self._release()
        self._settle_receiving()

    def _sink_closed(self, now: float, error: str | None) -> None:
        self._sink = SinkState.GONE
        if error is not None:
            code = messages.READ_ONLY if error == messages.GIVES_ONLY else "reset"
            self._break(StreamOutcome.RESET, code, error, tell=code)
        elif self._receive.state is not ReceiveState.DONE:
            self._break(
                StreamOutcome.RESET, "closed", "the local side closed before it had taken everything", tell="closed"
            )
        else:
            self._sink_eof(now)

    def _write_held(self) -> None:
        if self._sink is SinkState.PRESENT:
            self._give_held()
            self._release()

    def _settle_receiving(self) -> None:
        half = self._receive
        if half.state is ReceiveState.DRAINING and self._sink is SinkState.PRESENT and half.written == half.received:
            half.state = ReceiveState.DONE
            half.promise()
            self._say(messages.Ack(half.acked, half.window))
            self._end_when_done()

    def _release(self) -> None:
        """Report what need not hold the SCTP window: all that is written, or that we promised a place."""
        half = self._receive
        self._report_consumed(min(half.received, max(half.promised, half.written)))

    def _report_consumed(self, offset: int) -> None:
        if (size := offset - self._receive.consumed) > 0:
            self._receive.consumed = offset
            self._emit(events.Consumed(size))

    # Sending

    @property
    def _may_send(self) -> bool:
        return self.phase is StreamPhase.FLOWING or self.phase is StreamPhase.AWAITING_OK

    def _continue_sending(self, now: float) -> None:
        half = self._send
        if half.state is SendState.DRAINING and not half.unsent and self._may_send:
            half.state = SendState.FIN_SENT
            self._say(messages.Fin(half.sent))
            self._await_fin_ack(now)
        self._announce()

    def _await_fin_ack(self, now: float) -> None:
        # While bytes are unacknowledged the other sink may take its time; afterwards nothing is left to wait for.
        # Before ok the answer has its own deadline.
        half = self._send
        if half.state is SendState.FIN_SENT and half.acked == half.sent and self.phase is StreamPhase.FLOWING:
            self._fin_ack_by = now + FIN_TIMEOUT_S

    # The end

    def _tick(self, now: float) -> None:
        if self._answer_by is not None and now >= self._answer_by:
            message = f"the other side did not answer within {ANSWER_TIMEOUT_S:.0f} s"
            self._break(StreamOutcome.RESET, "timeout", message, tell="timeout")
        elif self._fin_ack_by is not None and now >= self._fin_ack_by:
            message = f"the other side did not acknowledge the end within {FIN_TIMEOUT_S:.0f} s"
            self._break(StreamOutcome.RESET, "timeout", message, tell="timeout")

    def _end_when_done(self) -> None:
        if self._send.state is SendState.DONE and self._receive.state is ReceiveState.DONE:
            self._end(StreamOutcome.CLEAN, "", "both directions ended", events.CloseChannel(), events.CloseSink())

    def _reset(self, code: str, message: str) -> None:
        self._break(StreamOutcome.RESET, code, message, tell=code)

    def _violated(self, error: WireError) -> None:
        self._break(StreamOutcome.VIOLATION, error.code, str(error), tell="violation")

    def _break(self, outcome: StreamOutcome, code: str, message: str, *, tell: str) -> None:
        """End the stream out of order, and say so."""
        if self.phase is StreamPhase.CONNECTING and outcome is not StreamOutcome.VIOLATION:
            self._say(messages.Err(_err_code(tell), message if outcome is StreamOutcome.REFUSED else ""))
        elif self.phase is not StreamPhase.OPENING:
            self._say(messages.Rst(tell if messages.is_code(tell) else "internal"))
        self._end(outcome, code, message, events.CloseChannel(), events.ResetSink())

    def _end(self, outcome: StreamOutcome, code: str, message: str, *effects: events.Effect) -> None:
        for effect in effects:
            if isinstance(effect, (events.CloseSink, events.ResetSink)) and self._sink is not SinkState.PRESENT:
                continue
            self._emit(effect)
        self.phase = StreamPhase.FINISHED
        self._answer_by = self._fin_ack_by = None
        self._report_consumed(self._receive.received)
        self._finish(outcome, code, message)

    def _say(self, message: messages.TcpMessage) -> None:
        self._emit(events.SendText(messages.TCP.encode(message)))

    def _emit(self, effect: events.Effect) -> None:
        self._effects.append(effect)


def _err_code(code: str) -> messages.ErrCode:
    try:
        return messages.ErrCode(code)
    except ValueError:
        return messages.ErrCode.UNAVAILABLE
