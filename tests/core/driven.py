"""Drives a machine of the core by hand."""

from __future__ import annotations

from typing import Any, ClassVar

from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files import messages as file_messages
from mxrtc_bridge.core.stream.events import BinaryReceived, Consumed, TextReceived


class Driven:
    """A machine, fed one event at a time; each feed returns all effects but those that only count bytes."""

    left_out: ClassVar[tuple[type, ...]] = ()
    """Effects that are of no interest."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self.now = 100.0
        self.consumed = 0

    def feed(self, event: Any) -> list[Any]:
        self.machine.handle(self.now, event)
        effects = []
        while (effect := self.machine.poll_effect()) is not None:
            if isinstance(effect, Consumed):
                assert effect.size > 0
                self.consumed += effect.size
            elif not isinstance(effect, self.left_out):
                effects.append(effect)
        return effects

    def hear(self, text: str) -> list[Any]:
        return self.feed(TextReceived(text))

    def data(self, size: int) -> list[Any]:
        return self.feed(BinaryReceived(bytes(size)))


class DrivenTransfer(Driven):
    """One end of a transfer; it ends once at most."""

    def __init__(self, machine: Any) -> None:
        super().__init__(machine)
        self.arrived = 0
        self.finished: tx.TransferFinished | None = None

    def feed(self, event: tx.Event) -> list[tx.Effect]:
        if isinstance(event, BinaryReceived):
            self.arrived += len(event.data)
        elif isinstance(event, TextReceived):
            self.arrived += len(event.text.encode())
        effects = super().feed(event)
        for effect in effects:
            if isinstance(effect, tx.TransferFinished):
                assert self.finished is None
                self.finished = effect
        return effects

    def hear(self, message: file_messages.Message | str) -> list[tx.Effect]:
        return super().hear(message if isinstance(message, str) else file_messages.encode(message))
