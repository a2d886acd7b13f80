"""Edits of files are whole, and one at a time; cut off they are in tests/cli/bridge/test_cut_off.py."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from mxrtc_bridge.config import file_edits
from mxrtc_bridge.config.file_edits import changing, replace_text, write_private_pair
from mxrtc_bridge.core.errors import ConfigError


def test_what_somebody_else_has_written_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("theirs\n")
    with pytest.raises(ConfigError, match="was changed meanwhile"):
        replace_text(path, "ours\n", before="of before\n")
    assert path.read_text() == "theirs\n"


def test_of_two_at_the_same_time_one_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("before\n")
    first_writes, second_tried = threading.Event(), threading.Event()
    rename = os.rename

    def slow(*arguments: object, **options: object) -> None:
        first_writes.set()
        assert second_tried.wait(10)
        rename(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(file_edits.os, "rename", slow)
    first = threading.Thread(target=replace_text, args=(path, "first\n"), kwargs={"before": "before\n"})
    first.start()
    assert first_writes.wait(10)
    try:
        with pytest.raises(ConfigError, match="another command is changing"):
            replace_text(path, "second\n", before="before\n")
    finally:
        second_tried.set()
        first.join(10)
    assert path.read_text() == "first\n"


def test_what_killed_commands_have_left_goes_and_nothing_else(tmp_path: Path) -> None:
    kept = {"a.0123456789abcdef.old", "a.new", "b.0123456789abcdef.new", "a.0123.new", "a"}
    for name in (*kept, "a.0123456789abcdef.new"):
        (tmp_path / name).touch()
    with changing(tmp_path, "a"):
        assert set(os.listdir(tmp_path)) == kept


def test_of_a_pair_neither_is_written_where_the_second_one_is_there(tmp_path: Path) -> None:
    paths = tmp_path / "a", tmp_path / "b"
    paths[1].write_text("precious")
    with pytest.raises(ConfigError, match="b exists already; use --force"):
        write_private_pair(paths, ("1", "2"), replace=False)
    assert (os.listdir(tmp_path), paths[1].read_text()) == (["b"], "precious")
    write_private_pair(paths, ("1", "2"), replace=True)
    assert [path.read_text() for path in paths] == ["1", "2"]
