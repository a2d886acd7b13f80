"""Names from elsewhere: accepted, refused with the reason, or made safe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.files.names import (
    MAX_COMPONENT_BYTES,
    MAX_COMPONENTS,
    MAX_PATH_BYTES,
    FileNameError,
    NameRules,
    check_name,
    check_relative_path,
    collision_key,
    free_name,
    refusal,
    sanitise,
    sanitise_name,
    split_extension,
)

GOOD = [
    "a",
    "report.pdf",
    "two words.txt",
    "a.b.c",
    "100%",
    "it's (final) [2] {x} & more; $HOME `id` #1 !.txt",
    "Straße.txt",
    "日本語.txt",
    "été.txt",
    "\u2600\ufe0f.png",
    "console",
    "com10",
    "_.hidden",
    "~user",
    "=cmd",
    "@at",
    "x" * MAX_COMPONENT_BYTES,
    "é" * (MAX_COMPONENT_BYTES // 2),
]

HOSTILE = {
    "": "is empty",
    ".": "another directory",
    "..": "another directory",
    "...": "begins with a dot",
    "a\0b": "U+0000",
    "a\nb": "U+000A",
    "a\x1b[2Jb": "U+001B",
    "a\x7fb": "U+007F",
    "a\x9bb": "U+009B",
    "gpj\u202etxt.exe": "U+202E",
    "a\u2066b": "U+2066",
    "a\u200bb": "U+200B",
    "a\u200db": "U+200D",
    "\ufeffa": "U+FEFF",
    "a\u2028b": "U+2028",
    "a\u00a0b": "U+00A0",
    "a\u3000b": "U+3000",
    "a\u3164b": "U+3164",
    "a\u00adb": "U+00AD",
    "a\ud800b": "U+D800",
    "a\ue000b": "U+E000",
    "a\uffffb": "U+FFFF",
    "a\U000e0041b": "U+E0041",
    "a\\b": "character",
    "C:": "character",
    "file.txt:stream": "character",
    "what?": "character",
    "*": "character",
    '"q"': "character",
    "a<b": "character",
    "a>b": "character",
    "a|b": "character",
    "e\u0301te": "normal form C",
    "\u212b": "normal form C",
    ".bashrc": "begins with a dot",
    "-rf": "begins with a dash",
    " a": "space",
    "a ": "space",
    "a.": "dot",
    "\u0301a": "begins with a mark",
    "\ufe0fa": "begins with a mark",
    "con": "reserved",
    "CON": "reserved",
    "nul.txt": "reserved",
    "Com1.tar.gz": "reserved",
    "lpt\u00b9": "reserved",
    "aux .txt": "reserved",
    "CONIN$": "reserved",
    "x" * (MAX_COMPONENT_BYTES + 1): "longer than 200 bytes",
    "é" * (MAX_COMPONENT_BYTES // 2) + "x": "longer than 200 bytes",
}


@pytest.mark.parametrize("name", GOOD)
def test_a_name_is_accepted_and_left_alone(name: str) -> None:
    assert check_relative_path(f"{name}/{name}") == (name, name)
    assert sanitise_name(name) == name


@pytest.mark.parametrize(("name", "reason"), HOSTILE.items(), ids=ascii)
def test_a_hostile_name_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(FileNameError, match="is not accepted") as caught:
        check_name(name)
    assert reason in str(caught.value)
    assert caught.value.code == "name"
    assert str(caught.value).isascii()


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_made_safe_where_that_is_wanted(name: str) -> None:
    assert refusal(sanitise_name(name)) is None
    assert all(refusal(part) is None for part in sanitise(name))


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("gpj\u202etxt.exe", "gpj_txt.exe"),
        (".bashrc", "_.bashrc"),
        ("-rf", "_-rf"),
        ("CON.txt", "_CON.txt"),
        ("what?.txt", "what_.txt"),
        ("e\u0301te", "éte"),
        ("report.pdf. ", "report.pdf"),
        ("..", "unnamed"),
        ("x" * 300 + ".tar.gz", "x" * 193 + ".tar.gz"),
    ],
    ids=ascii,
)
def test_a_name_made_safe_is_still_recognised(text: str, safe: str) -> None:
    assert sanitise_name(text) == safe


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "a//b",
        "a/../b",
        "../a",
        "a/..",
        "./a",
        "a/",
        "/",
        "a/.git/config",
        "C:/windows",
        "\\\\host\\share",
    ],
)
def test_a_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(FileNameError):
        check_relative_path(path)
    parts = sanitise(path)
    assert check_relative_path("/".join(parts)) == parts


def test_a_path_is_refused_beyond_its_limits_only() -> None:
    """32 components and 1024 bytes are accepted, one more is not."""
    deep = "/".join("a" * MAX_COMPONENTS)
    assert len(check_relative_path(deep)) == MAX_COMPONENTS
    with pytest.raises(FileNameError, match="33 parts"):
        check_relative_path(deep + "/a")
    long = "/".join(["x" * 127] * 8)
    assert len(long) == MAX_PATH_BYTES - 1
    assert check_relative_path(long + "x")
    with pytest.raises(FileNameError, match="longer than 1024"):
        check_relative_path(long + "xx")


def test_a_long_text_is_refused_without_being_looked_at() -> None:
    """Megabytes of marks that are slow to normalise cost nothing."""
    text = "a" + "\u0301\u0323" * 1_000_000
    with pytest.raises(FileNameError, match="longer than"):
        check_relative_path(text)
    assert refusal(sanitise_name(text)) is None
    assert check_relative_path("/".join(sanitise(text)))


def test_hidden_files_are_accepted_where_a_source_was_asked_for_them() -> None:
    rules = NameRules(leading_dot=True)
    assert check_relative_path(".git/config", rules) == (".git", "config")
    assert sanitise_name(".bashrc", rules) == ".bashrc"
    with pytest.raises(FileNameError):
        check_relative_path("..", rules)


@pytest.mark.parametrize(
    ("one", "other"),
    [("README", "readme"), ("Straße", "STRASSE"), ("É", "é"), ("\u2600\ufe0f", "\u2600"), ("ΣΑΣ", "σας")],
)
def test_names_that_people_or_file_systems_take_for_one_share_a_key(one: str, other: str) -> None:
    assert collision_key(one) == collision_key(other)


def test_names_that_differ_have_different_keys() -> None:
    assert len({collision_key(name) for name in ("a", "b", "á", "a.txt", "a txt", "1")}) == 6


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("name.ext", "name (2).ext"),
        ("name", "name (2)"),
        ("backup.tar.gz", "backup (2).tar.gz"),
        (".tar.gz", ".tar (2).gz"),
        (".bashrc", ".bashrc (2)"),
        ("v1.2 final", "v1.2 final (2)"),
        ("x" * 200, "x" * 196 + " (2)"),
        ("é" * 98 + ".txt", "é" * 96 + " (2).txt"),
    ],
)
def test_the_second_name_keeps_extension_and_limit(name: str, free: str) -> None:
    assert free_name(name, 2) == free
    assert len(free.encode()) <= MAX_COMPONENT_BYTES


def test_the_first_name_is_the_name_itself() -> None:
    with pytest.raises(ValueError, match="number is 1"):
        free_name("a", 1)


ANY_TEXT = st.text(max_size=300) | st.text(alphabet="./\\ -\0\u202e\u0301é" + "con", max_size=2200)


@given(ANY_TEXT)
def test_whatever_comes_can_be_made_safe(text: str) -> None:
    """The safe form is acceptable, and does not change any more."""
    parts = sanitise(text)
    assert check_relative_path("/".join(parts)) == parts
    assert sanitise("/".join(parts)) == parts
    name = sanitise_name(text)
    check_name(name)
    assert sanitise_name(name) == name


@given(ANY_TEXT)
def test_what_is_accepted_is_one_component_that_stays_where_it_is(text: str) -> None:
    if refusal(text) is None:
        assert "/" not in text
        assert text not in {"", ".", ".."}
        assert len(text.encode()) <= MAX_COMPONENT_BYTES
        assert sanitise_name(text) == text


@given(ANY_TEXT.map(sanitise_name), st.integers(2, 100_000))
def test_every_further_name_is_acceptable_and_differs(name: str, number: int) -> None:
    free = free_name(name, number)
    check_name(free)
    assert free != name
    assert free != free_name(name, number + 1)
    assert split_extension(free)[1] == split_extension(name)[1]
