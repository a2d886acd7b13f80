from __future__ import annotations

import json
from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import WireError
from mxrtc_bridge.core.files import messages as file_messages
from mxrtc_bridge.core.files.messages import EntryKind, FileCode, FileEntry
from mxrtc_bridge.core.stream import json_message, messages
from tests.long import examples

HASH = "0123456789abcdef" * 4
FILE = FileEntry("a/b", EntryKind.FILE, 7, 1700000000000, "v-1")

TABLE: list[tuple[file_messages.Message, str]] = [
    (file_messages.Put(), '{"t":"put"}'),
    (file_messages.Get(("a", "b/*.txt")), '{"t":"get","p":["a","b/*.txt"]}'),
    (file_messages.Ls(""), '{"t":"ls","p":""}'),
    (file_messages.FileOk(262144), '{"t":"ok","w":262144}'),
    (file_messages.FileErr(FileCode.DENIED, "no"), '{"t":"err","c":"denied","m":"no"}'),
    (
        file_messages.Announce(3, FILE),
        '{"t":"f","i":3,"k":"f","p":"a/b","m":1700000000000,"s":7,"x":"v-1"}',
    ),
    (file_messages.Announce(4, FileEntry("d", EntryKind.DIRECTORY)), '{"t":"f","i":4,"k":"d","p":"d","m":0}'),
    (file_messages.AnnouncedAll(2, 9), '{"t":"fend","n":2,"s":9}'),
    (file_messages.AnnouncedAll(2, 9, 1), '{"t":"fend","n":2,"s":9,"u":1}'),
    (file_messages.AnnouncedAll(2, 9, 0, 3), '{"t":"fend","n":2,"s":9,"d":3}'),
    (
        file_messages.Skipped("a link", FileCode.DENIED, "it is a link"),
        '{"t":"x-skip","p":"a link","c":"denied","m":"it is a link"}',
    ),
    (file_messages.Want(1, 1048576), '{"t":"want","i":1,"o":1048576}'),
    (file_messages.No(1, FileCode.SPACE, "full"), '{"t":"no","i":1,"c":"space","m":"full"}'),
    (file_messages.Got(1, "a (2)", HASH), f'{{"t":"got","i":1,"p":"a (2)","h":"{HASH}"}}'),
    (file_messages.Got(1, "d", ""), '{"t":"got","i":1,"p":"d","h":""}'),
    (file_messages.Seen(5), '{"t":"seen","i":5}'),
    (file_messages.ChunkEnd(1, 2, HASH), f'{{"t":"c","i":1,"n":2,"h":"{HASH}"}}'),
    (file_messages.FileEnd(1, 9, HASH), f'{{"t":"end","i":1,"s":9,"h":"{HASH}"}}'),
    (file_messages.FileEnd(1, 9, HASH, 12), f'{{"t":"end","i":1,"s":9,"h":"{HASH}","g":12}}'),
    (file_messages.FileAck(5, 16384), '{"t":"ack","o":5,"w":16384}'),
    (file_messages.Busy(), '{"t":"busy"}'),
    (file_messages.FileBye(), '{"t":"bye"}'),
    (file_messages.FileRst(FileCode.TIMEOUT), '{"t":"rst","c":"timeout"}'),
]


@pytest.mark.parametrize(("message", "text"), TABLE, ids=[text for _, text in TABLE])
def test_message_reads_and_writes_as_specified(message: file_messages.Message, text: str) -> None:
    assert file_messages.encode(message) == text
    assert file_messages.decode(text) == message


def test_table_names_every_message() -> None:
    assert {type(message) for message, _ in TABLE} == set(get_args(file_messages.Message))


def test_unknown_keys_are_ignored_and_optional_ones_may_be_absent() -> None:
    assert file_messages.decode('{"t":"got","i":1,"p":"d","new":[1]}') == file_messages.Got(1, "d", "")


def test_trials_are_ignored() -> None:
    assert file_messages.decode('{"t":"x-later","i":-5}') is None


def test_unknown_codes_count_as_unavailable() -> None:
    assert file_messages.decode('{"t":"rst","c":"on-fire"}') == file_messages.FileRst(FileCode.UNAVAILABLE)


def announce(**fields: object) -> str:
    return json.dumps({"t": "f", "i": 0, "k": "f", "p": "a", "m": 0, "s": 0, "x": "v"} | fields)


BAD_PATHS = [
    "",
    "/",
    "/a",
    "a/",
    "a//b",
    ".",
    "..",
    "a/..",
    "../a",
    "a/./b",
    "a\0b",
    "x" * 1025,
    "é" * 513,
    "\ud800",
    5,
    None,
]


@pytest.mark.parametrize("path", BAD_PATHS, ids=lambda path: repr(path)[:20])
def test_path_that_no_source_may_announce_is_refused(path: object) -> None:
    with pytest.raises(WireError, match="p is no path"):
        file_messages.decode(announce(p=path))


@pytest.mark.parametrize("path", ["a", "x" * 1024, "é" * 512, "...", "..a", "a\\b", "a b/ c", "-a", "\n"])
def test_path_that_is_only_unusual_is_read(path: str) -> None:
    """Whether it can be a name is for the receiver to say: with a reason, and without ending the transfer."""
    message = file_messages.decode(announce(p=path))
    assert isinstance(message, file_messages.Announce)
    assert message.entry.path == path


@pytest.mark.parametrize(
    "text",
    [
        announce(k="l"),
        announce(k=None),
        announce(s=-1),
        announce(s=2**53),
        announce(s=1.0),
        announce(s=True),
        announce(m=-1),
        announce(i=2**53),
        announce(x=""),
        announce(x="a b"),
        announce(x="x" * 65),
        announce(x=None),
        '{"t":"get","p":[]}',
        '{"t":"get","p":"a"}',
        '{"t":"get","p":[""]}',
        '{"t":"get","p":["a\\u0000"]}',
        '{"t":"get","p":[["a"]]}',
        json.dumps({"t": "get", "p": ["a"] * 65}),
        json.dumps({"t": "get", "p": ["x" * 1025]}),
        json.dumps({"t": "ls", "p": "x" * 1025}),
        '{"t":"ls"}',
        '{"t":"want","i":0}',
        '{"t":"want","i":0,"o":-1048576}',
        '{"t":"got","i":0}',
        '{"t":"got","i":0,"p":"/etc/passwd"}',
        f'{{"t":"got","i":0,"p":"a","h":"{HASH.upper()}"}}',
        f'{{"t":"c","i":0,"n":0,"h":"{HASH[1:]}"}}',
        '{"t":"c","i":0,"n":0}',
        '{"t":"end","i":0,"s":0,"h":""}',
        '{"t":"no","i":0,"c":"No!","m":""}',
        '{"t":"no","i":0,"c":"io"}',
        json.dumps({"t": "no", "i": 0, "c": "io", "m": "x" * 501}),
        '{"t":"fend","n":1}',
        '{"t":"fend","n":1,"s":0,"u":null}',
        '{"t":"ok","w":16777217}',
        '{"t":"rst"}',
    ],
)
def test_field_out_of_its_range_is_refused(text: str) -> None:
    with pytest.raises(WireError) as caught:
        file_messages.decode(text)
    assert caught.value.code == "bad_field"


@pytest.mark.parametrize(
    "entry",
    [
        FileEntry("", EntryKind.FILE, 1, 0, "v"),
        FileEntry("../a", EntryKind.FILE, 1, 0, "v"),
        FileEntry("\ud800", EntryKind.FILE, 1, 0, "v"),
        FileEntry("a", EntryKind.FILE, -1, 0, "v"),
        FileEntry("a", EntryKind.FILE, 2**53, 0, "v"),
        FileEntry("a", EntryKind.FILE, 1, -1, "v"),
        FileEntry("a", EntryKind.FILE, 1, 0, ""),
        FileEntry("a", EntryKind.DIRECTORY, 1, 0),
        FileEntry("\x01" * 1000, EntryKind.FILE, 1, 0, "v"),
    ],
    ids=repr,
)
def test_entry_that_would_be_refused_is_not_written(entry: FileEntry) -> None:
    with pytest.raises(WireError):
        file_messages.encode(file_messages.Announce(0, entry))


COUNTS = st.sampled_from([0, 1, 1024, json_message.MAX_COUNT - 1, json_message.MAX_COUNT])
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=500)
PATHS = (
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1), min_size=1, max_size=4
    )
    .map("/".join)
    .filter(lambda path: file_messages.path_refusal(path) is None)
)
HASHES = st.from_regex(r"\A[0-9a-f]{64}\Z")
CODES = st.sampled_from(FileCode)
ENTRIES = st.builds(
    FileEntry, PATHS, st.just(EntryKind.FILE), COUNTS, COUNTS, st.from_regex(r"\A[!-~]{1,64}\Z")
) | st.builds(FileEntry, PATHS, st.just(EntryKind.DIRECTORY), st.just(0), COUNTS)
MESSAGES: st.SearchStrategy[file_messages.Message] = st.one_of(
    st.builds(file_messages.Get, st.lists(PATHS, min_size=1, max_size=3).map(tuple)),
    st.builds(file_messages.Announce, COUNTS, ENTRIES),
    st.builds(file_messages.AnnouncedAll, COUNTS, COUNTS, COUNTS),
    st.builds(file_messages.FileErr, CODES, TEXTS),
    st.builds(file_messages.No, COUNTS, CODES, TEXTS),
    st.builds(file_messages.Got, COUNTS, PATHS, HASHES | st.just("")),
    st.builds(file_messages.ChunkEnd, COUNTS, COUNTS, HASHES),
    st.builds(file_messages.FileEnd, COUNTS, COUNTS, HASHES),
    st.builds(file_messages.FileAck, COUNTS, st.sampled_from([0, 1, messages.MAX_WINDOW])),
)


@settings(max_examples=examples(150), deadline=None)
@given(MESSAGES)
def test_message_survives_the_wire_within_its_size(message: file_messages.Message) -> None:
    text = file_messages.encode(message)
    assert len(text.encode()) <= json_message.MAX_CONTROL_BYTES
    assert file_messages.decode(text) == message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("tipomsxhknwcu"), inner, max_size=5),
    max_leaves=8,
)
KINDS = st.sampled_from([json.loads(text)["t"] for _, text in TABLE])


@settings(max_examples=examples(300), deadline=None)
@given(
    st.text()
    | st.builds(
        lambda kind, rest: json.dumps({"t": kind} | rest),
        KINDS,
        st.dictionaries(st.sampled_from("ipomsxhknwcu"), JSON, max_size=6),
    )
)
def test_any_text_is_a_message_or_a_wire_error(text: str) -> None:
    try:
        answer: file_messages.Message | str | None = file_messages.decode(text)
    except WireError as error:
        answer = error.code
    if isinstance(answer, str):
        assert answer in {"too_long", "not_json", "bad_field", "unknown_message"}
    else:
        assert answer is None or file_messages.decode(file_messages.encode(answer)) == answer
