"""``get -o NAME``: for a file its name, for anything else a directory."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from mxrtc_bridge.client.files.named_output import NamedOutput, may_name_a_file
from mxrtc_bridge.core.files.events import Held
from mxrtc_bridge.core.files.messages import EntryKind, FileEntry, FileError
from mxrtc_bridge.sinks.files.user_paths import UserDestination
from tests.sinks.files.receive.senders import directory_of, files_in, sha256


def output_at(path: Path, asked: str, *, force: bool = False) -> NamedOutput:
    return NamedOutput(path, "peer", asked, lambda place, wanted: UserDestination(place, force=force, asked=wanted))


async def fetch(output: NamedOutput, path: str, data: bytes) -> str:
    begun = await output.begin(FileEntry(path, EntryKind.FILE, len(data), 0, f"v{sha256(data)[:8]}"))
    if isinstance(begun, Held):
        return begun.name
    await begun.write(data)
    return (await begun.publish(sha256(data))).name


@pytest.mark.parametrize(
    ("output", "asked", "expected"),
    [
        ("b.pdf", "a.pdf", True),
        ("b.pdf", "docs/a.pdf", True),
        ("there", "a.pdf", False),
        ("b/", "a.pdf", False),
        ("b.pdf/", "a.pdf", False),
        ("new", "a.pdf", True),
        ("new/", "a.pdf", False),
        ("new/b.pdf", "a", True),
        ("there.d", "a.pdf", False),
        ("b.pdf", "", False),
        ("b.pdf", "*.pdf", False),
        ("b.pdf", "a[1].pdf", False),
        (".", "a.pdf", False),
    ],
)
def test_when_the_name_may_be_that_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, asked: str, expected: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there.d").mkdir()
    assert may_name_a_file(output, asked) is expected


async def test_one_file_gets_the_name(tmp_path: Path) -> None:
    output = output_at(tmp_path / "b.pdf", "docs/a.pdf")
    assert await fetch(output, "a.pdf", b"content") == "b.pdf"
    assert await fetch(output, "a.pdf", b"content") == "b.pdf"
    await output.close()
    assert files_in(tmp_path) == {"b.pdf": b"content"}
    assert [path.name for path in tmp_path.iterdir()] == ["b.pdf"]


@pytest.mark.parametrize(
    ("force", "found"), [(False, {"b.pdf": b"old", "b (2).pdf": b"new"}), (True, {"b.pdf": b"new"})]
)
async def test_a_file_that_is_there_is_replaced_only_if_that_is_said(
    tmp_path: Path, force: bool, found: dict[str, bytes]
) -> None:
    (tmp_path / "b.pdf").write_bytes(b"old")
    output = output_at(tmp_path / "b.pdf", "a.pdf", force=force)
    await fetch(output, "a.pdf", b"new")
    await output.close()
    assert files_in(tmp_path) == found


async def test_a_hidden_name_that_was_typed_is_given(tmp_path: Path) -> None:
    output = output_at(tmp_path / ".env", "env")
    assert await fetch(output, "env", b"x") == ".env"
    await output.close()


async def test_a_directory_gets_into_a_directory_of_that_name(tmp_path: Path) -> None:
    output = output_at(tmp_path / "papers", "docs")
    first, *_ = await asyncio.gather(output.begin(directory_of("docs")), fetch(output, "docs/a.pdf", b"x"))
    assert isinstance(first, Held)
    await output.close()
    assert files_in(tmp_path) == {"papers/docs/a.pdf": b"x"}


async def test_a_place_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    output = output_at(tmp_path / "file" / "b.pdf", "a.pdf")
    with pytest.raises(FileError, match="cannot be used"):
        await fetch(output, "a.pdf", b"x")
    await output.close()
