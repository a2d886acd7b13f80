"""Commands for the running bridge: with a broken configuration, by ``--socket``, as root, and what they answer with."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvloop

from mxrtc_bridge.config.values import UnixListen
from mxrtc_bridge.core.errors import AdminError
from mxrtc_bridge.core.ids import LocalAdmin
from mxrtc_bridge.web.control import SOCKET_MODE, control_application
from mxrtc_bridge.web.server import Server
from tests.bridge_command import Run, run_in_process
from tests.other_user import OTHER_UID, needs_root

Answer = Callable[[tuple[str, ...]], Mapping[str, object]]

LIST = {"page": 1, "pages": 1, "total": 0, "rows": []}
EMERGENCY = [
    ["who"], ["kick", "@eve:example.org"], ["revoke", "17"], ["pause"], ["resume"], ["log"], ["grants"], ["requests"],
    ["deny", "3"], ["reload"],
]  # fmt: skip


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    return run_in_process(capsys)


@contextmanager
def bridge(path: Path, answer: Answer) -> Iterator[list[tuple[str, tuple[str, ...]]]]:
    """A control socket with nothing behind it, in a thread of its own; yields who has asked what."""
    asked: list[tuple[str, tuple[str, ...]]] = []
    started, ended = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def handle(by: LocalAdmin, words: tuple[str, ...]) -> Mapping[str, object]:
        asked.append((str(by), words))
        return answer(words)

    async def serve() -> None:
        async with Server(control_application(handle, AdminError), UnixListen(str(path)), unix_mode=SOCKET_MODE):
            loops.append(asyncio.get_running_loop())
            started.set()
            await ended.wait()

    thread = threading.Thread(target=lambda: uvloop.run(serve()))
    thread.start()
    try:
        assert started.wait(10)
        yield asked
    finally:
        loops[0].call_soon_threadsafe(ended.set)
        thread.join(10)


def lists(words: tuple[str, ...]) -> Mapping[str, object]:
    return LIST if words[0] in ("who", "grants", "requests", "log") else {"said": "Done."}


@pytest.fixture
def config(tmp_path: Path, run: Run) -> Path:
    options = ["--domain", "example.org", "--peer", "build", "--service", "ssh=tcp:127.0.0.1:22"]
    assert run("init", *options, "--allow", "@alice:example.org", "--output", tmp_path)[0] == 0
    return tmp_path / "config.yaml"


BROKEN = {
    "a typo": lambda text: text.replace("domain:", "domian:"),
    "no YAML": lambda text: "peers: [\n" + text,
    "half of it": lambda text: text[: len(text) // 3],
    "empty": lambda _text: "",
    "open to others": lambda text: text,
}


@pytest.mark.parametrize("how", BROKEN)
def test_what_takes_away_works_with_a_configuration_that_nobody_can_use(config: Path, run: Run, how: str) -> None:
    config.write_text(BROKEN[how](config.read_text()))
    if how == "open to others":
        config.chmod(0o644)
    with bridge(config.parent / "control.sock", lists) as asked:
        for words in EMERGENCY:
            code, _, err = run(*words, "-c", config)
            assert code == 0, (words, err)
    assert [words[0] for _, words in asked] == [words[0] for words in EMERGENCY]


@pytest.mark.parametrize("words", EMERGENCY)
def test_the_socket_can_be_said_and_then_nothing_is_read(tmp_path: Path, run: Run, words: list[str]) -> None:
    with bridge(tmp_path / "c.sock", lists):
        code, _, err = run(*words, "--socket", tmp_path / "c.sock", "-c", "/does/not/exist.yaml")
    assert code == 0, err


def test_where_the_configuration_cannot_be_read_the_option_is_named(run: Run) -> None:
    code, out, err = run("who", "-c", "/does/not/exist.yaml")
    assert (code, out) == (78, "")
    assert "cannot be read: No such file or directory" in err
    assert "--socket PATH" in err


def test_nobody_listening_is_trouble_that_may_pass(config: Path, run: Run) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(config.parent / "control.sock"))
    stale.close()
    for left in (True, False):
        code, out, err = run("who", "-c", config)
        assert (code, out) == (1, ""), left
        assert err == (
            "The bridge is not running, or not with this configuration: nobody listens at "
            f"{config.parent / 'control.sock'}.\n"
        )
        if left:
            (config.parent / "control.sock").unlink()


@pytest.mark.parametrize(
    ("answer", "code", "out", "err"),
    [
        ({"said": "In force.", "done": True, "mistakes": ""}, 0, "In force.\n", ""),
        ({"said": "Not all.", "done": False, "mistakes": ""}, 1, "", "Not all.\n"),
        (
            {"said": "Refused.", "done": False, "mistakes": "x has 2 mistakes:\n  line 1: a\n  line 2: \x1b[2J"},
            78, "", "Refused.\nx has 2 mistakes:\n  line 1: a\n  line 2: \\x1b[2J\n",
        ),
    ],
)  # fmt: skip
def test_a_reload_says_by_its_exit_code_what_came_of_it(
    config: Path, run: Run, answer: Mapping[str, object], code: int, out: str, err: str
) -> None:
    with bridge(config.parent / "control.sock", lambda _: answer):
        assert run("reload", "-c", config) == (code, out, err)


@needs_root
def test_root_asks_as_root_and_only_whom_the_owner_of_the_configuration_has_put_there(config: Path, run: Run) -> None:
    folder, path = config.parent, config.parent / "control.sock"
    for each in (folder, config):
        os.chown(each, OTHER_UID, OTHER_UID)
    with bridge(path, lists) as asked:
        os.chown(path, OTHER_UID, OTHER_UID)
        assert run("pause", "-c", config)[0] == 0
        assert asked == [("local:root", ("pause",))]
        # Somebody else's, a link to one, and no socket at all.
        os.chown(path, OTHER_UID - 1, OTHER_UID - 1)
        code, _, err = run("pause", "-c", config)
        assert (code, "not the owner of the configuration" in err) == (1, True), err
        assert run("pause", "--socket", path)[0] == 0
        os.chown(path, OTHER_UID, OTHER_UID)
        path.rename(folder / "real.sock")
        path.symlink_to("real.sock")
        code, _, err = run("pause", "-c", config)
        assert (code, asked[2:]) == (1, []), err
        path.unlink()
        path.touch()
        code, _, err = run("pause", "-c", config)
        assert (code, "is no socket" in err) == (1, True)
        path.unlink()
        (folder / "real.sock").rename(path)


def test_explain_is_answered_by_the_bridge_that_runs(config: Path, run: Run) -> None:
    question = ("explain", "-c", config, "@eve:example.org", "build/ssh")
    row: dict[str, object] = {"allowed": True, "rule": "given 1", "notes": ["Peer \x1b[2J."], "alone": "no grant"}
    with bridge(config.parent / "control.sock", lambda _: {**LIST, "rows": [row]}) as asked:
        assert run(*question) == (0, "allow: grant given 1\n", "Peer \\x1b[2J.\n")
        row |= {"allowed": False, "rule": "deny: server:example.org", "notes": []}
        assert run(*question) == (3, "deny: server:example.org\n", "")
        row["rule"] = "no grant"
        assert run(*question) == (3, "deny: no grant\n", "")
        assert [words for _, words in asked] == [("explain", "@eve:example.org", "build/ssh")] * 3
        code, out, err = run(*question, "--at", "2040-01-01")
        assert (code, out, "by the file alone" in err, len(asked)) == (3, "deny: no grant\n", True, 3)


def test_a_file_that_is_not_in_force_decides_alone_beside_what_the_bridge_says(config: Path, run: Run) -> None:
    question = ("explain", "-c", config, "@alice:example.org", "build/ssh")
    row = {"allowed": True, "rule": "given 1", "notes": [], "alone": "no grant"}
    with bridge(config.parent / "control.sock", lambda _: {**LIST, "rows": [row]}):
        code, out, err = run(*question)
        assert (code, out) == (0, "allow: grant build-users\n")
        assert "by the file alone" in err
        assert "and without a reload the bridge still says: allow: grant given 1" in err
        # One that cannot be in force, or is not asked about, changes nothing.
        assert run(*question, "--socket", config.parent / "control.sock") == (0, "allow: grant given 1\n", "")
        config.write_text("nothing")
        assert run(*question) == (0, "allow: grant given 1\n", "")


@pytest.mark.parametrize("answer", [{"said": "?"}, {**LIST}, {**LIST, "rows": [{"allowed": "yes"}]}])
def test_an_answer_that_is_none_leaves_the_file(config: Path, run: Run, answer: Mapping[str, object]) -> None:
    with bridge(config.parent / "control.sock", lambda _: answer):
        code, out, err = run("explain", "-c", config, "@alice:example.org", "build/ssh")
    assert (code, out, "by the file alone" in err) == (0, "allow: grant build-users\n", True)


def test_without_a_bridge_the_file_decides_and_that_is_said(config: Path, run: Run) -> None:
    code, out, err = run("explain", "-c", config, "@eve:example.org", "build/ssh")
    assert (code, out) == (3, "deny: no grant\n")
    assert err.startswith(
        "by the file alone, without what admins have given, rooms and policy lists: the bridge is not"
    )


def on_a_terminal(columns: int, *arguments: object, **env: str) -> str:
    """What the program shows on a terminal of this width."""
    ours, theirs = pty.openpty()
    try:
        program = "from mxrtc_bridge.cli.bridge.main import main; main()"
        subprocess.run(
            [sys.executable, "-c", program, *map(str, arguments)],
            env={**os.environ, "COLUMNS": str(columns), "TERM": "xterm", **env},
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.DEVNULL,
            check=True,
            timeout=60,
        )
        os.set_blocking(ours, False)
        shown = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(ours, 65536):
                shown += piece
        return shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)
        os.close(theirs)


@pytest.mark.programs
@pytest.mark.parametrize("columns", [20, 40, 80])
def test_on_a_narrow_terminal_one_sees_whom_to_kick(tmp_path: Path, columns: int) -> None:
    row = {
        "number": 1234, "user": "@alice.with-a-long-name:matrix.example.org", "peer": "@rtc_build:matrix.example.org",
        "device": "ABCDEFGHIJ (cross-signed)", "path": "direct (host to host, ipv4)", "age_s": 3600, "streams": 2,
        "sent": 5_000_000, "received": 1,
    }  # fmt: skip
    page = {"page": 1, "pages": 1, "total": 1, "rows": [row]}
    with bridge(tmp_path / "c.sock", lambda _: page):
        shown = on_a_terminal(columns, "who", "--socket", tmp_path / "c.sock")
        wide = on_a_terminal(250, "who", "--socket", tmp_path / "c.sock")
    for value in ("1234", "user", "peer", "device", "path"):
        assert str(row.get(value, value)) in shown
        assert str(row.get(value, value)) in wide
    assert "\u2026" not in shown, "nothing is cut off"
    assert (len(wide.splitlines()), len(shown.splitlines()) > 2) == (2, True)
    if columns == 80:
        assert max(map(len, shown.splitlines())) <= columns


@pytest.mark.programs
def test_check_has_colours_on_a_terminal_unless_they_are_not_wanted(config: Path) -> None:
    assert "\x1b[" in on_a_terminal(80, "check", "--offline", "-c", config, NO_COLOR="")
    assert "\x1b[" not in on_a_terminal(80, "check", "--offline", "-c", config, NO_COLOR="1")


def test_bytes_that_are_no_text_are_refused_before_anybody_is_asked(tmp_path: Path, run: Run) -> None:
    with bridge(tmp_path / "c.sock", lists) as asked:
        code, _, err = run("revoke", "7", "--because", "caf\udce9", "--socket", tmp_path / "c.sock")
    assert (code, asked) == (2, [])
    assert "caf\\udce9 is not text in UTF-8" in err


@pytest.mark.parametrize(
    "words",
    [
        ["grant", "@alice:example.org", "build/ssh", "--for", "1y"], ["allow", "3", "--for", "soon"],
        ["log", "--since", "yesterday"], ["log", "--since", "2h because"], ["log", "--since", ""],
    ],
)  # fmt: skip
def test_what_is_no_time_is_said_here_in_the_words_of_the_command_line(
    tmp_path: Path, run: Run, words: list[str]
) -> None:
    with bridge(tmp_path / "c.sock", lists) as asked:
        code, _, err = run(*words, "--socket", tmp_path / "c.sock")
    assert code == 2
    assert f"{words[-2]} " in err
    assert "is no time: write 30m, 2h or 3d, at most 90d." in err
    assert asked == []


def test_a_time_of_two_words_is_one_as_in_a_chat(tmp_path: Path, run: Run) -> None:
    with bridge(tmp_path / "c.sock", lists) as asked:
        assert run("log", "--since", "2 hours", "--socket", tmp_path / "c.sock")[0] == 0
    assert [words for _, words in asked] == [("log", "since", "2", "hours", "page", "1")]
