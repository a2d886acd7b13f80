"""Commands of people: the table of forms, and what anything else gets."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mxrtc_bridge.core.access.policy import ServerSubject, UserSubject
from mxrtc_bridge.core.bot.arguments import Names
from mxrtc_bridge.core.bot.commands import Command, Effect, Mistake
from mxrtc_bridge.core.bot.parser import addressed, form_of, parse_command
from mxrtc_bridge.core.bot.words import command_words
from mxrtc_bridge.core.ids import ServiceName, UserId
from tests.chat_commands import BY_VERB, COMMANDS, made, usable

NAMES = Names("example.org")
BUILD, SSH, BOB = UserId("@rtc_build:example.org"), ServiceName("ssh"), UserId("@bob:example.org")
BOB_SUBJECT = UserSubject("bob", "example.org")


def read(text: str, *, admin: bool = True) -> Command | Mistake:
    words = command_words(text, direct=True)
    assert words is not None
    return parse_command(words, usable(admin=admin), NAMES)


READ: list[tuple[str, tuple[object, ...]]] = [
    ("help", (None,)),
    ("help Request more", ("Request",)),
    ("peers", (False,)),
    ("PEERS all", (True,)),
    ("open build", (BUILD,)),
    ("open @rtc_build:example.org", (BUILD,)),
    ("status", ()),
    ("how build", (BUILD, None)),
    ("how `build/ssh`", (BUILD, SSH)),
    ("request build/ssh", (BUILD, SSH, None, "")),
    ("request build/ssh for 2h", (BUILD, SSH, 7200, "")),
    ("request build/ssh for 2 hours because I must", (BUILD, SSH, 7200, "I must")),
    ('request build/ssh because "a <b>"', (BUILD, SSH, None, "a <b>")),
    ("withdraw 3", (3,)),
    ("requests", ()),
    ("close", (None,)),
    ("close build", (BUILD,)),
    ("grants", (1,)),
    ("grants page 2", (2,)),
    ("grants 2", (2,)),
    ("grant @bob:example.org build/ssh for 2h", (BOB_SUBJECT, BUILD, SSH, 7200, "")),
    ("grant server:Partner.org build/ssh for 3d", (ServerSubject("partner.org"), BUILD, SSH, 259200, "")),
    ("grant @bob:example.org build/ssh for 2h because x", (BOB_SUBJECT, BUILD, SSH, 7200, "x")),
    ("revoke 17", ("17", None, None, "")),
    ("revoke #17", ("17", None, None, "")),
    ("revoke ops-2 because over", ("ops-2", None, None, "over")),
    ("revoke @bob:example.org", (BOB_SUBJECT, None, None, "")),
    ("revoke @bob:example.org build/ssh", (BOB_SUBJECT, BUILD, SSH, "")),
    ("revoke server:partner.org because x", (ServerSubject("partner.org"), None, None, "x")),
    ("who", (1,)),
    ("kick 4", (None, "4", "")),
    ("kick #4 because x", (None, "4", "x")),
    ("kick @bob:example.org", (BOB, "", "")),
    ("kick @bob:EXAMPLE.org", (BOB, "", "")),
    ("open @rtc_build:Example.Org", (BUILD,)),
    ("log", (None, None, None, 1)),
    ("log build", (None, BUILD, None, 1)),
    ("log @rtc_build:example.org", (None, BUILD, None, 1)),
    ("log @bob:example.org since 2h page 3", (BOB, None, 7200, 3)),
    ("log 2h", (None, None, 7200, 1)),
    ("log page 2", (None, None, None, 2)),
    ("check", ()),
    ("reload", ()),
    ("pause", ()),
    ("resume", ()),
    ("allow 12", (12, False, None)),
    ("allow #12 once", (12, True, None)),
    ("allow 12 for 30m", (12, False, 1800)),
    ("deny 12", (12, "")),
    ("deny 12 because no", (12, "no")),
    ("yes 17", (17,)),
]


@pytest.mark.parametrize(("text", "arguments"), READ)
def test_command_is_read(text: str, arguments: tuple[object, ...]) -> None:
    assert read(text) == made(text.split(maxsplit=1)[0].lower(), *arguments)


def test_every_command_is_read_by_a_case() -> None:
    assert {text.split()[0].lower() for text, _ in READ} == set(BY_VERB)
    assert len(BY_VERB) == len(COMMANDS), "each verb once"


def test_what_gives_is_known_to_admins_alone() -> None:
    by_effect = {effect: {form.verb for form in COMMANDS if form.effect is effect} for effect in Effect}
    assert by_effect[Effect.GIVES] == {"allow", "grant", "resume"}
    assert by_effect[Effect.CONFIRMS] == {"yes"}
    assert by_effect[Effect.TAKES] == {"revoke", "kick", "pause", "reload"}
    assert by_effect[Effect.ENDS] == {"deny", "withdraw", "close"}
    assert by_effect[Effect.CHANGES] == {"open", "request"}
    assert all(form.admin for form in COMMANDS if form.effect in (Effect.GIVES, Effect.CONFIRMS, Effect.TAKES))
    assert {form.verb for form in COMMANDS if form.once_more} == {"revoke"}


@pytest.mark.parametrize("quotes", ['""', "''", "``", "\u201c\u201d", "\u00ab\u00bb"])
def test_a_command_in_quotation_marks_is_none(quotes: str) -> None:
    said = read(f"{quotes[0]}grant @bob:example.org build/ssh for 2h because I need it{quotes[1]}")
    assert isinstance(said, Mistake)
    assert "I do not know" in said.problem


WRONG = [
    ("open", "peer is missing"),
    ("open build/ssh", "without a service"),
    ("open build now", "too much"),
    ("status now", "too much"),
    ("peers some", "too much"),
    ("peers all more", "too much"),
    ("how BUILD", "not the name of a peer"),
    ("how build/", "not the name of a service"),
    ("request", "missing"),
    ("request build", "service is missing"),
    ("request build/ssh for", "a time is wanted"),
    ("request build/ssh for ever", "a time is wanted"),
    ("request build/ssh for 91d", "at most 90d"),
    ("request build/ssh please", "do not understand"),
    ("withdraw", "number of the request is missing"),
    ("withdraw x", "not a number"),
    ("grant", "Say who"),
    ("grant bob build/ssh for 2h", "not a subject"),
    ("grant @bob:example.org", "missing"),
    ("grant @bob:example.org build/ssh", "how long"),
    ("revoke", "Say what to revoke"),
    ("revoke ***", "not the id"),
    ("kick", "whom to kick"),
    ("kick @bob", "not a user"),
    ("kick ***", "not the id"),
    ("log since", "a time is wanted"),
    ("log build yesterday", "a time is wanted"),
    ("grants 0", "Pages"),
    ("grants 1 2", "too much"),
    ("allow", "missing"),
    ("allow 1 twice", "too much"),
    ("allow 1 once more", "too much"),
    ("deny 1 no", "do not understand"),
    ("allow " + "9" * 13, "not a number"),
]


@pytest.mark.parametrize("text", ["ls", "LS"])
def test_a_command_has_the_word_of_the_command_line_too(text: str) -> None:
    assert read(text, admin=False) == read("peers", admin=False)
    assert form_of("ls", usable(admin=False)) is BY_VERB["peers"]


@pytest.mark.parametrize(("text", "problem"), WRONG)
def test_wrong_command_gets_the_usage_of_its_verb(text: str, problem: str) -> None:
    mistake = read(text)
    assert isinstance(mistake, Mistake)
    assert problem in mistake.problem
    assert mistake.usage == BY_VERB[text.split(maxsplit=1)[0]].usage


@pytest.mark.parametrize(
    ("text", "suggestion"),
    [
        ("requst build/ssh for 2h", "request build/ssh for 2h"),
        ("peer", "peers"),
        ("opne build", "open build"),
        ("stauts", "status"),
        ("xyzzy", "help"),
        ("hello", "help"),
        ("\u202eopen", "open"),
        ("opn \u202e", "open"),
    ],
)
def test_unknown_command_gets_the_nearest_right_one(text: str, suggestion: str) -> None:
    mistake = read(text, admin=False)
    assert isinstance(mistake, Mistake)
    assert mistake.suggestion == suggestion
    assert "\u202e" not in mistake.problem


@pytest.mark.parametrize("text", [text for text, _ in READ if BY_VERB[text.split()[0].lower()].admin])
def test_commands_of_admins_do_not_exist_for_others(text: str) -> None:
    mistake = read(text, admin=False)
    assert isinstance(mistake, Mistake)
    assert "do not know" in mistake.problem


def test_others_are_never_pointed_to_a_command_of_admins() -> None:
    mistake = read("kickk", admin=False)
    assert isinstance(mistake, Mistake)
    assert mistake.suggestion not in {form.verb for form in COMMANDS if form.admin}


@pytest.mark.parametrize("form", COMMANDS, ids=lambda form: form.verb)
def test_every_example_is_a_command(form: object) -> None:
    for example_text in form.examples:  # type: ignore[attr-defined]
        assert not isinstance(read(example_text), Mistake), example_text


def test_commands_in_a_room_of_many_are_shown_with_the_prefix() -> None:
    assert addressed("peers", direct=False) == "!rtc peers"
    assert addressed("peers", direct=True) == "peers"


def test_people_without_the_rank_see_their_commands_only() -> None:
    assert [form.verb for form in usable(admin=False)] == [
        "help", "peers", "open", "status", "how", "request", "withdraw", "close",
    ]  # fmt: skip


WORD = st.one_of(
    st.sampled_from(
        [*(form.verb for form in COMMANDS), "all", "for", "because", "since", "page", "once", "build/ssh", "build"]
    ),
    st.sampled_from(["@bob:example.org", "server:a.b", "room:!x", "*", "2h", "3 d", "12", "#1", "'", "``", "</b>"]),
    st.text(st.characters(blacklist_categories=()), max_size=12),
    st.sampled_from(["\u202e", "\u2066x", "&amp;", "x" * 3999, "9" * 400, "\ud800", "\0", "@" + "a" * 300 + ":b"]),
)


@given(st.lists(WORD, max_size=8), st.booleans())
@example(["grant", "server:", "x"], True)
@example(["log", "@"], True)
def test_any_words_give_a_command_or_a_mistake(pieces: list[str], admin: bool) -> None:
    words = command_words(" ".join(pieces), direct=True)
    if words is None:
        return
    result = parse_command(words, usable(admin=admin), NAMES)
    if isinstance(result, Mistake):
        shown = f"{result.problem} {result.usage} {result.suggestion}"
        assert len(shown) < 700
        assert shown.isprintable()
