"""Completion for bash, zsh and fish: the scripts, and what each shell is told.

A script hands over the line up to the cursor and shows what it gets. All else is decided here, once for the three: what
was typed (quotes and backslashes included), what fits, and for bash how it must be written, which replaces only what
stands behind the last colon or other mark of ``COMP_WORDBREAKS``, and inserts what it gets as it is. So names that come
from elsewhere are quoted here for bash; the other two quote by themselves.

The answer is lines: first of which kind it is (``words``, ``file`` or ``dir``; of the last two the shell knows more),
then a value in each, for zsh and fish with a tab and a few words about it. What ends in ``/`` or ``:`` goes on, so no
space is put behind it.

click finds which argument or option is meant, and asks its ``shell_complete``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import click
from click.shell_completion import CompletionItem, ShellComplete, add_completion_class

from mxrtc_bridge.core.text.display import display

MAX_SHOWN = 500
"""Values that a shell is given; nobody reads more."""
MAX_VALUE_CHARS = 2000
_GOES_ON = ("/", ":")
_SPACE = frozenset(" \t\n")
_PLAIN = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789@%+=:,./_-")
"""What no shell takes for anything but itself."""

_BASH = """\
# Completion of %(prog_name)s for bash. Made by the program; do not edit.
%(complete_func)s() {
    local answer kind
    COMPREPLY=()
    answer=$(_COMPLETE_LINE="${COMP_LINE:0:COMP_POINT}" _COMPLETE_BREAKS="$COMP_WORDBREAKS" \\
        %(complete_var)s=bash_complete "$1" 2>/dev/null) || return
    { IFS= read -r kind; mapfile -t COMPREPLY; } <<<"$answer"
    case $kind in
        file) compopt -o default ;;
        dir) compopt -o dirnames ;;
        *) compopt -o nospace ;;
    esac
}
complete -o nosort -F %(complete_func)s %(prog_name)s 2>/dev/null || complete -F %(complete_func)s %(prog_name)s
"""

_ZSH = """\
#compdef %(prog_name)s
# Completion of %(prog_name)s for zsh. Made by the program; do not edit.
%(complete_func)s() {
    local line value words_about
    local -a answer values shown going_on shown_going_on
    answer=("${(@f)$(_COMPLETE_LINE="${(j: :)words[1,CURRENT-1]} ${QIPREFIX}${PREFIX}" \\
        %(complete_var)s=zsh_complete ${~words[1]} 2>/dev/null)}")
    [[ $PREFIX == -*=* ]] && compset -P '*='
    case $answer[1] in
        file) _files ; return ;;
        dir) _files -/ ; return ;;
    esac
    for line in "${(@)answer[2,-1]}"; do
        value=${line%%%%$'\\t'*} words_about=${line#*$'\\t'}
        [[ $words_about == $line ]] && words_about= || words_about="  -- $words_about"
        if [[ $value == *[/:] ]]; then
            going_on+=("$value") shown_going_on+=("$value$words_about")
        else
            values+=("$value") shown+=("$value$words_about")
        fi
    done
    (( $#values )) && compadd -V values -l -d shown -a values
    (( $#going_on )) && compadd -V going_on -S '' -l -d shown_going_on -a going_on
    (( $#values + $#going_on ))
}
if [[ $funcstack[1] == %(complete_func)s ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH = """\
# Completion of %(prog_name)s for fish. Made by the program; do not edit.
function %(complete_func)s
    set -l program (commandline -opc)[1]
    set -l line (commandline -cp | string collect)
    set -l answer (env _COMPLETE_LINE=$line %(complete_var)s=fish_complete $program 2>/dev/null)
    switch "$answer[1]"
        case file
            __fish_complete_path (commandline -ct)
        case dir
            __fish_complete_directories (commandline -ct)
        case words
            printf '%%s\\n' $answer[2..-1]
    end
end
complete --no-files --keep-order --command %(prog_name)s --arguments '(%(complete_func)s)'
"""


@dataclass(frozen=True, slots=True)
class TypedLine:
    """A line up to the cursor, as the shell will understand it."""

    words: tuple[str, ...]
    """Those that are complete."""
    last: str
    """The one at the cursor; empty behind a space."""
    kept: int = 0
    """How many of its characters stand in front of what bash replaces."""
    quote: str = ""
    """The quotation mark that is still open there."""


def read_line(line: str, breaks: str = "") -> TypedLine:
    """Read a line as a shell does; total: what does not end yet is read as far as it goes.

    Args:
        line: up to the cursor.
        breaks: the marks inside of a word behind which bash begins a new one.
    """
    words: list[str] = []
    word: list[str] | None = None
    quote, kept, before_quote = "", 0, 0
    chars = iter(line)
    for char in chars:
        if char in _SPACE and not quote:
            if word is not None:
                words.append("".join(word))
            word, kept = None, 0
            continue
        if word is None:
            word = []
        if char == quote:
            quote, kept = "", before_quote
        elif char == "\\" and quote != "'":
            following = next(chars, "")
            word.append(following if not quote or following in '"\\$`' else char + following)
        elif char in "'\"" and not quote:
            quote, before_quote, kept = char, kept, len(word)
        else:
            word.append(char)
            if char in breaks and not quote:
                # These two belong to what stands behind them (readline's rl_special_prefixes).
                kept = len(word) - (char in "@$")
    return TypedLine(tuple(words), "".join(word or ()), kept, quote)


def written_for_bash(value: str, typed: TypedLine) -> str | None:
    """What bash has to insert so that the word becomes ``value``; None where it cannot be written there."""
    rest = value[typed.kept :]
    match typed.quote:
        case "'":
            return None if "'" in rest else rest
        case '"':
            # A mark of the history is not to be hidden in these.
            return None if "!" in rest else "".join(f"\\{char}" if char in '"\\$`' else char for char in rest)
    quoted = "".join(char if char in _PLAIN or not char.isascii() else f"\\{char}" for char in rest)
    quoted = f"\\{rest[0]}{quoted[1:]}" if not typed.kept and rest[:1] == "~" else quoted
    return quoted if value.endswith(_GOES_ON) else f"{quoted} "


class _Shell(ShellComplete):
    """Answers the script of one shell."""

    @property
    def func_name(self) -> str:
        return f"_{self.prog_name.replace('-', '_')}_completion"

    def _typed(self) -> TypedLine:
        return read_line(os.environ.get("_COMPLETE_LINE", ""), os.environ.get("_COMPLETE_BREAKS", ""))

    def get_completion_args(self) -> tuple[list[str], str]:
        typed = self._typed()
        return list(typed.words[1:]), typed.last

    def complete(self) -> str:
        """Return the lines of the answer."""
        args, last = self.get_completion_args()
        found = [item for item in self.get_completions(args, last) if _is_shown(item, last)][:MAX_SHOWN]
        kind = next((item.type for item in found if item.type != "plain"), "words")
        if kind != "words":
            return kind
        return "\n".join([kind, *filter(None, map(self.format_completion, found))])

    def format_completion(self, item: CompletionItem[str]) -> str:
        words = " ".join((item.help or "").split())
        return f"{item.value}\t{words}" if words else item.value


def _is_shown(item: CompletionItem[str], last: str) -> bool:
    if item.type != "plain":
        return True
    if item.value == last and last.endswith(_GOES_ON):
        return False  # what it goes on with is wanted
    # A line for each, so no line ends; and nothing that somebody cannot see is put on their command line.
    return len(item.value) <= MAX_VALUE_CHARS and display(item.value, MAX_VALUE_CHARS) == item.value


class Bash(_Shell):
    """bash from 4.0 on."""

    name: ClassVar[str] = "bash"
    source_template: ClassVar[str] = _BASH

    def format_completion(self, item: CompletionItem[str]) -> str:
        typed = self._typed()
        # Of `--option=value` click completes the value, and here everything behind the equals sign is a word.
        if typed.last.startswith("-") and "=" in typed.last and "=" in os.environ.get("_COMPLETE_BREAKS", ""):
            typed = TypedLine(typed.words, "", 0, typed.quote)
        return written_for_bash(item.value, typed) or ""


class Zsh(_Shell):
    """zsh from 5.0 on."""

    name: ClassVar[str] = "zsh"
    source_template: ClassVar[str] = _ZSH

    @property
    def func_name(self) -> str:
        # That of the file: what zsh has loaded by that name defines itself anew when it is called first.
        return f"_{self.prog_name}"


class Fish(_Shell):
    """fish from 3.0 on."""

    name: ClassVar[str] = "fish"
    source_template: ClassVar[str] = _FISH

    def format_completion(self, item: CompletionItem[str]) -> str:
        option, equals, _ = self._typed().last.partition("=")
        return (option + equals if equals and option.startswith("-") else "") + super().format_completion(item)


SHELLS = {each.name: each for each in (Bash, Zsh, Fish)}
for _shell in SHELLS.values():
    add_completion_class(_shell)


def script(program: str, group: click.Command, shell: str) -> str:
    """Return the script that makes a shell complete the commands of a program."""
    return SHELLS[shell](group, {}, program, f"_{program.upper().replace('-', '_')}_COMPLETE").source()


def completion_command() -> click.Command:
    """Make the command that prints the scripts; each program has its own."""

    @click.command("completion")
    @click.argument("shell", type=click.Choice(sorted(SHELLS)))
    @click.pass_context
    def completion(context: click.Context, shell: str) -> None:
        """Print what makes a shell complete the commands.

        For bash, in ~/.bashrc: eval "$(PROGRAM completion bash)". For zsh the same with zsh, in ~/.zshrc behind
        compinit. For fish: PROGRAM completion fish > ~/.config/fish/completions/PROGRAM.fish
        """
        root = context.find_root()
        assert root.info_name is not None
        click.echo(script(root.info_name, root.command, shell), nl=False)

    return completion


def items(values: Sequence[tuple[str, str]], begun: str) -> list[CompletionItem[str]]:
    """Those of the values that begin with what was typed.

    Args:
        values: each with a few words about it, or none.
        begun: what was typed.
    """
    return [CompletionItem(value, help=about or None) for value, about in values if value.startswith(begun)]


def files(_context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Have the shell complete names of files."""
    return [CompletionItem(begun, type="file")]
