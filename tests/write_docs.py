"""Writes the files that are made by the program: ``python -m tests.write_docs``, or ``make docs``.

Each has a test beside the code that makes it, which compares and never writes.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from mxrtc_bridge.cli.bridge.systemd_setup import packaged
from mxrtc_bridge.config.example import example_config
from tests import install_commands, metrics_page, pictures
from tests.bridge.bot import commands_page
from tests.cli import command_pages, completions, man_pages
from tests.config.reference_page import reference_page
from tests.config.registration_example import example_registration
from tests.core.call import states_page
from tests.nets import page as networks_page

ROOT = Path(__file__).parent.parent

GENERATED = {
    ROOT / "config.example.yaml": example_config,
    ROOT / "registration.yaml.example": example_registration,
    ROOT / "docs/reference/configuration.md": reference_page,
    **{
        ROOT / "docs/how-to" / name: partial(packaged, name)
        for name in ("mxrtc-bridge.service", "mxrtc-bridge.sysusers.conf")
    },
    states_page.PAGE: states_page.render,
    command_pages.USER_PAGE: command_pages.user_page,
    command_pages.ADMIN_PAGE: command_pages.admin_page,
    **{man_pages.page_of(program): partial(man_pages.man_page, program) for program in man_pages.PROGRAMS},
    **completions.FILES,
    commands_page.PAGE: commands_page.render,
    metrics_page.PAGE: metrics_page.render,
    networks_page.PAGE: networks_page.render,
    # Written by hand, but for one address.
    **{page: partial(install_commands.rendered, page) for page in install_commands.pages_with_commands()},
    pictures.CALL: pictures.call,
}


def main() -> None:
    """Write each file that is not what the program makes now, and name it."""
    for path, make in GENERATED.items():
        text = make()
        if not path.exists() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            print(f"written: {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
