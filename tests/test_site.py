"""The documentation as a web site: every page is in its navigation, and it is built without a warning."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from tests.test_docs import BIN, LINK, ROOT


def nav_of_the_site() -> list[str]:
    """Return the pages that the site's navigation names, in order."""
    return re.findall(r"^ +- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2], re.MULTILINE)


def test_every_page_is_in_the_navigation_of_the_site_and_in_the_index() -> None:
    nav = nav_of_the_site()
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in (ROOT / "docs").rglob("*.md")}
    assert len(nav) == len(set(nav))
    assert {name for name in nav if not name.startswith("project/")} == pages
    index = set(LINK.findall((ROOT / "docs/README.md").read_text()))
    assert pages - index == {"README.md"}


@pytest.mark.programs
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [BIN / "mkdocs", "build", "--quiet", "--strict", "--site-dir", tmp_path / "site"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    built = (tmp_path / "site/reference/glossary/index.html").read_text()
    assert "<table>" in built
    # Pages outside of docs/ are on the site too, and links to them lead there.
    assert (tmp_path / "site/project/contributing/index.html").exists()
    assert (
        'href="../../project/contributing/#recipes"'
        in (tmp_path / "site/explanation/architecture/index.html").read_text()
    )
