"""Makes docs/reference/mxrtc.md and docs/reference/mxrtc-bridge.md from the commands' own help.

``make docs`` writes the pages; a test compares them with what is checked in. The options are taken from click's values
and not from its layout, which differs between its releases.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
from click.testing import CliRunner

from mxrtc_bridge.cli.bridge import main as bridge_main
from mxrtc_bridge.cli.bridge.output_options import BEHIND_THE_COMMAND as BEHIND_OF_BRIDGE
from mxrtc_bridge.cli.client import main as client_main
from mxrtc_bridge.cli.client.output_options import BEHIND_THE_COMMAND

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
USER_PAGE = REFERENCE / "mxrtc.md"
ADMIN_PAGE = REFERENCE / "mxrtc-bridge.md"

_NOTE = "<!-- Made from the program's help by `make docs`; do not edit. -->"

_USER_HEAD = """\
Data goes to standard output, everything else to standard error.
What `--json` prints is described in [JSON output](json-output.md).
The options of `mxrtc` itself stand before the command: `mxrtc --timeout 60 ls`.

Without `--state` and `MXRTC_STATE` the state folder is `$XDG_STATE_HOME/mxrtc`, or `~/.local/state/mxrtc`.
It holds the access token and is readable by its owner only.
The first account is in the folder itself, others are below `accounts` in it.
Without `--interface` all network interfaces but loopback are used.
The homeserver is reached by the [proxy](../how-to/proxies.md) that `HTTPS_PROXY`, `ALL_PROXY` or `MXRTC_PROXY` names.
Peers are reached by UDP or by [a TURN server](../how-to/turn.md).

"""

_ADMIN_HEAD = """\
Data goes to standard output, everything else to standard error.
Only `run` and `check` use the network, and all commands but `run` end by themselves.
The homeserver is reached by the [proxy](../how-to/proxies.md) that `homeserver.proxy` or the environment names.
"""


_SHELLS = """\
Shells complete commands, options, names of files{more} where the package is installed below `/usr` or `/usr/local`.
Elsewhere, as by pipx or in a virtual environment, this line in `~/.bashrc` does it.
For zsh it is the same with `zsh`, in `~/.zshrc` behind `compinit`:

```sh
eval "$({program} completion bash)"
```

For fish: `{program} completion fish > ~/.config/fish/completions/{program}.fish`.

This page is a manual page as well, which the package brings.
`man {program}` shows it where `PATH` leads to `{program}`.
"""


_MORE = {
    "mxrtc": ", and the peers, services and remote files that earlier commands have listed",
    "mxrtc-bridge": ", services of the configuration, and sessions, requests and grants of the running bridge",
}
"""What else is completed."""

SAID_ONCE = (*BEHIND_THE_COMMAND, *BEHIND_OF_BRIDGE)
"""What every command takes: it is said with the options that stand before the command."""
PROGRAMS: dict[str, click.Group] = {"mxrtc": client_main.main, "mxrtc-bridge": bridge_main.cli}


@cache
def printed_help(program: str, *words: str) -> str:
    """Return a help text as the program prints it, or an empty one if there is no such command."""
    result = CliRunner().invoke(PROGRAMS[program], [*words, "--help"], prog_name=program)
    return result.output if result.exit_code == 0 else ""


def user_page() -> str:
    """Return docs/reference/mxrtc.md."""
    return _page("mxrtc", client_main.main, _USER_HEAD)


def admin_page() -> str:
    """Return docs/reference/mxrtc-bridge.md."""
    return _page("mxrtc-bridge", bridge_main.cli, _ADMIN_HEAD)


def leaves(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield each command with its words; a group of commands is its commands."""
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, f"{before}{name} ")
        else:
            yield before + name, command


def _page(name: str, group: click.Group, head: str) -> str:
    top = click.Context(group, info_name=name, auto_envvar_prefix=group.context_settings.get("auto_envvar_prefix"))
    parts = [f"# `{name}`", _NOTE, _sentences(group.help), head.strip(), f"```text\n{name} [OPTIONS] COMMAND ...\n```"]
    parts.append(_SHELLS.format(program=name, more=_MORE[name]).strip())
    parts += [_options(top, group), "What the exit codes mean: [exit codes](exit-codes.md)."]
    for command_name, command in sorted(leaves(group)):
        # Without the prefix: variables for the options of single commands work, but nobody is told to rely on them.
        context = click.Context(command, info_name=command_name)
        usage = " ".join([name, command_name, *command.collect_usage_pieces(context)])
        parts += [f"## `{name} {command_name}`", _sentences(command.help), f"```text\n{usage}\n```"]
        parts.append(_options(context, command))
    return "\n\n".join(part for part in parts if part) + "\n"


def _sentences(text: str | None) -> str:
    """Put each sentence of a help text on a line of its own, and commands into blocks."""
    paragraphs = [" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n")]
    return "\n\n".join(
        f"```sh\n{paragraph}\n```" if paragraph.startswith("ssh ") else re.sub(r"(?<=[.:]) (?=[A-Z])", "\n", paragraph)
        for paragraph in paragraphs
    )


def _options(context: click.Context, command: click.Command) -> str:
    rows = [row for parameter in command.params if (row := _row(context, parameter))]
    if not rows:
        return ""
    return "\n".join(["| option | | default | environment |", "|---|---|---|---|", *rows])


def _row(context: click.Context, option: click.Parameter) -> str | None:
    # What every command takes is said once, with those that stand before it.
    if not isinstance(option, click.Option) or option.is_eager or option in SAID_ONCE:
        return None
    names = ", ".join(f"`{name}`" for name in (*option.opts, *option.secondary_opts))
    if not option.is_flag and not option.count:
        names += f" `{value_of(option)}`"
    text = (option.help or "").replace("|", "\\|")
    default = f"`{option.default}`" if option.show_default and option.default is not None else ""
    if isinstance(option.show_default, str):
        default = re.sub(r"(\S*config\.yaml)", r"`\1`", option.show_default)
    if option.secondary_opts and option.show_default:
        default = f"`{option.opts[0] if option.default else option.secondary_opts[0]}`"
    if option.required:
        default = "required"
    return f"| {names} | {text} | {default} | {_variable(context, option)} |"


def value_of(option: click.Option) -> str:
    """Return what stands for the value of an option."""
    if option.metavar is not None:
        return option.metavar
    kind = option.type
    if isinstance(kind, click.types._NumberRangeBase):
        return f"{kind.min:g} to {kind.max:g}"
    return {"path": "PATH", "directory": "FOLDER", "filename": "FILE", "float": "NUMBER", "integer": "NUMBER"}.get(
        kind.name, kind.name.upper()
    )


def _variable(context: click.Context, option: click.Option) -> str:
    names = [option.envvar] if isinstance(option.envvar, str) else list(option.envvar or ())
    if not names and context.auto_envvar_prefix is not None and option.name is not None:
        names = [f"{context.auto_envvar_prefix}_{option.name.upper()}"]
    return ", ".join(f"`{name}`" for name in names)
