"""What became of each entry of a transfer, as far as somebody must hear of it: failures, other names, files that grew.

All failures are told with their reasons: the first in words, and where there are many, all of them in a file. Nothing
here grows with their number but that file.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import TextIO

from mxrtc_bridge.client.files.sentences import failure_sentence, grown_sentence, renamed_sentence
from mxrtc_bridge.core.files.events import EntryDone, Failure
from mxrtc_bridge.core.text.display import display

SHOWN = 20
"""Of each kind, in words."""


class Outcomes:
    """Those of one attempt."""

    def __init__(self, *, sending: bool) -> None:
        self._sending = sending
        self._failures: list[Failure] = []
        self._failed = 0
        self._file: TextIO | None = None
        self._path = ""
        self._other_names: list[str] = []
        self._grown: list[str] = []
        self.renamed = 0
        """Entries that have another name now."""

    def failed(self, failure: Failure) -> None:
        """Note what was not transferred."""
        self._failed += 1
        if self._failed <= SHOWN:
            self._failures.append(failure)
            return
        try:
            if self._file is None:
                descriptor, self._path = tempfile.mkstemp(prefix="mxrtc-failed-", suffix=".txt")
                self._file = os.fdopen(descriptor, "w", encoding="utf-8", errors="replace")
                for each in self._failures:
                    self._write(self._file, each)
            self._write(self._file, failure)
        except OSError:
            self.forget()

    def done(self, done: EntryDone) -> None:
        """Note what was transferred, if something about it is to be said."""
        if done.name != done.entry.path:
            self.renamed += 1
            if len(self._other_names) < SHOWN:
                self._other_names.append(renamed_sentence(done, sending=self._sending))
        if done.grown_to and len(self._grown) < SHOWN:
            self._grown.append(grown_sentence(done, sending=self._sending))

    def sentences(self) -> list[str]:
        """Return a line for each thing to be said. To be called once, at the end."""
        lines = [*self._grown, *self._other_names]
        if (more := self.renamed - len(self._other_names)) > 0:
            lines.append(f"and {more} more have other names (--json tells all)")
        lines += [failure_sentence(failure) for failure in self._failures]
        if (more := self._failed - len(self._failures)) > 0:
            where = f"all of them are in {self._path}" if self._finish() else "--json tells all"
            lines.append(f"and {more} more failed; {where}")
        return lines

    def forget(self) -> None:
        """Remove the file: a list that is not whole is of no use, nor one that another attempt tells again."""
        if self._file is None:
            return
        file, self._file = self._file, None
        with contextlib.suppress(OSError):
            file.close()
        with contextlib.suppress(OSError):
            Path(self._path).unlink()

    @staticmethod
    def _write(file: TextIO, failure: Failure) -> None:
        reason = failure.message or failure.code.value
        place = "here" if failure.here else "there"
        file.write(f"{display(failure.path, 4096)}: {place}: {display(reason, 4096)}\n")

    def _finish(self) -> bool:
        """Have everything in the file, which stays; returns whether it is."""
        if self._file is None:
            return False
        try:
            self._file.close()
        except OSError:
            self.forget()
            return False
        self._file = None
        return True
