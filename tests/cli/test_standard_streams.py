"""Whoever reads standard output and error decides about nothing else: full, closed, absent, in any locale."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.cli.bridge.main import invoke
from mxrtc_bridge.cli.standard_streams import MAX_KEPT_BYTES, MAX_WAITING_BYTES, StandardStream
from tests.long import examples

BIN = Path(sys.executable).parent
LIMIT_S = 20


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def read_until(descriptor: int, end: bytes) -> bytes:
    data = bytearray()  # which grows in its place
    while not data.endswith(end):
        data += os.read(descriptor, 65536)
    return bytes(data)


@contextlib.contextmanager
def limited_files(size: int) -> Iterator[None]:
    """No file of this process gets longer inside of the context, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@given(texts=st.lists(st.text(st.characters(), max_size=20), max_size=30))
@settings(max_examples=examples(50), deadline=None)
def test_what_is_taken_comes_whole_and_in_order(texts: list[str]) -> None:
    reading, writing = os.pipe()
    stream = StandardStream(writing, keeps=True)
    for text in texts:
        assert stream.write(text) == len(text)
    assert stream.drain(LIMIT_S)
    os.close(writing)
    with open(reading, "rb") as file:
        assert file.read() == "".join(texts).encode("utf-8", "backslashreplace")


def test_messages_that_nobody_takes_hold_nothing_up_and_are_counted(pipe: tuple[int, int]) -> None:
    stream = StandardStream(pipe[1], keeps=False)
    line = "x" * 999 + "\n"
    begun = time.monotonic()
    for _ in range(5000):
        stream.write(line)
    assert time.monotonic() - begun < 5
    assert stream.waiting <= MAX_WAITING_BYTES
    told = read_until(pipe[0], b"as nobody took them)\n").decode()
    count = int(told.rpartition("(")[2].split()[0])
    assert told.count(line) + count == 5000
    stream.write("again\n")
    assert read_until(pipe[0], b"again\n")


def test_data_is_kept_until_it_is_taken(pipe: tuple[int, int]) -> None:
    stream = StandardStream(pipe[1], keeps=True)
    for _ in range(1000):
        stream.write("x" * 999 + "\n")
    assert not stream.drain(0.05)
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(read_until(pipe[0], b"the end\n")))
    thread.start()
    stream.write("the end\n")
    assert stream.drain(LIMIT_S)
    thread.join()
    assert len(got[0]) == 1_000_008


def test_a_command_that_prints_much_is_as_fast_as_who_reads_it(pipe: tuple[int, int]) -> None:
    stream = StandardStream(pipe[1], keeps=True)
    got: list[bytes] = []
    thread = threading.Thread(target=lambda: got.append(read_until(pipe[0], b"the end\n")))
    # Nobody reads for a while: more would be held than a machine may have.
    timer = threading.Timer(0.2, thread.start)
    timer.start()
    for _ in range(40):
        stream.write("x" * 999_999 + "\n")
        assert stream.waiting <= MAX_KEPT_BYTES
    stream.write("the end\n")
    timer.join()
    thread.join()
    assert len(got[0]) == 40_000_008


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("what", ["closed", "full", "not open"])
def test_what_cannot_be_written_fails_data_and_no_message(what: str, keeps: bool) -> None:
    if what == "closed":
        reading, descriptor = os.pipe()
        os.close(reading)
    else:
        descriptor = os.open("/dev/full", os.O_WRONLY)
        if what == "not open":
            os.close(descriptor)
    stream = StandardStream(descriptor, keeps=keeps)
    stream.write("one\n")
    assert stream.drain(LIMIT_S) is not keeps
    if keeps:
        with pytest.raises(OSError, match=r"Broken pipe|No space|Bad file"):
            stream.write("two\n")
    else:
        stream.write("two\n")
    stream.offer("three\n")
    assert stream.drain(LIMIT_S) is not keeps
    assert stream.failure is not None
    if what != "not open":
        os.close(descriptor)


def test_messages_go_on_once_a_disk_has_space_again(tmp_path: Path) -> None:
    """As for a log that is written to a file: what is missing is counted where it is missing, and no line is torn."""
    path = tmp_path / "log"
    with open(path, "wb") as file:
        stream = StandardStream(file.fileno(), keeps=False)
        stream.write("first\n")
        assert stream.drain(LIMIT_S)
        with limited_files(1000):
            for number in range(100):
                stream.write(f"{number:99}\n")
            assert stream.drain(LIMIT_S)
            assert stream.waiting == 0
            stream.write("lost\n")
            assert stream.drain(LIMIT_S)
        for text in ("again\n", "and again\n"):
            stream.write(text)
            assert stream.drain(LIMIT_S)
    lines = path.read_text().splitlines()
    assert [line.strip() for line in lines[:10]] == ["first", *map(str, range(9))]
    assert lines[10] == f"{9:99}"[: 1000 - 6 - 900]
    assert lines[11:] == ["(92 lines were left out here: File too large)", "again", "and again"]


def test_messages_go_on_for_another_reader_of_a_named_pipe(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "log")
    first = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    stream = StandardStream(os.open(path, os.O_WRONLY), keeps=False)
    os.close(first)
    stream.write("lost\n")
    assert stream.drain(LIMIT_S)
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as second:
        stream.write("again\n")
        assert stream.drain(LIMIT_S)
        assert second.read() == b"(1 lines were left out here, as nobody took them)\nagain\n"
    os.close(stream.fileno())


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[1], False)
    stream = StandardStream(pipe[1], keeps=True)
    stream.write("x" * 300_000 + "\n")
    assert len(read_until(pipe[0], b"\n")) == 300_001
    assert stream.drain(LIMIT_S)


async def test_neither_a_loop_nor_its_threads_ever_wait(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    stream = StandardStream(pipe[1], keeps=True)
    stream.write("x" * 1_000_000)
    monkeypatch.setattr(stream, "drain", lambda seconds: pytest.fail("it waits"))
    stream.flush()
    await asyncio.to_thread(stream.flush)


def test_bytes_are_refused(pipe: tuple[int, int]) -> None:
    with pytest.raises(TypeError):
        StandardStream(pipe[1], keeps=True).write(b"bytes")  # type: ignore[arg-type]


COMMANDS: list[tuple[list[str], set[int]]] = [
    (["mxrtc", "status"], {1, 2, 4, 7}),
    (["mxrtc-bridge", "example-config"], {0}),
    (["mxrtc-bridge", "run"], {78}),
]
CLOSED = [(0,), (1,), (2,), (0, 1, 2)]


@pytest.mark.programs
@pytest.mark.parametrize("closed", CLOSED, ids=str)
@pytest.mark.parametrize(
    ("command", "codes"), COMMANDS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_descriptors_that_are_not_open_change_nothing_but_what_is_written(
    command: list[str], codes: set[int], closed: tuple[int, ...], tmp_path: Path
) -> None:
    shell = f'exec "$@" {" ".join(f"{number}>&-" for number in closed)}'
    result = subprocess.run(
        ["sh", "-c", shell, "sh", BIN / command[0], *command[1:]],
        cwd=tmp_path,
        env={**os.environ, "MXRTC_STATE": str(tmp_path / "state")},
        capture_output=True,
        timeout=60,
        check=False,
    )
    # Data that has nowhere to go is a failure, and nothing else is one.
    expected = codes | ({1} if 1 in closed else set())
    assert result.returncode in expected, result
    assert b"Traceback" not in result.stdout + result.stderr


@pytest.mark.programs
@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("mxrtc --help", 7),
        ("mxrtc --version", 7),
        ("mxrtc send --help", 7),
        ("env _MXRTC_COMPLETE=bash_source mxrtc", 7),
        ("mxrtc-bridge example-config", 1),
        ("mxrtc-bridge --version", 1),
        ("mxrtc-bridge run --help", 1),
        ("env _MXRTC_BRIDGE_COMPLETE=bash_source mxrtc-bridge", 1),
    ],
)
def test_data_that_cannot_be_written_has_one_code_and_one_sentence(command: str, code: int) -> None:
    words = [BIN / word if word.startswith("mxrtc") else word for word in command.split()]
    with open("/dev/full", "wb") as full:
        result = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, timeout=60, check=False)
    assert (result.returncode, result.stderr) == (code, b"the output cannot be written: No space left on device\n")


HANGING = """
import asyncio, threading
from mxrtc_bridge.cli.client.runner import run
from mxrtc_bridge.cli.standard_streams import run_program
from mxrtc_bridge.client.report import Report

async def work():
    asyncio.get_running_loop().run_in_executor(None, threading.Event().wait)
    Report().data("answer", "42")

run_program(lambda: run(Report(), work), 7)
"""


@pytest.mark.programs
@pytest.mark.parametrize(("where", "code"), [("/dev/full", 7), ("/dev/null", 0)])
def test_a_command_whose_loop_does_not_close_says_so_too(where: str, code: int) -> None:
    """As where a name server does not answer: the process is ended by another thread then."""
    with open(where, "wb") as output:
        result = subprocess.run(
            [sys.executable, "-c", HANGING], stdout=output, stderr=subprocess.PIPE, timeout=LIMIT_S, check=False
        )
    said = b"the output cannot be written: No space left on device\n" if code else b""
    assert (result.returncode, result.stderr) == (code, said)


def test_a_command_that_learns_of_it_says_nothing_more(capsys: pytest.CaptureFixture[str]) -> None:
    with open("/dev/full", "wb") as full, contextlib.redirect_stdout(StandardStream(full.fileno(), keeps=True)) as out:
        out.write("more than is there")
        assert not out.drain(LIMIT_S)
        assert invoke(["example-config"]) == 1
    assert capsys.readouterr().err == ""


PROGRAM = """
import sys, time
from mxrtc_bridge.cli.standard_streams import standard_streams
with standard_streams():
    {body}
"""


def program(body: str, **options: object) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM.format(body=body)], **options)  # type: ignore[call-overload,no-any-return]


@pytest.mark.programs
def test_whoever_waits_for_a_reader_of_data_can_stop_waiting() -> None:
    body = "print('x' * 1_000_000); print('done', file=sys.stderr, flush=True)"
    process = program(body, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stderr is not None
    assert process.stderr.readline() == b"done\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 130
    _, said = process.communicate()
    assert said == b""


@pytest.mark.programs
def test_a_stopped_reader_of_messages_does_not_keep_the_program_from_ending() -> None:
    reading, writing = os.pipe()
    process = program("print('x' * 100_000, file=sys.stderr)", stderr=writing)
    assert process.wait(LIMIT_S) == 0
    os.close(reading)
    os.close(writing)


@pytest.mark.programs
@pytest.mark.parametrize(("body", "code"), [("1 / 0", 1), ("raise KeyboardInterrupt", 130), ("sys.exit(7)", 7)])
def test_nor_from_ending_with_its_code(body: str, code: int) -> None:
    reading, writing = os.pipe()
    process = program(f"print('x' * 100_000, file=sys.stderr); {body}", stderr=writing)
    assert process.wait(LIMIT_S) == code
    os.close(reading)
    os.close(writing)


@pytest.mark.programs
def test_nobody_is_told_where_it_stood_who_interrupts_twice() -> None:
    reading, writing = os.pipe()
    body = "print('x' * 100_000, file=sys.stderr); print('ready', flush=True); raise KeyboardInterrupt"
    process = program(body, stdout=subprocess.PIPE, stderr=writing)
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    assert process.wait(LIMIT_S) == 130
    os.close(writing)
    with open(reading, "rb") as file:
        assert set(file.read()) == set(b"x")
    process.stdout.close()


@pytest.mark.programs
def test_a_defect_is_told_after_what_was_said_before() -> None:
    process = program("print('before', file=sys.stderr); 1 / 0", stderr=subprocess.PIPE)
    _, said = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    assert said.startswith(b"before\nTraceback")
    assert said.endswith(b"ZeroDivisionError: division by zero\n")


@pytest.mark.programs
@pytest.mark.parametrize("locale", ["C", "POSIX", "en_US.ISO-8859-1"])
def test_text_is_utf_8_in_every_locale(locale: str) -> None:
    body = "print('caf\\u00e9 \\U0001f600 \\udcff')"
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(body=body)],
        env={**os.environ, "LC_ALL": locale, "PYTHONUTF8": "0"},
        capture_output=True,
        timeout=LIMIT_S,
        check=True,
    )
    assert result.stdout == "caf\u00e9 \U0001f600 \\udcff\n".encode()


def test_bytes_are_written_as_text_where_a_library_writes_them() -> None:
    reader, writer = os.pipe()
    stream = StandardStream(writer, keeps=True)
    click.echo("plain,ä\n".encode(), file=stream, nl=False)
    assert stream.drain(5)
    os.close(writer)
    with os.fdopen(reader, "rb") as said:
        assert said.read() == "plain,ä\n".encode()
