"""What to type for a service."""

from __future__ import annotations

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
