"""A QR code in a terminal, for an address that is to be carried over to a telephone."""

from __future__ import annotations

QUIET = 2
"""Empty modules around it; readers get along with half of the four that ISO/IEC 18004 wants."""
_BLOCKS = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}


def qr_code(text: str) -> list[str]:
    """The lines that show ``text``, two rows of modules each, made for a dark background; readers take both."""
    import segno  # noqa: PLC0415 - it is needed once in the life of a device

    rows = [[False] * QUIET + [bool(module) for module in row] + [False] * QUIET for row in segno.make_qr(text).matrix]
    empty = [False] * len(rows[0])
    rows = [empty] * QUIET + rows + [empty] * QUIET
    if len(rows) % 2:
        rows.append(empty)
    return ["".join(_BLOCKS[above, below] for above, below in zip(*pair, strict=True)) for pair in _pairs(rows)]


def _pairs(rows: list[list[bool]]) -> list[tuple[list[bool], list[bool]]]:
    return list(zip(rows[::2], rows[1::2], strict=True))
