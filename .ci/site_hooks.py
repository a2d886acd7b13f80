"""Makes a site of pages that are written for the forge: adds those outside of docs/, and leads links to them there.

A link to a file that is no page (a test, an example) becomes plain text: the site does not have it.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
OUTSIDE = {
    "README.md": "project/what-it-is.md",
    "CHANGELOG.md": "project/changelog.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
}
"""The pages at the root of the tree, by their place on the site."""
LINK = re.compile(r"\[([^\]]*)\]\(([^)\s:#]+)(#[^)\s]*)?\)")


def slug(title: str, _separator: str) -> str:
    """Return the fragment that the forge gives a heading."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Give headings the fragments that links to them have."""
    config.mdx_configs["toc"] = {**config.mdx_configs.get("toc", {}), "slugify": slug}
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are outside of docs/."""
    from mkdocs.structure.files import File  # noqa: PLC0415 - the tests read this file without mkdocs

    for name, place in OUTSIDE.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, *, page: Page, files: Files, **_: object) -> str:
    """Rewrite links that were written for the places of the files in the tree."""
    place = page.file.src_uri
    source = next((name for name, put in OUTSIDE.items() if put == place), f"docs/{place}")

    def rewritten(match: re.Match[str]) -> str:
        text, target, fragment = match[1], match[2], match[3] or ""
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        goal = OUTSIDE.get(path, path.removeprefix("docs/"))
        if path not in OUTSIDE and (not path.startswith("docs/") or files.get_file_from_path(goal) is None):
            # Whatever is missing from the tree as well is left for mkdocs to complain about.
            return text if (ROOT / path).exists() else match[0]
        return f"[{text}]({posixpath.relpath(goal, posixpath.dirname(place))}{fragment})"

    return LINK.sub(rewritten, markdown)
