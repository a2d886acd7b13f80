"""A QR code that a reader can read."""

from __future__ import annotations

from mxrtc_bridge.client.login.qr_code import QUIET, qr_code

PIXELS = {"█": (1, 1), "▀": (1, 0), "▄": (0, 1), " ": (0, 0)}


def test_code_has_its_three_corners_and_a_light_border_and_fits_a_terminal() -> None:
    lines = qr_code("https://auth.example.org/link?code=HSKRV9")
    width = len(lines[0])
    assert {len(line) for line in lines} == {width}
    assert (width <= 60, len(lines) <= 24) == (True, True)
    rows: list[list[int]] = []
    for line in lines:
        pairs = [PIXELS[char] for char in line]
        rows += [[above for above, _ in pairs], [below for _, below in pairs]]
    size = width - 2 * QUIET
    assert all(all(row) for row in rows[:QUIET])
    assert all(all(row[:QUIET]) and all(row[-QUIET:]) for row in rows)
    finder = [[0] * 7, [0, *[1] * 5, 0], *[[0, 1, 0, 0, 0, 1, 0]] * 3, [0, *[1] * 5, 0], [0] * 7]
    for top, left in ((0, 0), (0, size - 7), (size - 7, 0)):
        square = [row[QUIET + left : QUIET + left + 7] for row in rows[QUIET + top : QUIET + top + 7]]
        assert square == finder, (top, left)


def test_other_text_is_another_code() -> None:
    assert qr_code("https://a.test/1") != qr_code("https://a.test/2")
