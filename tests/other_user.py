"""Another user of the machine: what a test does as somebody who is not us."""

from __future__ import annotations

import os
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

OTHER_UID = 65_533

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as another user")


def in_child(act: Callable[[], object]) -> None:
    """Do something in a child process, which may become somebody else; what it raises fails the test."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            act()
            code = 0
        except BaseException:  # noqa: BLE001 - it ends this child alone
            traceback.print_exc()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0, "the child could not do what the test needs"


def as_other(act: Callable[[], object]) -> None:
    """Do something in a child process that is another user; what it raises fails the test."""

    def become_other() -> None:
        os.setgroups([])
        os.setgid(OTHER_UID)
        os.setuid(OTHER_UID)
        os.umask(0)
        act()

    in_child(become_other)


@contextmanager
def public_directory(*, sticky: bool = False) -> Iterator[Path]:
    """A directory that everybody can write to; those of pytest are closed to others."""
    path = Path(tempfile.mkdtemp(prefix="mxrtc-test-"))
    try:
        path.chmod(0o1777 if sticky else 0o777)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
