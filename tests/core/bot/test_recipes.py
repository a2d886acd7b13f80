"""What to type for a service."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mxrtc_bridge.core.access.targets import AppendTarget, Direction, FilesTarget, ReadTarget, Target, TcpTarget
from mxrtc_bridge.core.bot.recipes import first_line, kind_of, lines_for, lines_for_kind
from mxrtc_bridge.core.ids import ServiceName
from mxrtc_bridge.core.stream.messages import ServiceKind

TARGETS: dict[ServiceKind, Target | FilesTarget] = {
    ServiceKind.STREAM: TcpTarget("10.0.0.1", 5433),
    ServiceKind.INBOX: FilesTarget("/srv/in", Direction.RECEIVE),
    ServiceKind.SHARE: FilesTarget("/srv/out", Direction.SEND),
    ServiceKind.FILES: FilesTarget("/srv/both", Direction.BOTH),
}


@pytest.mark.parametrize(
    ("name", "kind", "first", "lines"),
    [
        (
            "ssh",
            ServiceKind.STREAM,
            "mxrtc connect build/ssh",
            ("ssh -o ProxyCommand='mxrtc -q nc build/ssh' USER@build", "mxrtc connect build/ssh -L 2222"),
        ),
        (
            "db",
            ServiceKind.STREAM,
            "mxrtc connect build/db",
            ("mxrtc connect build/db -L 5432", "mxrtc nc build/db"),
        ),
        ("x", ServiceKind.STREAM, "mxrtc connect build/x", ("mxrtc connect build/x -L 9000", "mxrtc nc build/x")),
        ("in", ServiceKind.INBOX, "mxrtc send FILE build/in", ("mxrtc send FILE build/in",)),
        ("out", ServiceKind.SHARE, "mxrtc ls build/out", ("mxrtc ls build/out", "mxrtc get 'build/out:NAME'")),
        (
            "all",
            ServiceKind.FILES,
            "mxrtc ls build/all",
            ("mxrtc send FILE build/all", "mxrtc ls build/all", "mxrtc get 'build/all:NAME'"),
        ),
    ],
)
def test_chat_and_terminal_say_the_same_lines(name: str, kind: ServiceKind, first: str, lines: tuple[str, ...]) -> None:
    service = ServiceName(name)
    assert kind_of(TARGETS[kind]) is kind
    assert lines_for("build", service, TARGETS[kind]) == lines_for_kind("build", service, kind) == lines
    assert first_line("build", service, kind) == first


def test_what_goes_one_way_only_is_piped_that_way() -> None:
    assert lines_for("build", ServiceName("log"), AppendTarget("/var/log/x")) == ("mxrtc nc build/log < FILE",)
    assert lines_for("build", ServiceName("motd"), ReadTarget("/etc/motd")) == ("mxrtc nc build/motd > FILE",)


PROGRAM = """#!{python}
import json, os, subprocess, sys
with open({said!r}, "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
through = [each.partition("=")[2] for each in sys.argv if each.startswith("ProxyCommand=")]
for command in through:  # as ssh does it: its own signs first, then a shell
    command = command.replace("%%", "\\0").replace("%h", "host").replace("\\0", "%")
    subprocess.run(["sh", "-c", command], check=True)
"""


@pytest.mark.programs
@pytest.mark.parametrize("kind", ServiceKind)
def test_a_name_that_a_shell_would_act_on_has_nothing_run_when_lines_are_pasted(
    tmp_path: Path, kind: ServiceKind
) -> None:
    name = "@rtc_$(touch${IFS}pwned)`touch${IFS}pwned`;touch${IFS}pwned;'touch'|\"&>pwned%h!*:evil.org"
    full, service, said = f"{name}/ssh", ServiceName("ssh"), tmp_path / "said"
    for program in ("mxrtc", "ssh"):
        (tmp_path / program).write_text(PROGRAM.format(python=sys.executable, said=str(said)))
        (tmp_path / program).chmod(0o700)
    (tmp_path / "FILE").write_text("")
    lines = [first_line(name, service, kind), *lines_for(name, service, TARGETS[kind])]
    if kind is ServiceKind.STREAM:
        lines += [*lines_for(name, service, AppendTarget("/x")), *lines_for(name, service, ReadTarget("/x"))]
    for line in lines:
        subprocess.run(["sh", "-c", line], cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True)
    assert not (tmp_path / "pwned").exists()
    called = [json.loads(line) for line in said.read_text().splitlines()]
    whole = {full, f"{full}:NAME", f"USER@{name}"}
    assert [len(whole.intersection(words)) for words in called] == [1] * len(called), called
    assert len([words for words in called if words[0] == "ssh"]) == len(called) - len(lines)
