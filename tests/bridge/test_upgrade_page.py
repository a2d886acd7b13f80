"""The page about upgrading, on what commit d3f536d has left: there and back, by its commands."""

from __future__ import annotations

import re
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from mxrtc_bridge.cli.bridge.main import invoke
from mxrtc_bridge.config.loader import load_config
from mxrtc_bridge.web.control import ask
from tests.bridge.homeserver import FakeHomeserver
from tests.bridge.test_earlier_version import ALICE, CONFIG, LEFT, rows, running

PAGE = Path(__file__).parents[2] / "docs/how-to/upgrade.md"
KEPT = ("config.yaml", "audit.jsonl", "encryption.key")


def commands(heading: str, number: int, lib: Path) -> str:
    """A block of the page, for another place than ``/var/lib``, and without a service manager."""
    part = PAGE.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    block = re.findall(r"```sh\n(.*?)```", part, re.DOTALL)[number]
    return re.sub("(?m)^systemctl .*\n", "", block).replace("/var/lib", str(lib))


def carry_out(text: str) -> None:
    assert text.strip(), "there is something to do"
    done = subprocess.run(["sh", "-euc", text], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def dump(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as database:
        return list(database.iterdump())


async def test_what_the_page_says_leads_from_an_earlier_version_to_this_one_and_back(tmp_path: Path) -> None:
    lib, folder = tmp_path, tmp_path / "mxrtc"
    folder.mkdir(mode=0o700)
    for name in KEPT:
        (folder / name).touch(mode=0o600)
        (folder / name).write_text((LEFT / name).read_text().replace("FOLDER", str(folder)))
    with closing(sqlite3.connect(folder / "bridge.db")) as database:
        database.executescript((LEFT / "bridge.sql").read_text())
    (folder / "bridge.db").chmod(0o600)
    before = {name: (folder / name).read_bytes() for name in KEPT}
    left, modes = dump(folder / "bridge.db"), {path.name: path.stat().st_mode for path in folder.iterdir()}

    carry_out(commands("Upgrade", 0, lib))
    token = CONFIG["appservice"]["as_token"]
    async with FakeHomeserver(folder, as_token=token) as homeserver, running(folder, homeserver):
        granted = await rows(folder, "grants")
        assert granted
        status, answer = await ask(str(folder / "control.sock"), ("revoke", ALICE))
        assert status == 200, answer
        assert await rows(folder, "grants") != granted
    written = (folder / "config.yaml").read_bytes()
    assert invoke(["config", "upgrade", "-c", str(folder / "config.yaml")]) == 0
    assert load_config(folder / "config.yaml").version == 2
    assert dump(folder / "bridge.db") != left
    assert (folder / "audit.jsonl").read_bytes() != before["audit.jsonl"]

    # The configuration alone.
    carry_out(commands("Go back", 2, lib))
    assert (folder / "config.yaml").read_bytes() == written

    # And all of it.
    later = (folder / "audit.jsonl").read_bytes()
    carry_out(commands("Go back", 0, lib))
    assert {name: (folder / name).read_bytes() for name in KEPT} == before
    assert dump(folder / "bridge.db") == left
    found = {path.name: path.stat().st_mode for path in folder.iterdir()}
    assert {name: found[name] for name in modes} == modes
    assert (lib / "mxrtc-after/audit.jsonl").read_bytes() == later
