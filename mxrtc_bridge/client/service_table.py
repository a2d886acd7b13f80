"""The lines of ``mxrtc ls``: columns by tabs for programs, in line for people."""

from __future__ import annotations

from collections.abc import Sequence

GAP = "  "

Row = Sequence[str | None]


def service_lines(rows: Sequence[Row], *, aligned: bool) -> list[str]:
    """Return a line for each row.

    A name that somebody has to type is never cut: a line that is too long for the terminal goes on below.

    Args:
        rows: of equal length; None where there is nothing to say.
        aligned: with spaces, and without columns that are empty everywhere; else with one tab between any two columns.
    """
    filled = [[cell or "" for cell in row] for row in rows]
    if not aligned:
        return ["\t".join(row).rstrip("\t") for row in filled]
    widths = [max(map(len, column)) for column in zip(*filled, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True) if width] for row in filled)
    return [GAP.join(row).rstrip() for row in padded]
