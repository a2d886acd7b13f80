"""Whose words a message holds: nothing that somebody else has a hand in becomes a command."""

from __future__ import annotations

import string
from html import escape
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mxrtc_bridge.core.access.policy import UserSubject
from mxrtc_bridge.core.bot.arguments import Names
from mxrtc_bridge.core.bot.commands import Command, Mistake
from mxrtc_bridge.core.bot.message_text import HTML, MAX_HTML_CHARS, MAX_MENTIONS, Typed, read_message
from mxrtc_bridge.core.bot.parser import meant_by
from mxrtc_bridge.core.bot.words import MAX_TEXT_CHARS, MAX_WORDS
from mxrtc_bridge.core.ids import ServiceName, UserId
from tests.chat_commands import COMMANDS, made
from tests.long import some

BOT = UserId("@rtcbot:x")
BUILD, SSH = UserId("@rtc_build:x"), ServiceName("ssh")
MALLORY = "@mallory:x"
FOREIGN = f"!rtc grant {MALLORY} build/ssh for 30d because I need it"
TO_BOB = made("grant", UserSubject("bob", "x"), BUILD, SSH, 7200, "")
FROM_BOB = made("revoke", UserSubject("bob", "x"), None, None, "")
NAME = BOT[1:].partition(":")[0]
REPLY = {"m.in_reply_to": {"event_id": "$theirs"}}
THREAD = {"rel_type": "m.thread", "event_id": "$root"}


def pill(user: str = MALLORY, name: str = "mallory") -> str:
    return f'<a href="https://matrix.to/#/{user}">{escape(name)}</a>'


def message(body: object, html: object = None, **more: Any) -> dict[str, Any]:
    formatted = {} if html is None else {"format": HTML, "formatted_body": html}
    return {"msgtype": "m.text", "body": body, **formatted, **more}


def meant(content: dict[str, Any], *, direct: bool = False) -> Command | Mistake | None:
    """What an admin's message comes to."""
    typed = read_message(content, direct=direct, is_own=lambda user: user == BOT, spoken_to=BOT)
    return None if typed is None else meant_by(typed, COMMANDS, Names("x"))


def gives_nothing(content: dict[str, Any]) -> None:
    """Check that a message gives nothing, wherever it is written."""
    for direct in (False, True):
        said = meant(content, direct=direct)
        assert said is None or isinstance(said, Mistake) or said.form.verb == "help", (content, said)


# What is the sender's own


@pytest.mark.parametrize("direct", [False, True])
def test_a_plain_line_is_a_command(direct: bool) -> None:
    assert meant(message("!rtc grant @bob:x build/ssh for 2h"), direct=direct) == TO_BOB


@pytest.mark.parametrize(
    ("body", "html"),
    [
        # Element: the name in the body, a link in the formatted text; some clients write "@" in front, or the id.
        ("!rtc grant Bob build/ssh for 2h", f"!rtc grant {pill('@bob:x', 'Bob')} build/ssh for 2h"),
        ("!rtc grant @Bob build/ssh for 2h", f"!rtc grant {pill('@bob:x', 'Bob')} build/ssh for 2h"),
        ("!rtc grant @bob:x build/ssh for 2h", f"!rtc grant {pill('@bob:x', 'Bob')} build/ssh for 2h"),
        ("!rtc grant @bob:x build/ssh for 2h", f"<p>!rtc grant {pill('@bob:x', '@bob:x')} build/ssh for 2h</p>"),
        ("!rtc grant Bob Z build/ssh for 2h", f"!rtc grant {pill('@bob:x', 'Bob  Z')} build/ssh for 2h"),
        ("!rtc grant B&b build/ssh for 2h", f"!rtc grant {pill('@bob:x', 'B&b')} build/ssh for 2h"),
        ("!rtc grant Bob build/ssh for 2h", f"!rtc grant {pill('%40bob%3Ax', 'Bob')} build/ssh for 2h"),
        ("!rtc grant Bob build/ssh for 2h", f"!rtc grant {pill('@bob:x?via=y', 'Bob')} build/ssh for 2h"),
        ("!rtc grant Bob build/ssh for 2h", '!rtc grant <a href="matrix:u/bob:x">Bob</a> build/ssh for 2h'),
        # Element X: the body is Markdown.
        (
            "!rtc grant [@bob:x](https://matrix.to/#/@bob:x) build/ssh for 2h",
            f"!rtc grant {pill('@bob:x', '@bob:x')} build/ssh for 2h",
        ),
        (
            "!rtc grant [Bob](https://matrix.to/#/%40bob%3Ax) build/ssh for 2h",
            f"!rtc grant {pill('@bob:x', 'Bob')} build/ssh for 2h",
        ),
        # A peer too.
        ("!rtc grant @bob:x build/ssh for 2h", f"!rtc grant @bob:x {pill('@rtc_build:x', 'build')}/ssh for 2h"),
        ("!rtc grant @bob:x build/ssh for 2h", "<p><b>!rtc</b> grant @bob:x build/ssh<br>for <i>2h</i></p>"),
    ],
)
def test_a_mention_stands_for_the_user_where_the_body_has_the_name(body: str, html: str) -> None:
    mentioned = {"user_ids": ["@bob:x"]} if "bob" in html and "rtc_build" not in html and "<a" in html else {}
    assert meant(message(body, html, **{"m.mentions": mentioned})) == TO_BOB


def test_marks_of_the_body_are_not_taken_for_a_difference() -> None:
    said = meant(message("!rtc deny 1 because *no* `x`", "!rtc deny 1 because <em>no</em> <code>x</code>"))
    assert not isinstance(said, Mistake)
    assert said is not None


def test_an_answer_to_the_bot_may_be_a_command() -> None:
    answer = message("!rtc allow 12", **{"m.relates_to": REPLY, "m.mentions": {"user_ids": [BOT]}})
    assert meant(answer) == made("allow", 12, False, None)


@pytest.mark.parametrize("direct", [False, True])
def test_the_repeated_message_of_a_reply_is_left_out_and_the_rest_stands_by_itself(direct: bool) -> None:
    html = f"<mx-reply><blockquote>{FOREIGN}</blockquote></mx-reply>!rtc allow 12"
    for formatted in (None, html):
        reply = message(f"> <{MALLORY}> {FOREIGN}\n> more\n\n!rtc allow 12", formatted, **{"m.relates_to": REPLY})
        assert meant(reply, direct=direct) == made("allow", 12, False, None)


def test_a_thread_is_no_obstacle() -> None:
    assert meant(message("!rtc peers", **{"m.relates_to": THREAD})) == made("peers", False)
    falling_back = {**THREAD, "is_falling_back": True, **REPLY}
    assert meant(message("!rtc peers", **{"m.relates_to": falling_back})) == made("peers", False)


@pytest.mark.parametrize(
    ("body", "html"),
    [
        (f"{NAME}: peers", None),
        (f"@{NAME.upper()}, peers", None),
        (f"{BOT}: peers", None),
        (f"{BOT} peers", None),
        (f"{NAME}: peers", f"{pill(BOT, NAME)}: peers"),
        ("The bridge: peers", f"{pill(BOT, 'The bridge')}: peers"),
        ("The bridge peers", f"<p>{pill(BOT, 'The bridge')} peers</p>"),
        ("/peers", None),
        ("`peers`", None),
        ("`peers`", "<code>peers</code>"),
        ("```\npeers\n```", "<pre><code>peers\n</code></pre>\n"),
        ("```\n!rtc peers\n```", None),
    ],
)
def test_in_a_direct_chat_a_command_may_be_addressed_or_marked_as_code(body: str, html: str | None) -> None:
    mentions = {} if html is None or "<a" not in html else {"m.mentions": {"user_ids": [BOT]}}
    assert meant(message(body, html, **mentions), direct=True) == made("peers", False)
    assert meant(message(body, html, **mentions), direct=False) is None


@pytest.mark.parametrize(
    ("body", "html"),
    [
        ("`grant @bob:x build/ssh for 2h`", None),
        ("```\ngrant @bob:x build/ssh for 2h\n```", None),
        ("```\ngrant @bob:x build/ssh for 2h\n```", "<pre><code>grant @bob:x build/ssh for 2h\n</code></pre>"),
    ],
)
def test_what_is_marked_as_code_gives_nothing(body: str, html: str | None) -> None:
    said = meant(message(body, html), direct=True)
    assert isinstance(said, Mistake)
    assert "marked as code or a link" in said.problem


@pytest.mark.parametrize(
    ("body", "html"),
    [
        ("mallory: peers", None),
        (f"mallory: {NAME}: peers", None),
        ("mallory: peers", f"{pill()}: peers"),
        (f"{NAME}: peers", f"{pill(MALLORY, NAME)}: peers"),
        ("The bridge: peers", f"{pill(BOT, 'The bridge: peers')}"),
        (f"{NAME}:", None),
        (f"{NAME} peers", None),
        ("`peers` or `status`", None),
        ("```\npeers\nstatus\n```", None),
    ],
)
def test_what_is_addressed_to_others_or_is_more_than_a_command_is_none(body: str, html: str | None) -> None:
    assert isinstance(meant(message(body, html), direct=True), Mistake)


@pytest.mark.parametrize(
    ("body", "html"),
    [
        ("mallory: peers", f"{pill()}: peers"),
        (f"open {NAME}: now", f"open {pill(BOT, NAME)}: now"),
        (f"{NAME}! peers", f"{pill(BOT, NAME)}! peers"),
    ],
)
def test_only_a_mention_of_ours_in_front_may_have_a_colon_behind_it(body: str, html: str) -> None:
    said = meant(message(body, html), direct=True)
    assert isinstance(said, Mistake)
    assert "begins and ends" in said.problem


def test_what_is_addressed_is_read_like_any_other() -> None:
    given = f"grant {pill('@bob:x', 'Bob')} build/ssh for 2h"
    said = message("The bridge: grant Bob build/ssh for 2h", f"{pill(BOT, 'The bridge')}: {given}")
    assert meant(said, direct=True) == TO_BOB


def test_what_other_clients_may_show_instead_is_not_read() -> None:
    more = {"m.text": [{"body": FOREIGN}], "org.matrix.msc1767.text": FOREIGN, "org.matrix.msc1767.message": [FOREIGN]}
    assert meant(message("!rtc grant @bob:x build/ssh for 2h", **more)) == TO_BOB
    assert meant(message("no", **more)) is None


@pytest.mark.parametrize("body", [None, 7, {}, ["peers"], True, "x" * (MAX_TEXT_CHARS + 1)])
def test_what_is_no_text_or_too_long_is_nothing(body: object) -> None:
    assert read_message(message(body), direct=True) is None


def test_the_text_at_the_limit_is_read() -> None:
    assert read_message(message("x" * MAX_TEXT_CHARS), direct=True) == Typed(("x" * MAX_TEXT_CHARS,))


# Elements that hold or hide another's words

ELEMENTS = [
    "<{0}>{1}</{0}>".format(tag, "{}")
    for tag in (
        "blockquote", "mx-reply", "del", "s", "strike", "code", "pre", "tt", "samp", "kbd", "q", "cite", "ins", "mark",
        "details", "summary", "table", "tr", "td", "th", "caption", "sup", "sub", "h1", "h2", "h3", "h4", "h5", "h6",
        "ul", "ol", "li", "dl", "dd", "script", "style", "title", "template", "noscript", "textarea", "select",
        "option", "button", "iframe", "object", "svg", "math", "font", "small", "big", "marquee", "center", "label",
        "time", "abbr", "ruby", "rt", "xmp", "plaintext", "listing", "unknown", "x-own", "form", "head", "body",
    )
] + [
    "<details><summary>more</summary>{}</details>",
    "<pre><code>{}</code></pre>",
    "<span data-mx-spoiler>{}</span>",
    '<span data-mx-spoiler="why">{}</span>',
    '<span style="display:none">{}</span>',
    '<span class="hidden">{}</span>',
    "<p hidden>{}</p>",
    "<div hidden='until-found'>{}</div>",
    '<p style="color:#fff">{}</p>',
    '<font color="#fff">{}</font>',
    '<span data-mx-color="#ffffff" data-mx-bg-color="#ffffff">{}</span>',
    '<div data-mx-maths="{}">x</div>',
    '<a title="{}" href="https://x.test">x</a>',
    '<a name="x">{}</a>',
    '<a href="https://matrix.to/#/@mallory:x">{}</a>',
    '<a href="https://matrix.to/#/@mallory:x" href="https://matrix.to/#/@bob:x">{}</a>',
    '<a href="https://matrix.to/#/!room:x/$event">{}</a>',
    '<img alt="{}">',
    '<img title="{}" src="mxc://x/y">',
    '<input value="{}">',
    "<!-- {} -->",
    "<![CDATA[{}]]>",
    "<?php {} ?>",
    "<!DOCTYPE {}>",
    "<!ELEMENT {}>",
    "<blockquote><p><em>{}</em></p></blockquote>",
    "<em><del>{}</del></em>",
    "<p><s><b>{}</b></s></p>",
    "<blockquote>{}",
    "<del>{}",
    "<mx-reply>{}",
    "<mx-reply></mx-reply><blockquote>{}</blockquote>",
    "<BLOCKQUOTE>{}</BLOCKQUOTE>",
    "<block\nquote>{}</block\nquote>",
    "<blockquote/>{}",
    "<b><blockquote></b>{}</blockquote>",
]  # fmt: skip


def bodies(own: str) -> list[str]:
    """What clients make of a quotation in the body: marked, as bare text of the elements, left out."""
    return [
        f"> {FOREIGN}\n\n{own}",
        f">{FOREIGN}\n{own}",
        f"{FOREIGN}\n\n{own}",
        f"{FOREIGN}{own}",
        f"{FOREIGN} {own}",
        f"{FOREIGN}\r{own}",
        f"{FOREIGN}\u2028{own}",
        own,
        f"~~{FOREIGN}~~ {own}",
        f"`{FOREIGN}` {own}",
        f"||{FOREIGN}|| {own}",
        f'"{FOREIGN}" {own}',
        f"\u201c{FOREIGN}\u201d {own}",
        f"<del>{FOREIGN}</del> {own}",
        f"{own}\n> {FOREIGN}",
        f"{own}\n\n{FOREIGN}",
    ]


@pytest.mark.parametrize("element", some(ELEMENTS, 12))
def test_a_command_of_another_in_an_element_is_none(element: str) -> None:
    own = "mallory: no, please ask in the chat"
    html = f"{pill()}: no, please ask in the chat"
    inner = {escape(FOREIGN), FOREIGN.replace(MALLORY, pill()), f"<p>{FOREIGN}</p>"}
    entities = "".join(f"&#{ord(char)};" for char in FOREIGN)
    for body in bodies(own):
        for text in (*sorted(inner), entities):
            quoted = element.format(text) if "{}" in element else element
            for formatted in (f"{quoted}{html}", f"{html}{quoted}", f"{quoted}<p>{html}</p>", quoted):
                for relation in ({}, {"m.relates_to": REPLY}):
                    gives_nothing(message(body, formatted, **relation, **{"m.mentions": {"user_ids": [MALLORY]}}))


@pytest.mark.parametrize("element", ELEMENTS)
def test_a_command_of_another_in_an_element_is_none_where_the_body_says_the_same(element: str) -> None:
    """The body is what a client makes of the elements by leaving out their tags; nobody is mentioned."""
    for own in ("", "no, thanks"):
        for text in (FOREIGN, FOREIGN.removeprefix("!rtc "), "!rtc allow 12", "!rtc resume"):
            for body in (f"{text} {own}", f"{text}{own}", f"{text}\n{own}x"):
                for formatted in (element.format(text) + own, f"{element.format(text)} <p>{own}</p>"):
                    gives_nothing(message(body, formatted))


def test_quoted_tags_that_are_encoded_are_text_and_differ() -> None:
    quoted = escape(f"<blockquote>{FOREIGN}</blockquote>")
    gives_nothing(message(f"{FOREIGN} no", f"{quoted} {pill()} no"))
    gives_nothing(message(f"{FOREIGN} no", escape(quoted)))


TEXT = st.text(st.sampled_from(string.ascii_letters + ' <>/&;"=!-\n'), max_size=20)
OPENING = st.sampled_from([element.partition("{}")[0] for element in ELEMENTS])
CLOSING = st.sampled_from([element.partition("{}")[2] for element in ELEMENTS])


@given(
    before=TEXT, opening=OPENING, closing=CLOSING, after=TEXT, body=st.sampled_from(bodies("no")), direct=st.booleans()
)
def test_whatever_surrounds_a_quotation_gives_nothing(
    before: str, opening: str, closing: str, after: str, body: str, direct: bool
) -> None:
    html = f"{before}{opening}{FOREIGN.replace(MALLORY, pill())}{closing}{after} no"
    said = meant(message(body, html), direct=direct)
    # Where the two sides say the same, word for word, it was typed so.
    assert said is None or isinstance(said, Mistake) or body.split() == [*FOREIGN.split(), "no"]


# Forms of events that carry another's words


@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        {"msgtype": "m.notice", "body": FOREIGN},
        {"msgtype": "m.emote", "body": FOREIGN},
        {"msgtype": "m.image", "body": FOREIGN, "url": "mxc://x/y"},
        {"msgtype": "m.image", "body": FOREIGN, "filename": "x.png", "url": "mxc://x/y"},
        {"msgtype": "m.file", "body": FOREIGN, "filename": FOREIGN, "file": {}},
        {"msgtype": "m.audio", "body": FOREIGN},
        {"msgtype": "m.video", "body": FOREIGN},
        {"msgtype": "m.location", "body": FOREIGN, "geo_uri": "geo:0,0"},
        {"msgtype": "m.key.verification.request", "body": FOREIGN},
        {"msgtype": "m.server_notice", "body": FOREIGN},
        {"msgtype": "io.own.type", "body": FOREIGN},
        {"msgtype": ["m.text"], "body": FOREIGN},
        {"body": FOREIGN},
        {},
        {"m.text": FOREIGN, "org.matrix.msc1767.text": FOREIGN},
        {"org.matrix.msc3381.poll.start": {"question": {"body": FOREIGN}}, "org.matrix.msc1767.text": FOREIGN},
        message(FOREIGN, filename=FOREIGN),
        message(FOREIGN, url="mxc://x/y"),
        message(FOREIGN, file={}),
        message(FOREIGN, info={}),
        message(FOREIGN, **{"m.forwarded": {"sender": MALLORY}}),
        message(FOREIGN, **{"org.matrix.msc2723.forwarded": {}}),
        message(FOREIGN, **{"com.example.Quoted_Message": {}}),
        message(f"* {FOREIGN}", **{"m.new_content": message(FOREIGN)}),
        message(FOREIGN, **{"m.new_content": message(FOREIGN)}),
        message(FOREIGN, **{"m.new_content": None}),
        message(FOREIGN, **{"m.relates_to": {"rel_type": "m.replace", "event_id": "$x"}}),
        message(FOREIGN, **{"m.relates_to": {"rel_type": "m.replace", "event_id": "$x", **REPLY}}),
        message(f"> <{MALLORY}> x\n\n* {FOREIGN}", **{"m.relates_to": {"rel_type": "m.replace", **REPLY}}),
        message(FOREIGN, **{"m.relates_to": {"rel_type": "m.reference", "event_id": "$x"}}),
        message(FOREIGN, **{"m.relates_to": {"rel_type": "m.annotation", "event_id": "$x", "key": "x"}}),
        message(FOREIGN, **{"m.relates_to": {"rel_type": "io.element.thread", "event_id": "$x"}}),
        message(FOREIGN, **{"m.relates_to": {"rel_type": None}}),
        message(FOREIGN, **{"m.relates_to": {"m.quoted": {"event_id": "$x"}}}),
        message(FOREIGN, **{"m.relates_to": {**REPLY, "quote": FOREIGN}}),
        message(FOREIGN, **{"m.relates_to": {"m.in_reply_to": "$x"}}),
        message(FOREIGN, **{"m.relates_to": [REPLY]}),
        message(f"> {FOREIGN}\n\n{FOREIGN}"),
        message(f"> <{MALLORY}> {FOREIGN}", **{"m.relates_to": REPLY}),
        message(f"> <{MALLORY}> x\n\n> {FOREIGN}", **{"m.relates_to": REPLY}),
        message(f"> <{MALLORY}> x\n\n{FOREIGN}", **{"m.relates_to": {**THREAD, "is_falling_back": True, **REPLY}}),
        message(f">   {FOREIGN}"),
    ],
)
def test_an_event_that_carries_anothers_words_is_no_command(content: dict[str, Any], direct: bool) -> None:
    assert meant(content, direct=direct) is None


@pytest.mark.parametrize("end", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029"])
def test_a_command_of_more_lines_is_refused_in_words(end: str) -> None:
    for content in (
        message(f"!rtc grant @bob:x build/ssh for 2h because{end}> {FOREIGN}"),
        message(f"> <{MALLORY}> x\n\n!rtc grant @bob:x build/ssh for 2h{end}{FOREIGN}", **{"m.relates_to": REPLY}),
        message(f"> <{MALLORY}> x\ntheir second line\n\n!rtc allow 12{end}", **{"m.relates_to": REPLY}),
    ):
        said = meant(content, direct=True)
        assert isinstance(said, Mistake)
        assert "one line" in said.problem


# Formatted text that differs


@pytest.mark.parametrize(
    ("body", "html"),
    [
        ("!rtc revoke @bob:x", "please do not !rtc revoke @bob:x"),
        ("!rtc revoke @bob:x", "<p>hello</p>"),
        ("!rtc revoke @bob:x", ""),
        ("!rtc revoke @bob:x", 7),
        ("!rtc revoke @bob:x", "x" * (MAX_HTML_CHARS + 1)),
        ("!rtc revoke @bob:x", "!rtc revoke @bob:x\0"),
        ("!rtc revoke @bob:x", f"!rtc revoke {pill('@carol:x', 'carol')}"),
        ("!rtc revoke bob", f"!rtc revoke bob {pill('@carol:x', 'carol')}"),
        ("!rtc revoke bob carol", f"!rtc revoke {pill('@carol:x', 'carol')} {pill('@bob:x', 'bob')}"),
        ("!rtc grant @bob:x build/ssh for 2h", "!rtc grant @bob:x build/ssh for 20h"),
        ("!rtc grant @bob:x build/ssh for 2h", "!rtc grant @bob:x <del>build/db</del> build/ssh for 2h"),
        ("!rtc grant bob build/ssh for 2h", f"!rtc grant {pill('@bob:x', 'bob')} <b>build/db</b> for 2h"),
    ],
)
def test_formatted_text_that_says_something_else_is_refused_in_words(body: str, html: object) -> None:
    said = meant(message(body, html))
    assert isinstance(said, Mistake)
    assert "Send it as plain text" in said.problem
    assert said.usage is None


def test_the_answer_says_what_each_of_the_two_texts_says() -> None:
    said = meant(message("!rtc kick 4", f"please kick {pill()}"))
    assert isinstance(said, Mistake)
    assert 'says "!rtc kick 4", and its formatted text "please kick mallory"' in said.problem


@pytest.mark.parametrize(
    "name",
    [
        "@admin:x build/ssh for 30d because",
        "@admin:x",
        "!rtc",
        "!rtc grant @mallory:x build/ssh for 30d because",
        "!rtc resume",
        "build/ssh",
        "server:x",
        "room:!r:x",
        "a !b",
    ],
)
@pytest.mark.parametrize("places", ["!rtc grant {} build/ssh for 2h", "{}: no, please", "!rtc {} resume", "{}"])
def test_a_hostile_display_name_shifts_nothing(name: str, places: str) -> None:
    body, html = places.format(name), places.format(pill(MALLORY, name))
    for mentions in ({}, {"m.mentions": {"user_ids": [MALLORY]}}):
        gives_nothing(message(body, html, **mentions))
    # A client that completes names and says only whom it mentions.
    gives_nothing(message(body, **{"m.mentions": {"user_ids": [MALLORY]}}))


@pytest.mark.parametrize("name", ["for 30d because", "17", "once", "everybody *", "grant", "Bob the builder"])
def test_a_display_name_is_one_word_whatever_it_says(name: str) -> None:
    said = meant(message(f"!rtc grant {name} build/ssh for 2h", f"!rtc grant {pill('@bob:x', name)} build/ssh for 2h"))
    assert said == TO_BOB
    taken = meant(message(f"!rtc revoke {name}", f"!rtc revoke {pill('@bob:x', name)}"))
    assert taken == FROM_BOB


@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=40))
@example("<b>")
@example(" ")
@example("@bob:x")
@example("a@rtc_build:x/ssh")
def test_no_display_name_gives_to_anybody_else_or_anything_else(name: str) -> None:
    shown = " ".join(name.split())
    body = f"!rtc grant {shown} build/ssh for 2h"
    html = f"!rtc grant {pill('@bob:x', name)} build/ssh for 2h"
    said = meant(message(body, html, **{"m.mentions": {"user_ids": ["@bob:x"]}}))
    assert said is None or isinstance(said, Mistake) or said == TO_BOB


def test_a_mention_that_has_no_place_gives_nothing_and_takes_all_the_same() -> None:
    mentions = {"m.mentions": {"user_ids": [MALLORY]}}
    said = meant(message("!rtc grant @bob:x build/ssh for 2h", **mentions))
    assert isinstance(said, Mistake)
    assert f"mentions {MALLORY}" in said.problem
    assert meant(message("!rtc revoke @bob:x", **mentions)) == FROM_BOB


@pytest.mark.parametrize("mentions", [7, {"user_ids": 7}, {"user_ids": [7]}, {"user_ids": [BOT] * (MAX_MENTIONS + 1)}])
def test_mentions_that_cannot_be_read_give_nothing(mentions: object) -> None:
    said = meant(message("!rtc allow 12", **{"m.mentions": mentions}))
    assert isinstance(said, Mistake)
    assert "cannot read whom" in said.problem


def test_more_mentions_than_the_limit_are_refused_and_as_many_are_read() -> None:
    for count, refused in ((MAX_MENTIONS, False), (MAX_MENTIONS + 1, True)):
        names = " ".join(["bob"] * count)
        html = " ".join([pill("@bob:x", "bob")] * count)
        said = meant(message(f"!rtc revoke 1 because {names}", f"!rtc revoke 1 because {html}"))
        assert isinstance(said, Mistake) is refused


# Characters

ODD = [
    "\0", "\t", "\x1b", "\x7f", "\x85", "\xa0", "\xad", "\u034f", "\u061c", "\u115f", "\u1680", "\u180e", "\u2002",
    "\u2009", "\u200b", "\u200c", "\u200d", "\u200e", "\u200f", "\u202a", "\u202e", "\u202f", "\u205f", "\u2060",
    "\u2066", "\u2069", "\u2800", "\u3000", "\u3164", "\ufe0f", "\ufeff", "\uffa0", "\ufff9", "\U000e0001",
    "\U000e0041", "\U000e0100", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("char", ODD)
def test_a_character_that_nobody_sees_gives_nothing_and_is_named(char: str) -> None:
    for body in (
        f"!rtc grant{char} @bob:x build/ssh for 2h",
        f"!rtc grant{char}@bob:x build/ssh for 2h",
        f"!rtc grant {char}@bob:x build/ssh for 2h",
        f"!rtc grant @bob:x build/ssh for 2h because ab{char}c",
    ):
        gives_nothing(message(body))
        typed = read_message(message(body), direct=False)
        assert typed is not None
        said = typed.doubt or typed.doubt_to_give
        assert said is not None
        assert "one line" in said or f"Character {body.index(char) + 1} of your message is U+{ord(char):04X}" in said


def test_a_character_that_nobody_sees_is_no_obstacle_to_taking() -> None:
    assert meant(message("!rtc revoke\xa0@bob:x")) == FROM_BOB


@pytest.mark.parametrize("char", [char for char in ODD if not char.isspace()])
def test_a_character_that_nobody_sees_does_not_keep_a_command_from_being_heard(char: str) -> None:
    """It comes along with something that is copied; without an answer nobody would know that nothing was done."""
    for body in (f"{char}!rtc revoke @bob:x", f"!rtc{char} revoke @bob:x", f"{char} {char}!rtc revoke @bob:x"):
        assert meant(message(body)) == FROM_BOB
        gives_nothing(message(body.replace("revoke @bob:x", "grant @bob:x build/ssh for 2h")))
        assert isinstance(meant(message(body.replace("revoke @bob:x", "allow 12"))), Mistake)


GIVING = [example for form in COMMANDS if form.effect.gives for example in (*form.examples, form.verb)]


@given(st.sampled_from(GIVING), st.integers(0, 60), st.characters(blacklist_categories=["Lu", "Ll", "Nd", "Po"]))
def test_no_command_that_gives_has_a_character_that_cannot_be_seen(text: str, at: int, char: str) -> None:
    body = f"!rtc {text[:at]}{char}{text[at:]}"
    said = meant(message(body))
    if said is not None and not isinstance(said, Mistake):
        assert all(each.isprintable() for each in body.strip())


# Anything

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["msgtype", "body", "format", "formatted_body", "m.relates_to", "m.mentions", "m.new_content", "filename"]


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=10), JSON, max_size=8), st.booleans())
def test_any_content_is_read_without_an_error(content: dict[str, Any], direct: bool) -> None:
    read_message({"msgtype": "m.text", "body": "!rtc x", "format": HTML, **content}, direct=direct)


@given(
    st.text(st.characters(blacklist_categories=()), max_size=300),
    st.text(alphabet='<>/a="mx-reply&;!#@:.?[]- bdl', max_size=300),
    st.booleans(),
    st.booleans(),
)
def test_any_text_is_read_without_an_error(body: str, formatted: str, is_reply: bool, direct: bool) -> None:
    relation = {"m.relates_to": REPLY} if is_reply else {}
    typed = read_message(message(f"!rtc {body}", pill("@a:b") + formatted, **relation), direct=direct)
    assert typed is None or 0 < len(typed.words) <= MAX_WORDS
