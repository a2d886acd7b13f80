"""Where a bridge is can be read from a configuration with any mistake in any other place."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.config.example import InitAnswers, new_config
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.config.outline import named_services, read_outline
from mxrtc_bridge.config.secrets import MAX_FILE_BYTES
from mxrtc_bridge.core.errors import ConfigError

GOOD = new_config(InitAnswers("http://127.0.0.1:8008", "example.org", "127.0.0.1:29350", None, {}, ()))


def written(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.touch(mode=0o600)
    path.write_text(text)
    return path


def test_it_says_what_the_whole_configuration_says(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD + "control: {socket: run/c.sock}\n")
    assert read_outline(path, {}).control_socket == load_config(path, {}).control_socket == tmp_path / "run/c.sock"
    path.write_text(GOOD)
    assert read_outline(path, {}).control_socket == load_config(path, {}).control_socket == tmp_path / "control.sock"
    assert read_outline(path, {}).state == tmp_path / "mxrtc-bridge.db"


PLACES = "database: sqlite:/var/lib/x/b.db\ncontrol:\n  socket: /run/x/c.sock\n"


@pytest.mark.parametrize(
    "more",
    ["# caf\u00e9\n".encode("latin-1"), b"peers: \xff\xfe\x00\n", b"# " + b"x" * MAX_FILE_BYTES + b"\n"],
    ids=["latin-1", "no text", "too long"],
)
def test_bytes_that_no_configuration_may_have_hide_nothing(tmp_path: Path, more: bytes) -> None:
    path = written(tmp_path, "")
    for content in (PLACES.encode() + more, more[:1000] + b"\n" + PLACES.encode() + more):
        path.write_bytes(content)
        outline = read_outline(path, {})
        assert (outline.state, outline.control_socket) == (Path("/var/lib/x/b.db"), Path("/run/x/c.sock"))
        with pytest.raises(ConfigError):
            load_config(path, {})


@pytest.mark.parametrize(
    "text",
    [
        PLACES,
        "peers: [\n" + PLACES,
        PLACES + "peers: [\n",
        "homeserver: {domain: 'x\n" + PLACES,
        "\tversion: 1\n" + PLACES,
        "peers:\n  build: &a *b\n" + PLACES + "grants: ]\n",
        "version: 1\nversion: 2\nnonsense: 1\n" + PLACES,
        "# comment\nhomeserver:\n  domain: example.org\n domain: x\n" + PLACES,
        json.dumps({"database": "sqlite:/var/lib/x/b.db", "control": {"socket": "/run/x/c.sock"}, "peers": 5})[:-1],
    ],
)
def test_a_mistake_elsewhere_hides_nothing(tmp_path: Path, text: str) -> None:
    outline = read_outline(written(tmp_path, text), {})
    assert (outline.state, outline.control_socket) == (Path("/var/lib/x/b.db"), Path("/run/x/c.sock"))


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "[1, 2]", "database: 5\ncontrol: []\n", "database: nonsense\ncontrol: {socket: 7, enabled: soon}\n",
        "control: {socket: ''}", "control: {sokcet: /x}",
    ],
)  # fmt: skip
def test_where_nothing_can_be_read_the_defaults_count(tmp_path: Path, text: str) -> None:
    outline = read_outline(written(tmp_path, text), {})
    assert (outline.state, outline.control_socket) == (tmp_path / "mxrtc-bridge.db", tmp_path / "control.sock")


def test_a_database_server_keeps_nothing_here(tmp_path: Path) -> None:
    path = written(tmp_path, "database: postgres://u:p@host/name\n")
    assert (read_outline(path, {}).state, read_outline(path, {}).control_socket) == (
        tmp_path,
        tmp_path / "control.sock",
    )
    path.write_text("database: sqlite:other.db")
    assert read_outline(path, {"MXRTC_DATABASE": "sqlite:/srv/b.db"}).control_socket == Path("/srv/control.sock")


def test_what_is_switched_off_or_too_long_is_not_there(tmp_path: Path) -> None:
    for text in ("control: {enabled: false}\npeers: [", f"control: {{socket: /{'x' * 120}}}"):
        assert read_outline(written(tmp_path, text), {}).control_socket is None


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        read_outline(tmp_path / "none.yaml", {})


@given(st.text(max_size=200), st.integers(0, len(GOOD)), st.integers(0, 30))
def test_nothing_that_is_written_raises_anything_else(
    tmp_path_factory: pytest.TempPathFactory, text: str, start: int, length: int
) -> None:
    path = written(tmp_path_factory.getbasetemp(), GOOD[:start] + text + GOOD[start + length :])
    with contextlib.suppress(ConfigError):
        read_outline(path, {})


def test_services_are_named_whatever_is_wrong_beside_them(tmp_path: Path) -> None:
    build = "  build:\n    services:\n      ssh: {target: 5}\n      web:\n"
    text = f"peers:\n{build}  odd: 3\n  none:\n    services: []\ngrants: ]\n"
    named = {"build": ("ssh", "web"), "odd": (), "none": ()}
    assert named_services(written(tmp_path, text)) == named
    for other in ("", "peers: 5", "peers:\n", "[1]"):
        assert named_services(written(tmp_path, other)) == {}
