"""Commands of mxrtc-bridge, run in the process of the test."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mxrtc_bridge.cli.bridge.main import invoke

Run = Callable[..., tuple[int, str, str]]
"""Given its words; returns exit code, output and messages."""


def run_in_process(capsys: pytest.CaptureFixture[str]) -> Run:
    def invoked(*arguments: object) -> tuple[int, str, str]:
        code = invoke([str(each) for each in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return invoked
