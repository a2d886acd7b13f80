"""Makes docs/man/mxrtc.1 and docs/man/mxrtc-bridge.1 from the commands' own help, as the pages of the reference."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from tests.cli.command_pages import PROGRAMS, SAID_ONCE, leaves, value_of

MAN = Path(__file__).parents[2] / "docs" / "man"
_NAMES = {
    "mxrtc": "reach TCP services and files behind a Matrix peer",
    "mxrtc-bridge": "let Matrix users reach local TCP services and files",
}
_ESCAPES = str.maketrans({"\\": "\\e", "-": "\\-", "'": "\\(aq", "`": "\\(ga", "~": "\\(ti", "^": "\\(ha"})


def page_of(program: str) -> Path:
    """Return where the page of a program is."""
    return MAN / f"{program}.1"


def man_page(program: str) -> str:
    """Return the page of a program, in the macros that every ``man`` reads (man(7))."""
    group = PROGRAMS[program]
    lines = [
        '.\\" Made from the program\\(aqs help by `make docs`; do not edit.',
        f'.TH {program.upper()} 1 "" mxrtc\\-bridge "User Commands"',
        # Names are not divided at the end of a line: whoever copies one would copy a hyphen that it does not have.
        ".nh",
        ".SH NAME",
        f"{escaped(program)} \\- {escaped(_NAMES[program])}",
        ".SH SYNOPSIS",
        f".B {escaped(program)}",
        "[OPTIONS] COMMAND ...",
        ".SH DESCRIPTION",
        *_paragraphs(group.help),
        *([".SH OPTIONS", *_options(group)] if _options(group) else []),
        ".SH COMMANDS",
    ]
    for name, command in sorted(leaves(group)):
        usage = " ".join([program, name, *command.collect_usage_pieces(click.Context(command, info_name=name))])
        lines += [f'.SS "{escaped(usage)}"', *_paragraphs(command.help), *_options(command)]
    if group.epilog:
        lines += [".SH EXIT STATUS", *_paragraphs(group.epilog)]
    (other,) = PROGRAMS.keys() - {program}
    lines += [".SH SEE ALSO", f".BR {escaped(other)} (1)"]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that roff shows as it is, and that can be pasted into a terminal."""
    shown = text.translate(_ESCAPES)
    return f"\\&{shown}" if shown.startswith(".") else shown


def _paragraphs(text: str | None) -> Iterator[str]:
    for number, paragraph in enumerate((text or "").strip().split("\n\n")):
        if number:
            yield ".PP"
        yield escaped(" ".join(paragraph.split()))


def _options(command: click.Command) -> list[str]:
    lines: list[str] = []
    for option in command.params:
        if not isinstance(option, click.Option) or option.is_eager or option in SAID_ONCE:
            continue
        names = ", ".join(f"\\fB{escaped(name)}\\fR" for name in (*option.opts, *option.secondary_opts))
        if not option.is_flag and not option.count:
            kind = option.type
            value = "|".join(map(str, kind.choices)) if isinstance(kind, click.Choice) else value_of(option)
            names += f" \\fI{escaped(value)}\\fR"
        lines += [".TP", names, escaped(_help(option))]
    return lines


def _help(option: click.Option) -> str:
    default: object = option.default if option.show_default is True else option.show_default or None
    if option.secondary_opts and default is not None:
        default = option.opts[0] if default else option.secondary_opts[0]
    words = [option.help or "", "" if default is None else f"[default: {default}]"]
    return " ".join(filter(None, [*words, "[required]" if option.required else ""]))
