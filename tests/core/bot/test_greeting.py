"""What a peer says first: short, whatever there is, and nothing foreign in it becomes markup."""

from __future__ import annotations

from mxrtc_bridge.core.bot.greeting import FIELD, MAX_LISTED, greeting
from mxrtc_bridge.core.bot.reply import pages
from mxrtc_bridge.core.ids import ServiceName


def test_it_says_who_it_is_what_can_be_used_and_asked_for_and_how_to_begin() -> None:
    lines = {ServiceName("ssh"): "mxrtc connect build/ssh", ServiceName("inbox"): "mxrtc send FILE build/inbox"}
    said = greeting("build", lines, [ServiceName("db"), ServiceName("web")])
    (page,) = pages(said)
    assert page.plain.splitlines() == [
        "I am build: the program `mxrtc` on your computer reaches services through me. I take no voice or video calls.",
        "You may use:",
        "- ssh: `mxrtc connect build/ssh`",
        "- inbox: `mxrtc send FILE build/inbox`",
        "You may ask the admins for db, web: `request build/db`",
        "Write `help` for all that I understand here.",
    ]
    assert "<li>ssh: <code>mxrtc connect build/ssh</code></li>" in page.html
    assert said.fields == {FIELD: {}}


def test_of_very_many_services_some_are_named_and_all_are_counted() -> None:
    names = [ServiceName(f"s{number}") for number in range(MAX_LISTED + 3)]
    (page,) = pages(greeting("build", dict.fromkeys(names, "mxrtc nc x"), names))
    lines = page.plain.splitlines()
    assert sum(line.startswith("- ") for line in lines) == MAX_LISTED
    assert "3 more: write `peers`" in lines
    assert f"{names[MAX_LISTED - 1]} and more: " in page.plain
