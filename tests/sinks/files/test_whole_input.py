"""Reading to an end that may never come; tests/system/test_without_posix.py runs this file also as Windows has it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mxrtc_bridge.sinks.files.whole_input import COPY_BYTES, GivenUpError, WholeInput


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


def test_all_of_it_is_copied_to_its_end(tmp_path: Path) -> None:
    data = os.urandom(2 * COPY_BYTES + 17)
    (tmp_path / "from").write_bytes(data)
    with (tmp_path / "from").open("rb") as source, (tmp_path / "to").open("wb", buffering=0) as target:
        whole = WholeInput(source.fileno())
        whole.copy_to(target.fileno())
        whole.close()
        whole.close()
    assert (tmp_path / "to").read_bytes() == data


def test_it_is_given_up_while_nothing_comes(tmp_path: Path, pipe: tuple[int, int]) -> None:
    whole, failures = WholeInput(pipe[0]), list[BaseException]()
    os.write(pipe[1], b"begun")
    with (tmp_path / "to").open("wb", buffering=0) as target:

        def copy() -> None:
            try:
                whole.copy_to(target.fileno())
            except GivenUpError as error:
                failures.append(error)

        copying = threading.Thread(target=copy)
        copying.start()
        whole.give_up()
        copying.join(30)
    assert [type(failure) for failure in failures] == [GivenUpError]
    whole.close()
    os.close(pipe[1])


@pytest.mark.posix
def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    whole = WholeInput(folder)
    with pytest.raises(IsADirectoryError):
        whole.copy_to(folder)
    whole.close()
    os.close(folder)
