"""Pages in headless Chromium with the real matrix-js-sdk: bundled, served and run for a test."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from playwright.async_api import async_playwright

from tests.e2e.world import DOMAIN, PASSWORD, World

PAGE = b"<!doctype html><meta charset=utf-8><script src=/page.js></script>"
FOLDER = Path(__file__).parent.parent / "browser"
WASM = FOLDER / "node_modules/@matrix-org/matrix-sdk-crypto-wasm/pkg/matrix_sdk_crypto_wasm_bg.wasm"
CHROMIUM_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


async def bundle(script: Path, target: Path) -> None:
    """Bundle the page with esbuild, as a web developer would."""
    process = await asyncio.create_subprocess_exec(
        FOLDER / "node_modules/.bin/esbuild",
        script,
        "--bundle",
        "--format=iife",
        "--define:global=globalThis",
        # The Rust crypto looks for its WebAssembly beside its script, which a bundle of this format has no address of.
        "--define:import.meta.url=MODULE_URL",
        "--banner:js=const MODULE_URL = document.currentScript.src;",
        f"--outfile={target}",
        "--log-level=error",
        env={**os.environ},
    )
    assert await process.wait() == 0


async def serve_page(folder: Path) -> tuple[asyncio.Server, int]:
    """Serve the files of the page from loopback, which browsers take for a secure origin."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        while (await reader.readline()).strip():
            pass
        if b".wasm" in line:
            body, kind = WASM.read_bytes(), b"application/wasm"
        elif b"/page.js" in line:
            body, kind = (folder / "page.js").read_bytes(), b"text/javascript"
        else:
            body, kind = PAGE, b"text/html"
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        writer.write(head % (kind, len(body)) + body)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def run_page(
    script: str,
    function: str,
    world: World,
    folder: Path,
    *,
    exposed: Mapping[str, Callable[..., Awaitable[Any]]] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Open a page with ``script`` and return what its ``function`` gives, called by Alice for the peer ``build``.

    The functions of ``exposed`` are there as functions of ``window``.
    """
    await bundle(FOLDER / script, folder / "page.js")
    server, port = await serve_page(folder)
    chromium = shutil.which("chromium") or "/usr/bin/chromium"
    async with server, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, headless=True, args=CHROMIUM_FLAGS)
        try:
            page = await browser.new_page()
            for name, function_here in (exposed or {}).items():
                await page.expose_function(name, function_here)
            await page.goto(f"http://127.0.0.1:{port}/")
            result: dict[str, Any] = await page.evaluate(
                f"options => window.{function}(options)",
                {
                    "homeserver": world.homeserver.url,
                    "user": "alice",
                    "password": PASSWORD,
                    "peer": f"@rtc_build:{DOMAIN}",
                    **options,
                },
            )
        finally:
            await browser.close()
    return result
