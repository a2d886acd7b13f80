"""Names in a process whose locale is not UTF-8: they are the same as anywhere else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mxrtc_bridge.sinks.files.disk_names import from_disk, on_disk, typed

ODD = ["caf\u00e9", "\u06af\u0632\u0627\u0631\u0634\u200c\u0647\u0627.pdf", "\U0001f469\u200d\U0001f467", "plain.txt"]

PROGRAM = """
import asyncio, hashlib, os, sys
assert sys.getfilesystemencoding() not in ("utf-8", "utf8"), sys.getfilesystemencoding()
from pathlib import Path
from mxrtc_bridge.core.files.messages import EntryKind, FileEntry
from mxrtc_bridge.sinks.files.user_paths import Sources, UserDestination

async def main(folder):
    names = [os.fsencode(name).decode() for name in sorted(os.listdir(folder))]
    sources = Sources([str(folder), *(str(folder / name) for name in os.listdir(folder))])
    await sources.open()
    found = [entry for entry in await sources.walk().next(1000)]
    assert sorted(entry.path for entry in found) == sorted(["mine", *names, *("mine/" + name for name in names)]), found
    for entry in found:
        if entry.kind is EntryKind.FILE:
            await (await sources.open_file(entry)).close()
    sources.close()
    got = UserDestination(Path(sys.argv[1]) / "got")
    await got.open()
    size = int(sys.argv[2])
    for name in names:
        for version, data in ("1", bytes(size)), ("2", bytes([1]) * size):
            begun = await got.begin("peer", FileEntry(f"{name}/{name}", EntryKind.FILE, size, 0, version))
            await begun.write(data)
            await begun.publish(hashlib.sha256(data).hexdigest())
    again = await got.begin("peer", FileEntry(f"{name}/{name}", EntryKind.FILE, size, 0, "1"))
    assert again.before
    await got.close(tidy=True)

asyncio.run(main(Path(sys.argv[1]) / "mine"))
"""


@pytest.mark.posix  # where Windows looks, what shows nothing is made visible
@pytest.mark.programs
@pytest.mark.parametrize("size", [10, 100_000])
def test_a_process_in_another_locale_gives_and_takes_the_same_names(tmp_path: Path, size: int) -> None:
    (tmp_path / "mine").mkdir()
    for name in ODD:
        (tmp_path / "mine" / name).write_bytes(b"x")
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-c", PROGRAM, str(tmp_path), str(size)]
    done = subprocess.run(command, env={**os.environ, **locale}, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert sorted(os.listdir(os.fsencode(tmp_path / "got"))) == sorted(name.encode() for name in ODD)
    for name in ODD:
        assert len(os.listdir(os.fsencode(tmp_path / "got" / name))) == 2
        assert (tmp_path / "got" / name / name).read_bytes() == bytes(size)


def test_names_are_utf_8_and_other_bytes_are_kept() -> None:
    for name in (*ODD, "not\udcfftext"):
        assert from_disk(os.fsdecode(on_disk(name))) == name
    with pytest.raises(UnicodeEncodeError):
        on_disk("half a pair \ud800")
    assert typed("caf\u00e9") == "caf\u00e9"
    assert typed("not\udcfftext") == "not\udcfftext"
