"""``mxrtc-bridge files``: what is listed, in which form, and what is said where there is nothing to list."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mxrtc_bridge.cli.bridge.main import invoke
from mxrtc_bridge.config.yaml_writer import scalar
from tests.config.samples import changed
from tests.sinks.files.receive.senders import ALICE, BOB, directory_of, opened, send, sha256


@pytest.fixture
async def config(tmp_path: Path) -> Path:
    """A configuration with a drop box in which there are two files and a directory, and in which one is missing."""
    async with opened(tmp_path / "inbox") as box:
        await send(box, "plan.txt", b"first")
        await send(box, "plan.txt", b"second!", version="v2", sender=BOB)
        await send(box, "moved", b"away")
        await box.begin(ALICE, directory_of("folder"))
    (tmp_path / "inbox" / "moved").unlink()
    files = {"dir": str(tmp_path / "inbox"), "direction": "receive"}
    data = changed("peers", "build", "services", "inbox", to={"files": files})
    data["peers"]["build"]["services"]["out"] = {"files": {"dir": str(tmp_path), "direction": "send"}}
    path = tmp_path / "config.yaml"
    path.write_text("".join(f"{key}: {scalar(value)}\n" for key, value in data.items()))
    path.chmod(0o600)
    return path


def test_files_are_listed_with_sender_size_and_hash(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["files", "-c", str(config), "build/inbox"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [line[1:] for line in lines] == [
        [ALICE, "5", sha256(b"first"), "plan.txt"],
        [BOB, "7", sha256(b"second!"), "plan (2).txt"],
    ]
    assert all(line[0].endswith("Z") and len(line[0]) == 20 for line in lines)


def test_what_was_moved_away_is_listed_on_demand(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["files", "-c", str(config), "--all", "build/inbox"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[4:] for line in lines] == [["plan.txt"], ["plan (2).txt"], ["moved", "gone"]]


def test_json_has_one_object_a_line(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert invoke(["files", "-c", str(config), "--json", "build/inbox"]) == 0
    objects = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(found["name"], found["offered_as"], found["sender"], found["present"]) for found in objects] == [
        ("plan.txt", "plan.txt", ALICE, True),
        ("plan (2).txt", "plan.txt", BOB, True),
    ]


@pytest.mark.parametrize("service", ["build/ssh", "build/out", "build", "nobody/inbox"])
def test_service_that_receives_nothing_is_named_with_those_that_do(
    config: Path, service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["files", "-c", str(config), service]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"'{service}' receives no files; these do: build/inbox" in captured.err


def test_box_that_was_never_opened_is_said_to_be_none(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for found in sorted((tmp_path / "inbox" / ".mxrtc").rglob("*"), reverse=True):
        found.rmdir() if found.is_dir() else found.unlink()
    assert invoke(["files", "-c", str(config), "build/inbox"]) == 1
    assert "has no ledger of received files" in capsys.readouterr().err
