"""A page in Chromium with the real matrix-js-sdk calls a peer and exchanges bytes, from the specification alone."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from playwright.async_api import async_playwright

from tests.e2e.world import DOMAIN, PASSWORD, World, digest, echo

pytestmark = pytest.mark.real

FOLDER = Path(__file__).parent.parent / "browser"
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        await world.serve("raw-echo", echo, raw=True)
        await world.serve("digest", digest)
        world.grant("alice", "build/raw-echo", "build/digest")
        # Browsers never use loopback addresses of their own, so the bridge offers all the others.
        world.settings["ice"] = {"interfaces": [], "remote": {"loopback": True, "private": True}}
        await world.homeserver.register_user("alice", PASSWORD)
        await world.start_bridge()
        yield world


async def bundle(target: Path) -> None:
    """Bundle the page with esbuild, as a web developer would."""
    process = await asyncio.create_subprocess_exec(
        FOLDER / "node_modules/.bin/esbuild",
        FOLDER / "page.js",
        "--bundle",
        "--format=iife",
        "--define:global=globalThis",
        f"--outfile={target}",
        "--log-level=error",
        env={**os.environ},
    )
    assert await process.wait() == 0


async def serve_page(folder: Path) -> tuple[asyncio.Server, int]:
    """Serve the two files of the page from loopback, which browsers take for a secure origin."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        while (await reader.readline()).strip():
            pass
        script = b"/page.js" in line
        body = (folder / "page.js").read_bytes() if script else b"<!doctype html><script src=/page.js></script>"
        kind = b"text/javascript" if script else b"text/html"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        writer.write(head % (kind, len(body)) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def test_page_with_the_js_sdk_exchanges_bytes_over_raw_and_tcp_channels(world: World, tmp_path: Path) -> None:
    await bundle(tmp_path / "page.js")
    server, port = await serve_page(tmp_path)
    chromium = shutil.which("chromium") or "/usr/bin/chromium"
    async with server, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, headless=True, args=CHROMIUM_FLAGS)
        try:
            page = await browser.new_page()
            await page.goto(f"http://127.0.0.1:{port}/")
            result = await page.evaluate(
                "options => window.exchange(options)",
                {
                    "homeserver": world.homeserver.url,
                    "user": "alice",
                    "password": PASSWORD,
                    "peer": f"@rtc_build:{DOMAIN}",
                },
            )
        finally:
            await browser.close()
    assert "failed" not in result, result
    assert result["rawEqual"], "a raw channel carries bytes unchanged"
    assert result["digestEqual"], "a tcp channel half-closes and still reads the answer"
    assert '"denied"' in result["refusal"] or '"unknown"' in result["refusal"]
    assert result["rawForbiddenClosed"], "raw is only for services that allow it"
    assert result["state"] == "connected", result["log"]
