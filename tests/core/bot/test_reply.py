"""What the bridge says: nothing of anybody's text becomes markup, and every page is bounded."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.bot.reply import (
    MAX_PAGES,
    MORE,
    PAGE_CHARS,
    Code,
    Line,
    MatrixLink,
    Reply,
    ReplyPart,
    Shape,
    Strong,
    answer,
    code,
    item,
    pages,
    say,
    text,
)
from tests.long import size

HOSTILE = st.one_of(
    st.text(st.characters(blacklist_categories=()), max_size=40),
    st.sampled_from(
        [
            "<script>alert(1)</script>",
            '"><img src=x onerror=alert(1)>',
            "</code></pre></ul><h1>",
            "&lt;b&gt;",
            "@room",
            "\u202eevil\u202c",
            "\x1b[31m",
            "a\nb\r\n<p>",
            "javascript:alert(1)",
            "\ud800",
            "`code`",
            "\\u202e",
        ]
    ),
)
PART = st.one_of(HOSTILE, st.builds(Code, HOSTILE), st.builds(Strong, HOSTILE), st.builds(MatrixLink, HOSTILE, HOSTILE))
LINE = st.builds(Line, st.lists(PART, max_size=4).map(tuple), st.sampled_from(Shape))


class Tags(HTMLParser):
    """Reads HTML back: its elements, their attributes, whether they are balanced, and the text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.seen: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.open: list[str] = []
        self.said = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, attrs))
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def read_back(html: str) -> Tags:
    tags = Tags()
    tags.feed(html)
    tags.close()
    assert tags.open == []
    return tags


@given(st.lists(LINE, max_size=8))
def test_no_text_becomes_markup(lines: list[Line]) -> None:
    for page in pages(Reply(tuple(lines))):
        for tag, attributes in read_back(page.html).seen:
            assert tag in {"p", "ul", "li", "pre", "code", "strong", "a"}
            if tag == "a":
                ((name, href),) = attributes
                assert name == "href"
                assert re.fullmatch(r"https://matrix\.to/#/[A-Za-z0-9@:!$#._~%-]*", href or "")
            else:
                assert attributes == []


@given(st.lists(LINE, max_size=8))
def test_both_forms_say_the_same_and_nothing_unprintable(lines: list[Line]) -> None:
    for page in pages(Reply(tuple(lines))):
        page.plain.encode()
        assert all(line.isprintable() for line in page.plain.split("\n"))
        plain = re.sub(r"[`\s-]", "", page.plain)
        assert re.sub(r"[`\s-]", "", read_back(page.html).said) == plain


@given(st.lists(st.builds(Line, st.tuples(st.text(min_size=1, max_size=300))), min_size=1, max_size=size(120, 40)))
def test_pages_are_bounded_and_keep_the_order(lines: list[Line]) -> None:
    said = pages(Reply(tuple(lines)))
    assert 1 <= len(said) <= MAX_PAGES
    whole = pages(Reply(tuple(lines)), max_pages=10_000)
    assert all(len(page.plain) <= PAGE_CHARS for page in whole)
    assert "\n".join(page.plain for page in whole) == pages(Reply(tuple(lines)), page_chars=10**9)[0].plain
    assert said[-1].plain.endswith(MORE) == (len(whole) > MAX_PAGES)


def test_a_line_that_is_longer_than_a_page_has_one_of_its_own() -> None:
    said = pages(answer(text("a"), text(*["x" * 400] * 12), text("b")))
    assert [len(page.plain) for page in said] == [1, 4800, 1]


def test_nothing_to_say_is_no_page() -> None:
    assert pages(answer()) == ()


def test_shapes() -> None:
    said = pages(answer(text("You may use ", Strong("two"), ":"), item(Code("a/b")), item("c"), code("mxrtc ls")))
    assert said == (
        ReplyPart(
            "You may use two:\n- `a/b`\n- c\nmxrtc ls",
            "<p>You may use <strong>two</strong>:</p><ul><li><code>a/b</code></li><li>c</li></ul>"
            "<pre><code>mxrtc ls\n</code></pre>",
        ),
    )


def test_a_user_is_a_link() -> None:
    (page,) = pages(say(MatrixLink("@rtc_build:example.org", "build")))
    assert page == ReplyPart("build", '<p><a href="https://matrix.to/#/@rtc_build:example.org">build</a></p>')


def test_the_largest_page_fits_into_an_event() -> None:
    (page,) = pages(say(*[Code("\U0001f600<" * 200)] * 3), max_pages=1)
    assert len(page.plain.encode()) + len(page.html.encode()) < 60_000
