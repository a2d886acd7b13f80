"""What is left of root's rights in one thread, and what is not."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mxrtc_bridge.engine.capabilities import DAC_READ_SEARCH, be_no_more_than_owner, keep_effective
from tests.other_user import OTHER_UID, in_child, needs_root, public_directory

pytestmark = needs_root


def can_read(path: Path, first: Callable[[], object] = lambda: None) -> bool:
    """Whether a thread of its own can, that does something before."""
    found: list[bool] = []

    def look() -> None:
        first()
        try:
            found.append(bool(path.read_bytes()))
        except PermissionError:
            found.append(False)

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    return found[0]


def test_one_thread_puts_down_what_the_others_keep() -> None:
    with public_directory() as folder:
        secret = folder / "secret"
        secret.write_text("for root")
        secret.chmod(0o600)

        def act() -> None:
            os.seteuid(OTHER_UID)
            assert not can_read(secret)
            assert keep_effective(DAC_READ_SEARCH)
            assert can_read(secret)
            assert not can_read(secret, be_no_more_than_owner)
            assert can_read(secret), "the others keep it"
            with pytest.raises(PermissionError):
                secret.write_text("changed")
            be_no_more_than_owner()
            assert not can_read(secret)

        in_child(act)


def test_root_that_acts_for_itself_and_who_never_was_root_keep_what_they_have() -> None:
    with public_directory() as folder:
        secret = folder / "secret"
        secret.write_text("for root")
        secret.chmod(0o600)
        assert can_read(secret, be_no_more_than_owner)

        def act() -> None:
            os.setresuid(OTHER_UID, OTHER_UID, OTHER_UID)
            be_no_more_than_owner()
            assert not keep_effective(DAC_READ_SEARCH), "it has none"
            assert not can_read(secret)

        in_child(act)
