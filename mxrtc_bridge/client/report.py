"""What the user reads: sentences on standard error, or one JSON object a line with ``--json``.

Data has standard output for itself. With ``--json`` the objects go to standard output too, except where that carries
data (``mxrtc nc``). Every object has ``kind``; keys may be added in later versions, never change their meaning.

A message never holds anything up and ends nothing: whoever was to read it may have stopped, or gone away.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import Protocol, TextIO

from mxrtc_bridge.core.crypto.sas_codes import ShortCode
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.text.display import display
from mxrtc_bridge.core.text.display import sentence as whole_sentence

TAKEN_S = 0.5
"""How long a last word may take to be written, where something is about to happen that ends whoever reads it."""


class Says(Protocol):
    """Who is told what a person should know while something goes on."""

    def say(self, kind: str, sentence: str, **fields: object) -> None:
        """Tell one fact; see :meth:`Report.say`."""
        ...


class Person(Says, Protocol):
    """Who has asked for something, and can be asked back; perhaps in front of another command."""

    def data(self, kind: str, line: str, **fields: object) -> None:
        """Give a part of what was asked for; see :meth:`Report.data`."""
        ...

    async def compare(self, user: UserId, device: str, code: ShortCode) -> bool:
        """Show what is to be compared; returns whether the other side shows the same.

        Raises:
            ClientError: there was no answer.
        """
        ...


class Report:
    """Where a command says what happens.

    Args:
        as_json: one object a line instead of sentences.
        quiet: sentences only for errors.
        sentences: where they go, instead of standard error.
        objects: where they go, instead of standard output.
    """

    def __init__(
        self,
        *,
        as_json: bool = False,
        quiet: bool = False,
        sentences: TextIO | None = None,
        objects: TextIO | None = None,
    ) -> None:
        self.as_json = as_json
        self.quiet = quiet
        self._sentences = sentences
        self._objects: TextIO = objects or sys.stdout

    def leave_stdout_to_data(self) -> None:
        """From now on standard output belongs to data, and objects go to standard error."""
        self._objects = sys.stderr

    def say(self, kind: str, sentence: str, **fields: object) -> None:
        """Tell one fact, in words or as an object; ``sentence`` may hold text from outside, or be empty."""
        if self.as_json:
            _offer(self._objects, _line(kind, fields))
        elif sentence and not self.quiet:
            self._sentence(sentence)

    def data(self, kind: str, line: str, **fields: object) -> None:
        """Give a part of the data that was asked for, as a line on standard output or as an object."""
        self._objects.write(_line(kind, fields) if self.as_json else f"{line}\n")
        self._objects.flush()

    def error(self, sentence: str, **fields: object) -> None:
        """Tell why the command ends."""
        sentence = whole_sentence(sentence)
        if self.as_json:
            _offer(self._objects, _line("error", {"message": sentence, **fields}))
        else:
            self._sentence(f"mxrtc: {sentence}")

    async def taken(self) -> None:
        """Wait until what was said has been written, if somebody takes it soon."""
        drain = getattr(sys.stderr, "drain", None)
        deadline = time.monotonic() + TAKEN_S
        while drain is not None and not drain(0) and time.monotonic() < deadline:  # noqa: ASYNC110 - a thread writes
            await asyncio.sleep(0.01)

    def _sentence(self, sentence: str) -> None:
        # By its own method: a bar that is shown has taken its place, and draws itself anew below the sentence.
        stream = self._sentences or sys.stderr
        with contextlib.suppress(OSError):
            stream.write("\n".join(display(line, limit=400) for line in sentence.split("\n")) + "\n")
            stream.flush()


def _line(kind: str, fields: dict[str, object]) -> str:
    return json.dumps({"kind": kind, "time": round(time.time(), 3), **fields}) + "\n"


def _offer(stream: TextIO, text: str) -> None:
    """Write a message; where the stream is one of the program's, nobody has to take it."""
    with contextlib.suppress(OSError):
        getattr(stream, "offer", stream.write)(text)
        stream.flush()
