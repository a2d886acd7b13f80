"""Names from elsewhere: accepted, refused with the reason, or made safe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.files.names import (
    CAREFUL,
    LAX,
    LAX_PORTABLE,
    MAX_COMPONENT_BYTES,
    MAX_COMPONENTS,
    MAX_NAME_BYTES,
    MAX_PATH_BYTES,
    FileNameError,
    NamePolicy,
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
    assert str(caught.value).isprintable()
    assert "\\" in name or "\\" not in str(caught.value), "what is escaped here is escaped once more where it is shown"


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


ODD = "ab./-\\\u202e\u202b\u202c\u2067\u2069\u200c\u0301\x1b mxrtc"
ANY_TEXT = st.text(st.one_of(st.sampled_from(ODD), st.characters()))


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


# What a file system holds

EVERYDAY = [
    "Re: hello.eml",
    "2024-01-01T12:00:00.log",
    "What?.mp3",
    "e\u0301te\u0301.txt",  # as macOS spells it
    "Screenshot 12.00\u202fPM.png",
    "\U0001f469\u200d\U0001f467.jpg",  # two people, one glyph
    "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645.pdf",  # Persian: "I want", with ZWNJ
    "\u0646\u0627\u0645\u0647\u200f (2).pdf",
    "\u202a+98 912 000 0000\u202c.vcf",  # a number copied from a telephone
    "\u2067\u05e9\u05dc\u05d5\u05dd\u2069 report.pdf",
    "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # a flag
    "aux.c",
    "CON",
    "system-systemd\\x2dcryptsetup.slice",
    " two  spaces ",
    "ends with a dot.",
    "a\u00a0b",
    "*",
    '"<|>"',
    "\ue000\uffff\u0378",
    "\u0301",
    "\u6f22" * 85,
    "x" * MAX_NAME_BYTES,
]

NEVER = {
    "": "is empty",
    ".": "another directory",
    "..": "another directory",
    "a\0b": "U+0000",
    "a\nb": "U+000A",
    "a\x1b[2Jb": "U+001B",
    "a\x7fb": "U+007F",
    "a\x9bb": "U+009B",
    "a\u2028b": "U+2028",
    "a\ud800b": "U+D800",
    "gpj\u202etxt.exe": "U+202E",
    "\u202dabc\u202c": "U+202D",
    "a\u202bb": "turns around",
    "a\u202cb": "turns around",
    "a\u2066\u202bb\u2069c\u202c": "turns around",
    "a\u2067b": "turns around",
    "a\u2069b": "turns around",
    "a/b": "U+002F",
    "x" * (MAX_NAME_BYTES + 1): "longer than 255 bytes",
    ".mxrtc": "keeps for itself",
    ".MxRTC": "keeps for itself",
    ".mxrtc. .": "keeps for itself",
    ".mx\u200crtc": "keeps for itself",
    "\uff0emxrtc": "keeps for itself",
}
"""Even where leading dots and dashes may be."""


@pytest.mark.parametrize("name", EVERYDAY, ids=ascii)
def test_an_everyday_name_is_kept_as_it_is(name: str) -> None:
    assert refusal(name, CAREFUL) is None
    assert sanitise_name(name, CAREFUL) == name


@pytest.mark.parametrize(("name", "reason"), NEVER.items(), ids=ascii)
def test_what_no_name_may_be_is_refused_with_the_reason_or_made_safe(name: str, reason: str) -> None:
    for rules in (CAREFUL, LAX):
        assert reason in (refusal(name, rules) or "")
        assert all(refusal(part, rules) is None for part in sanitise(name, rules))


def test_a_turned_name_is_still_recognised_when_it_is_made_safe() -> None:
    assert sanitise_name("gpj\u202etxt.exe", LAX) == "gpj_txt.exe"
    assert sanitise_name("a\u202bb\x1b", LAX) == "a_b_"
    assert sanitise_name(".mxrtc", LAX) == "_.mxrtc"
    assert sanitise_name("\u202a+98\u202c\n", LAX) == "\u202a+98\u202c_"


@pytest.mark.parametrize("name", [".bashrc", ".git", "-rf", "--checkpoint", "...", "-"])
def test_hidden_names_and_options_are_for_who_asked_for_them(name: str) -> None:
    assert "begins with a" in (refusal(name, CAREFUL) or "")
    assert refusal(name, LAX) is None


@pytest.mark.parametrize(
    ("policy", "path", "remedy"),
    [
        (NamePolicy.KEEP, "proj/.git/config", "names: any"),
        (NamePolicy.KEEP, "a\nb", "another name"),
        (NamePolicy.ANY, "a\nb", "another name"),
        (NamePolicy.REFUSE, "Re: hello.eml", "names: keep"),
        (NamePolicy.REFUSE, ".bashrc", "names: any"),
        (NamePolicy.REFUSE, "a/../b", "another name"),
    ],
)
def test_the_remedy_for_a_refused_path_is_one_that_helps(policy: NamePolicy, path: str, remedy: str) -> None:
    assert remedy in policy.remedy(path)


ANY_TEXT = st.text(
    st.one_of(st.sampled_from("ab./-\\\u202e\u202b\u202c\u2067\u2069\u200c\u0301\x1b mxrtc"), st.characters())
)


@given(ANY_TEXT, st.sampled_from([CAREFUL, LAX, NameRules()]))
def test_whatever_is_made_safe_is_acceptable_and_stays_as_it_is(text: str, rules: NameRules) -> None:
    safe = sanitise_name(text, rules)
    assert refusal(safe, rules) is None
    assert sanitise_name(safe, rules) == safe


@given(st.text(st.sampled_from("a\u202a\u202b\u202c\u2066\u2067\u2068\u2069\u0627"), max_size=8))
def test_what_stands_behind_an_accepted_name_is_not_turned(name: str) -> None:
    """After the name no embedding and no isolate is open, and none that began before it is closed."""
    if refusal(name, LAX) is None:
        depth: list[str] = []
        for char in name:
            if char in "\u202a\u202b\u2066\u2067\u2068":
                depth.append("\u202c" if char in "\u202a\u202b" else "\u2069")
            elif char in "\u202c\u2069":
                assert depth.pop() == char
        assert depth == []


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("CON", "_CON"),
        ("nul.txt", "_nul.txt"),
        ("com1 .log", "_com1 .log"),
        ("a:b", "a_b"),
        ("what?.txt", "what_.txt"),
        ("dot.", "dot"),
        ("space ", "space"),
        (".bashrc", ".bashrc"),
        ("-rf", "-rf"),
        ("Grüße.txt", "Grüße.txt"),
    ],
)
def test_what_a_person_fetches_on_windows_gets_a_name_that_windows_can_hold(name: str, safe: str) -> None:
    assert sanitise_name(name, LAX_PORTABLE) == safe
    assert refusal(safe, LAX_PORTABLE) is None
