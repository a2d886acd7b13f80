"""Paths: what comes from outside stays one part of them."""

from __future__ import annotations

from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from mxrtc_bridge.matrix.api.path import Path


def test_a_path_is_written_as_it_is_read() -> None:
    assert str(Path.versions) == "_matrix/client/versions"
    path = Path.v3.rooms["!room:example.org"].send["m.room.message"]["txn/1?#"]
    assert str(path) == "_matrix/client/v3/rooms/%21room%3Aexample.org/send/m.room.message/txn%2F1%3F%23"


def test_a_path_goes_on_from_another_without_changing_it() -> None:
    room = Path.v3.rooms["!a:b"]
    assert (str(room.join), str(room.leave)) == (f"{room}/join", f"{room}/leave")


@pytest.mark.parametrize("part", [".", "..", "..."])
def test_no_part_leads_up(part: str) -> None:
    url = URL("http://host/").with_path(str(Path.v3.rooms[part].join), encoded=True)
    assert url.raw_path == f"/_matrix/client/v3/rooms/{'%2E' * len(part)}/join"


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_one_part(text: str) -> None:
    *before, part, after = str(Path.v3.rooms[text].join).split("/")
    assert (before, unquote(part), after) == (["_matrix", "client", "v3", "rooms"], text, "join")
