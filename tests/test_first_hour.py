"""A Debian that has nothing, an admin and a user who type what the pages say: it works, in few commands."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxrtc_bridge.core.text.installing import requirement
from tests.first_hour import ADMINS_PAGE, USERS_PAGE, commands_of, first_hour
from tests.long import LONG


def test_commands_are_those_of_the_sections_that_are_named(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "```sh\nno section\n```\n## 1. One\n\n```sh\na b \\\n   c   # why\n\nd\n```\ntext\n```yaml\ne: f\n```\n"
        "## 2. Two\n```sh\ng\n```\n## Later\n```sh\nh\n```\n"
    )
    assert commands_of(page, "1") == ["a b c", "d"]
    assert commands_of(page, "1", "2") == ["a b c", "d", "g"]


def test_the_pages_begin_with_a_machine_that_has_nothing() -> None:
    apt, install = commands_of(ADMINS_PAGE, "1")
    assert apt.split()[:2] == ["apt", "install"]
    assert install == f"PIPX_HOME=/opt/mxrtc PIPX_BIN_DIR=/usr/local/bin pipx install '{requirement('bridge')}'"
    assert len(commands_of(ADMINS_PAGE, "1", "2", "3", "4")) == 6, "the page says so"
    assert commands_of(USERS_PAGE, "1")[1:] == [f"pipx install '{requirement()}'"]


if LONG:

    @pytest.mark.real
    @pytest.mark.timeout(3600)
    @pytest.mark.parametrize("suite", ["bookworm", "trixie"])
    async def test_the_first_hour_of_an_admin_and_a_user(suite: str) -> None:
        hour = await first_hour(suite)
        print(*hour.told(), sep="\n")
        assert (len(hour.of("admin")), len(hour.edits), len(hour.of("user"))) == (6, 1, 4)
        ended = [step for step in hour.steps if step.code]
        assert ended == []
