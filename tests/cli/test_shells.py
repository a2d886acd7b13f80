"""Completion in the real shells: what is on the line after Tab, and which words the shell makes of it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxrtc_bridge.cli.completion import SHELLS
from mxrtc_bridge.client.known_services import KnownServices, save_known
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream.messages import ServiceKind
from tests.cli.completions import COMPLETIONS, file_of
from tests.tmux import Tmux
from tests.waiting import until

pytestmark = pytest.mark.real

BIN = Path(sys.executable).parent
ALICE = UserId("@alice:example.test")
BUILD = UserId("@rtc_build:example.test")
PATIENCE_S = 60.0
"""A program starts for each Tab, beside many other tests."""

CONFIG = """\
peers:
  build:
    services:
      sshd: { target: "tcp:127.0.0.1:22" }
"""
HOSTILE = "my report $(touch x); 'a' & b.pdf"

CASES = {
    "a command": ("mxrtc netc", [], ["mxrtc", "netcheck"]),
    "an option": ("mxrtc get --no-rec", [], ["mxrtc", "get", "--no-reconnect"]),
    "a value behind an equals sign": ("mxrtc --signal=dev", ["ls"], ["mxrtc", "--signal=device", "ls"]),
    "a service": ("mxrtc nc bui", [], ["mxrtc", "nc", "build/ssh"]),
    "a peer by its full id": ("mxrtc ping @rtc_bu", [], ["mxrtc", "ping", BUILD]),
    "a directory, then what is in it": ("mxrtc get build/share:do", ["\t"], ["mxrtc", "get", "build/share:docs/a.pdf"]),
    "a name that would do harm": ("mxrtc get build/share:my", [], ["mxrtc", "get", f"build/share:{HOSTILE}"]),
    "the same in quotation marks": ('mxrtc get "build/share:my', [], ["mxrtc", "get", f"build/share:{HOSTILE}"]),
    "a local file": ("mxrtc send loc", [], ["mxrtc", "send", "local file.txt"]),
    "whom to send it to": ("mxrtc send x bui", [], ["mxrtc", "send", "x", "build/inbox"]),
    "a service of the configuration": (
        "mxrtc-bridge explain @a:b.c bui", [], ["mxrtc-bridge", "explain", "@a:b.c", "build/sshd"],
    ),
    "the file of an option": ("mxrtc-bridge who -c conf", [], ["mxrtc-bridge", "who", "-c", "config.yaml"]),
}  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with what an earlier ``ls`` has left there, a local file, and a configuration."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    (folder / "local file.txt").touch()
    config = folder / "config.yaml"
    config.write_text(CONFIG)
    config.chmod(0o600)
    state = StateFolder(folder / ".local/state/mxrtc")
    state.save_login(Login("http://127.0.0.1:9", ALICE, "DEVICE", "token"))
    known = KnownServices()
    kinds = {"ssh": ServiceKind.STREAM, "share": ServiceKind.SHARE, "inbox": ServiceKind.INBOX}
    services = {(BUILD, ServiceName(name)): kind for name, kind in kinds.items()}
    known.see_services({BUILD: [name for _, name in services]}, services, all_peers=True)
    known.see_files((BUILD, ServiceName("share"), ""), ["docs/", "notes.txt", HOSTILE])
    known.see_files((BUILD, ServiceName("share"), "docs"), ["a.pdf"])
    save_known(state, ALICE, known)
    return folder


class Shell:
    """One shell in a terminal, with the scripts where its packages put them, or asked from the program."""

    def __init__(self, name: str, home: Path, terminal: Tmux) -> None:
        self._name = name
        self._home = home
        self._terminal = terminal

    def start(self, *, asks: bool) -> None:
        words = {"bash": ["bash", "--noprofile", "--rcfile", ".rc", "-i"], "zsh": ["zsh", "-i"], "fish": ["fish", "-i"]}
        variables = {
            "HOME": str(self._home),
            "ZDOTDIR": str(self._home),
            "XDG_CONFIG_HOME": str(self._home / ".config"),
        }
        programs = ("mxrtc", "mxrtc-bridge")
        asked = [f'eval "$({program} completion {self._name})"' for program in programs]
        match self._name:
            case "bash":
                lines = asked if asks else [f". {file_of(program, 'bash')}" for program in programs]
                (self._home / ".rc").write_text("\n".join(["PS1='ready> '", *lines, ""]))
            case "zsh":
                fpath = "" if asks else f"fpath=({COMPLETIONS / 'zsh'} $fpath)"
                lines = ["PS1='ready> '", fpath, "autoload -Uz compinit && compinit -u", *(asked if asks else [])]
                (self._home / ".zshrc").write_text("\n".join([*lines, ""]))
            case "fish":
                asked = [f"{program} completion fish | source" for program in programs]
                lines = asked if asks else [f"set -p fish_complete_path {COMPLETIONS / 'fish'}"]
                prompt = "function fish_prompt; echo -n 'ready> '; end"
                (self._home / ".config/fish").mkdir(parents=True)
                (self._home / ".config/fish/config.fish").write_text(
                    "\n".join(["set -g fish_greeting", "set -g fish_autosuggestion_enabled 0", prompt, *lines, ""])
                )
        path = f"{BIN}:{os.environ['PATH']}"
        run = ["env", "-u", "MXRTC_STATE", "-u", "XDG_STATE_HOME", "-C", str(self._home), *words[self._name]]
        self._terminal.run(*run, PATH=path, TERM="screen", SHELL=self._name, **variables)

    async def completed(self, begun: str, then: list[str]) -> list[str]:
        """Type, press Tab, type what comes then, and return the words of the line as the shell reads them."""
        await until(lambda: self._terminal.shown() == "ready>\n", PATIENCE_S)
        self._terminal.type(begun)
        line = f"ready> {begun}"
        for text in ["\t", *then]:
            await until(lambda line=line: self._line() == line, PATIENCE_S)
            self._terminal.press("Tab") if text == "\t" else self._terminal.type(text)
            await until(lambda line=line: self._line() != line, PATIENCE_S)
            line = self._line()
        if '"' in begun and not line.endswith('"'):
            self._terminal.type('"')
        self._terminal.press("C-a")
        # Printed by the shell itself, which says how it has read the line.
        self._terminal.type("clear; printf '<%s>\\n' ")
        self._terminal.press("Enter")
        shown = await self._until(">\nready>")
        self._terminal.type("clear")
        self._terminal.press("Enter")
        return [line[1:-1] for line in shown.splitlines() if line.startswith("<")]

    def _line(self) -> str:
        return self._terminal.shown().splitlines()[0]

    async def _until(self, text: str) -> str:
        await until(lambda: text in self._terminal.shown(), PATIENCE_S)
        return self._terminal.shown()


@pytest.fixture
def shell(request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> Iterator[Shell]:
    terminal = Tmux(tmp_path, width=160, height=40)
    yield Shell(request.param, home, terminal)
    terminal.close()


@pytest.mark.parametrize("shell", SHELLS, indirect=True)
async def test_tab_completes(shell: Shell, home: Path) -> None:
    shell.start(asks=False)
    read = {name: await shell.completed(begun, then) for name, (begun, then, _) in CASES.items()}
    assert read == {name: words for name, (_, _, words) in CASES.items()}
    assert not (home / "x").exists(), "nothing of a foreign name was carried out"


@pytest.mark.parametrize("shell", SHELLS, indirect=True)
async def test_what_the_program_prints_does_the_same_as_the_installed_file(shell: Shell) -> None:
    shell.start(asks=True)
    assert await shell.completed("mxrtc nc bui", []) == ["mxrtc", "nc", "build/ssh"]
