"""Standard input and output as one byte stream: the local side of ``mxrtc nc``.

They may be anything: pipes (ssh's ProxyCommand), a terminal, files, ``/dev/null``, one socket for both (inetd).

The loop must not block, but whether a descriptor blocks is a property of what it points to, shared with every other
program that has it open: a shell whose terminal became non-blocking misbehaves. Pipes and terminals are therefore
opened anew, through ``/proc``. For sockets, and where that is not possible (another user's terminal), the shared flag
is set and put back at the end. Files and devices that cannot be waited for are left to the loop's executor, and so is
everything on Windows, where a loop waits for sockets only.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.sinks.pollable import PollableReader, PollableWriter
from mxrtc_bridge.sinks.stream_sink import StreamSink
from mxrtc_bridge.sinks.threaded import ThreadedReader, ThreadedWriter
from mxrtc_bridge.system import WINDOWS, descriptors, files


class _Handle:
    """A private descriptor for what ``original`` points to.

    Raises:
        OSError: ``original`` is not open, or not for that.
    """

    def __init__(self, original: int, access: int) -> None:
        mode = os.fstat(original).st_mode
        if not descriptors.is_open_for(original, access):
            # What stands for a descriptor that the launcher has closed is open the other way round.
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._original = original
        self._restore: Callable[[], None] | None = None
        self.is_socket = stat.S_ISSOCK(mode)
        self.is_pipe = stat.S_ISFIFO(mode)
        self.pollable = not WINDOWS and (self.is_socket or self.is_pipe or os.isatty(original))
        self.descriptor = self._open_anew(access) if self.pollable and not self.is_socket else -1
        if self.descriptor == -1:
            self.descriptor = os.dup(original)
            if self.pollable:
                self._restore = descriptors.make_non_blocking(original)

    def _open_anew(self, access: int) -> int:
        try:
            flags = access | files.O_NONBLOCK | files.O_NOCTTY | files.O_CLOEXEC
            return os.open(f"/proc/self/fd/{self._original}", flags)
        except OSError:
            return -1

    def restore(self) -> None:
        """Put the shared flags back."""
        if self._restore is not None:
            self._restore()
            self._restore = None

    def close(self) -> None:
        """Close the private descriptor."""
        if self.descriptor != -1:
            os.close(self.descriptor)
            self.descriptor = -1


def _open(name: str, original: int, access: int) -> _Handle:
    try:
        return _Handle(original, access)
    except OSError as error:
        words = os.strerror(error.errno or 0)
        raise LocalError(f"{name} cannot be used ({words}); give one, for instance /dev/null") from error


class StdioSink(StreamSink):
    """A reading and a writing descriptor as one stream. Implements :class:`mxrtc_bridge.engine.ports.Sink`.

    Half-closing really ends the output: a pipe is closed, and the descriptor's number is left pointing to
    ``/dev/null``, so that a late ``print`` harms nobody; a socket is shut down for writing. What is no stream (a
    terminal, a file) has no end to be told. ``reset`` has no more to say than that either.

    Args:
        stdin: the descriptor to read from.
        stdout: the descriptor to write to; from now on nothing else may write there.
        holds_output: after a reset the output is not ended before :meth:`end_output`, so that something may be said
            first: ssh ends its ProxyCommand when that output ends.

    Raises:
        LocalError: one of them is not open.
    """

    lingers = False

    def __init__(self, stdin: int = 0, stdout: int = 1, *, holds_output: bool = False) -> None:
        super().__init__()
        self._stdout = stdout
        self._input = _open("standard input", stdin, os.O_RDONLY)
        try:
            self._output = _open("standard output", stdout, os.O_WRONLY)
        except LocalError:
            self._input.restore()
            self._input.close()
            raise
        self._output_ended = False
        self._holds_output = holds_output
        make_reader: Callable[..., PollableReader | ThreadedReader] = (
            PollableReader if self._input.pollable else ThreadedReader
        )
        make_writer: Callable[..., PollableWriter | ThreadedWriter] = (
            PollableWriter if self._output.pollable else ThreadedWriter
        )
        self._set_halves(
            make_reader(self._input.descriptor, self, self._input.close),
            make_writer(self._output.descriptor, self, self._output.close),
        )

    def _finish_writing(self) -> None:
        self._writer.stop()
        self.end_output()

    def _release(self) -> None:
        if not self._holds_output:
            self.end_output()
        # In this order: where both are the same, the first to be opened knows the flags that were there before.
        self._output.restore()
        self._input.restore()

    def end_output(self) -> None:
        """End the output; harmless when it has ended."""
        if self._output_ended:
            return
        self._output_ended = True
        if self._output.is_socket:
            # It may be gone already, and then there is nothing to end.
            with contextlib.suppress(OSError), socket.socket(fileno=os.dup(self._stdout)) as sock:
                sock.shutdown(socket.SHUT_WR)
        elif self._output.is_pipe:
            null = os.open(os.devnull, os.O_WRONLY | files.O_CLOEXEC)
            # Restored first: the number will point to something else.
            self._output.restore()
            os.dup2(null, self._stdout)
            os.close(null)
