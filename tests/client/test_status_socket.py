"""Running commands tell about themselves."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.client.status_socket import running_commands, serve_status


async def test_running_command_is_found_and_gone_after_its_end(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    async with serve_status(state, lambda: {"pid": os.getpid(), "peer": "build"}):
        assert await running_commands(state) == [{"pid": os.getpid(), "peer": "build"}]
    assert await running_commands(state) == []
    assert list(state.run_folder().iterdir()) == []


async def test_socket_of_a_dead_process_is_removed(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)
    dead = state.run_folder() / "1.sock"
    server = await asyncio.start_unix_server(lambda _r, _w: None, dead)
    server.close()
    await server.wait_closed()
    if not dead.exists():
        import socket

        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(dead))
    assert await running_commands(state) == []
    assert not dead.exists()


async def test_socket_that_answers_nonsense_is_left_out(tmp_path: Path) -> None:
    state = StateFolder(tmp_path)

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"[1, 2")
        writer.close()

    server = await asyncio.start_unix_server(answer, state.run_folder() / "2.sock")
    async with server:
        assert await running_commands(state) == []


async def test_folder_that_cannot_hold_a_socket_is_said_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for folder in (tmp_path / ("long" * 30), Path("/proc/none")):
        caplog.clear()
        async with serve_status(StateFolder(folder), dict):
            assert "mxrtc status will not show this command" in caplog.text
