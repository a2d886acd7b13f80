"""Files as targets of streams: opened by the same connector as sockets, with the same kinds of failure."""

from __future__ import annotations

from pathlib import Path

import pytest

from mxrtc_bridge.core.access.targets import AppendTarget, ReadTarget
from mxrtc_bridge.core.errors import TargetError, TargetFailure
from mxrtc_bridge.sinks.connector import TargetConnector
from tests.sinks.conftest import Recorder


async def test_what_is_appended_can_be_read_again(tmp_path: Path) -> None:
    path = str(tmp_path / "log")
    for _ in range(2):
        sink = await TargetConnector().connect(AppendTarget(path))
        recorder = Recorder(sink)
        sink.write(b"line\n")
        await recorder.until(lambda each: each.written == 5)
        sink.write_eof()
        sink.close()
        await recorder.until(lambda each: bool(each.closed))
    recorder = Recorder(await TargetConnector().connect(ReadTarget(path)))
    await recorder.until(lambda each: each.eofs == 1)
    assert recorder.data == b"line\nline\n"


async def test_a_file_that_is_not_there_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="does not exist") as caught:
        await TargetConnector().connect(ReadTarget(str(tmp_path / "nothing")))
    assert caught.value.failure is TargetFailure.UNAVAILABLE
    assert str(tmp_path) not in str(caught.value), "the other side may read this"
