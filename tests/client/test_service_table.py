"""The lines of ``mxrtc ls``."""

from __future__ import annotations

from mxrtc_bridge.client.service_table import service_lines

LONG = "@rtc_a_machine_with_a_long_name:matrix.example.org/database"
ROWS = [
    ("build/ssh", "stream", "up", None, "mxrtc connect build/ssh"),
    (LONG, "inbox", None, None, f"mxrtc send FILE {LONG}"),
    ("old/x", None, None, None, None),
]


def test_programs_get_a_tab_between_any_two_columns() -> None:
    assert service_lines(ROWS, aligned=False) == [
        "build/ssh\tstream\tup\t\tmxrtc connect build/ssh",
        f"{LONG}\tinbox\t\t\tmxrtc send FILE {LONG}",
        "old/x",
    ]


def test_people_get_columns_in_line_with_every_name_whole_and_none_that_is_empty() -> None:
    assert service_lines(ROWS, aligned=True) == [
        f"{'build/ssh':59}  stream  up  mxrtc connect build/ssh",
        f"{LONG}  inbox       mxrtc send FILE {LONG}",
        "old/x",
    ]
    assert service_lines([], aligned=True) == []
