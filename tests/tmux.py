"""A real terminal for tests: one session of a tmux of its own."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

OF_ANOTHER_TERMINAL = frozenset({"TMUX", "NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"})


class Tmux:
    """The session; it must be closed.

    Args:
        folder: for its socket.
        width: columns.
        height: lines.
    """

    def __init__(self, folder: Path, *, width: int = 80, height: int = 8) -> None:
        self._tmux = ["tmux", "-S", str(folder / "tmux"), "-f", "/dev/null"]
        self._size = ["-x", str(width), "-y", str(height)]

    def run(self, *words: str, **environment: str) -> None:
        """Start a program in it."""
        given = {"LC_ALL": "C.UTF-8", **environment}
        command = ["env", *(f"{name}={value}" for name, value in given.items()), *words]
        self._do("new-session", "-d", *self._size, shlex.join(command))

    def type(self, text: str) -> None:
        """Type a text as it is."""
        self._do("send-keys", "-l", "--", text)

    def press(self, *keys: str) -> None:
        """Press keys, by the names that tmux has for them."""
        self._do("send-keys", *keys)

    def shown(self, *, colours: bool = False) -> str:
        """What is on the screen, without spaces at the ends of lines."""
        lines = self._do("capture-pane", "-p", *(["-e"] if colours else [])).splitlines()
        return "\n".join(line.rstrip() for line in lines).rstrip("\n") + "\n"

    def close(self) -> None:
        """End what runs in it, and itself."""
        subprocess.run([*self._tmux, "kill-server"], check=False, capture_output=True)

    def _do(self, *words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name not in OF_ANOTHER_TERMINAL}
        environment["LC_ALL"] = "C.UTF-8"
        done = subprocess.run([*self._tmux, *words], check=True, capture_output=True, env=environment, timeout=30)
        return done.stdout.decode()
