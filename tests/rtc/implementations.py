"""Other WebRTC implementations as processes that speak the lines of JSON which ``interop/peer.mjs`` describes.

Those for Node.js, and the programs that ``.ci/interop`` builds, get them on standard input. Browsers need no driver:
each opens one page, which takes its commands from a WebSocket, and makes a new peer connection for each WebSocket.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from aiohttp import WSMsgType, web

from tests.long import LONG
from tests.rtc.peers import RecordingPeer, answer_of, offer_of

FOLDER = Path(__file__).parent / "interop"
ROOT = Path(__file__).parents[2]

NODE_PROGRAMS = {
    "libdatachannel": ["peer.mjs"],
    "libwebrtc": ["w3c.mjs", "@roamhq/wrtc"],
    "werift": ["w3c.mjs", "werift"],
}
BUILT = ("pion", "str0m") if LONG else ("pion",)
"""To build str0m takes minutes."""
BROWSERS = ("chromium", "firefox")
ALL = (*NODE_PROGRAMS, *BUILT, *BROWSERS)

CHROMIUM_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    # Plain addresses instead of names that only multicast resolves, loopback among them.
    "--disable-features=WebRtcHideLocalIpsWithMdns", "--allow-loopback-in-peer-connection",
    "--remote-debugging-port=0",  # without it, some versions end after loading the page
]  # fmt: skip
FIREFOX_PREFERENCES = {
    "media.peerconnection.ice.loopback": True,
    "media.peerconnection.ice.obfuscate_host_addresses": False,
    # Between two tests of the browser nobody answers the page, for as long as those of the others take.
    "network.websocket.delay-failed-reconnects": False,
    "network.websocket.timeout.open": 3600,
    # No page but ours, and nothing fetched.
    "app.normandy.enabled": False,
    "app.update.enabled": False,
    "browser.safebrowsing.malware.enabled": False,
    "browser.safebrowsing.phishing.enabled": False,
    "browser.safebrowsing.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "dom.push.connection.enabled": False,
    "extensions.getAddons.cache.enabled": False,
    "extensions.update.enabled": False,
    "media.gmp-manager.updateEnabled": False,
    "network.captive-portal-service.enabled": False,
    "network.connectivity-service.enabled": False,
    "services.settings.server": "http://127.0.0.1:9/",
    "toolkit.telemetry.server": "",
}


class OtherPeer(ABC):
    """A peer connection of another implementation."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[dict[str, Any]] = []

    @abstractmethod
    def tell(self, **command: object) -> None:
        """Give a command."""

    @abstractmethod
    async def _hear(self) -> dict[str, Any] | None:
        """Return what it says next, or None after its end."""

    async def until(self, kind: str, *, count: int = 1, timeout_s: float = 15.0, **fields: object) -> dict[str, Any]:
        """Wait for something to have been said ``count`` times since the start, and return the last."""
        wanted = {"kind": kind, **fields}.items()
        matching = [item for item in self.seen if wanted <= item.items()]
        try:
            async with asyncio.timeout(timeout_s):
                while len(matching) < count:
                    item = await self._hear()
                    assert item is not None, f"{self.name} ended; it said {self.seen}"
                    assert item["kind"] != "failed", item
                    self.seen.append(item)
                    if wanted <= item.items():
                        matching.append(item)
        except TimeoutError:
            raise AssertionError(f"{self.name} did not say {dict(wanted)}, but {self.seen[-20:]}") from None
        return matching[count - 1]

    async def call(self, ours: RecordingPeer, label: str = "first") -> None:
        """Offer a connection with one channel to our peer."""
        self.tell(kind="open", label=label, protocol="raw.mxrtc")
        offer = await self.until("description")
        answer = await ours.peer.create_answer(offer_of(offer["sdp"]))
        self.tell(kind="description", sdp=answer, type="answer")
        await ours.peer.connect()

    async def be_called(self, ours: RecordingPeer) -> None:
        """Answer the offer of our peer."""
        offer = await ours.peer.create_offer()
        self.tell(kind="description", sdp=offer, type="offer")
        answer = await self.until("description")
        ours.peer.apply_answer(answer_of(answer["sdp"]))
        await ours.peer.connect()


class ProcessPeer(OtherPeer):
    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        super().__init__(name)
        self._process = process

    def tell(self, **command: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")

    async def _hear(self) -> dict[str, Any] | None:
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        return json.loads(line) if line else None


@asynccontextmanager
async def process_peer(name: str, *arguments: str) -> AsyncIterator[ProcessPeer]:
    process = await asyncio.create_subprocess_exec(
        *command_of(name), *arguments, cwd=FOLDER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 20
    )
    other = ProcessPeer(name, process)
    try:
        yield other
        if process.returncode is None:
            other.tell(kind="quit")
    finally:
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        assert process.stdin is not None
        process.stdin.close()


class PagePeer(OtherPeer):
    """One in the page of a browser."""

    def __init__(self, name: str, socket: web.WebSocketResponse) -> None:
        super().__init__(name)
        self._socket = socket
        self._sending: list[asyncio.Task[None]] = []

    def tell(self, **command: object) -> None:
        # Tasks of one loop start in order, and a WebSocket queues whole messages.
        self._sending.append(asyncio.get_running_loop().create_task(self._socket.send_json(command)))

    async def _hear(self) -> dict[str, Any] | None:
        message = await self._socket.receive()
        return json.loads(message.data) if message.type is WSMsgType.TEXT else None

    async def close(self) -> None:
        await asyncio.gather(*self._sending, return_exceptions=True)
        await self._socket.close()


class Browser:
    """A browser for all tests of a session, and the listening socket that its page connects to."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=16)
        self._process: subprocess.Popen[bytes] | None = None

    @contextmanager
    def running(self) -> Iterator[Browser]:
        try:
            yield self
        finally:
            if self._process is not None:
                os.killpg(self._process.pid, signal.SIGKILL)  # the browser and its helpers, which it started
                self._process.wait()
            self._listener.close()

    def _start(self) -> None:
        if self._process is not None:
            return
        page = f"http://127.0.0.1:{self._listener.getsockname()[1]}/"
        command = self._chromium() if self.name == "chromium" else self._firefox()
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [*command, page],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "HOME": str(self._folder)},
            )

    def _chromium(self) -> list[str]:
        return [
            _program("chromium", "chromium-browser", "google-chrome"),
            *CHROMIUM_FLAGS,
            f"--user-data-dir={self._folder}",
        ]

    def _firefox(self) -> list[str]:
        lines = [f"user_pref({json.dumps(name)}, {json.dumps(value)});" for name, value in FIREFOX_PREFERENCES.items()]
        (self._folder / "user.js").write_text("\n".join(lines))
        return [_program("firefox-esr", "firefox"), "--headless", "--no-remote", "--profile", str(self._folder)]

    @asynccontextmanager
    async def peer(self) -> AsyncIterator[PagePeer]:
        """Wait for the page to connect, and close its peer connection at the end."""
        connected: asyncio.Future[web.WebSocketResponse] = asyncio.get_running_loop().create_future()
        done = asyncio.Event()

        async def lines(request: web.Request) -> web.WebSocketResponse:
            response = web.WebSocketResponse(max_msg_size=1 << 20)
            await response.prepare(request)
            # What waited for too long, while other tests ran, the page has given up.
            first = await response.receive()
            if first.type is WSMsgType.TEXT and not connected.done():
                connected.set_result(response)
                await done.wait()
            return response

        async def page(request: web.Request) -> web.FileResponse:
            return web.FileResponse(FOLDER / "page.html")

        async def script(request: web.Request) -> web.FileResponse:
            return web.FileResponse(FOLDER / "w3c.js")

        app = web.Application()
        app.add_routes([web.get("/", page), web.get("/w3c.js", script), web.get("/lines", lines)])
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.SockSite(runner, self._listener.dup()).start()
            self._start()
            try:
                async with asyncio.timeout(60):
                    other = PagePeer(self.name, await connected)
            except TimeoutError:
                raise AssertionError(
                    f"{self.name} did not open the page: {(self._folder / 'log').read_text()}"
                ) from None
            try:
                yield other
            finally:
                await other.close()
        finally:
            done.set()
            await runner.cleanup()


@cache
def command_of(name: str) -> tuple[str, ...]:
    """Return the command of an implementation that is no browser; what has to be built is built anew if it changed."""
    if name in NODE_PROGRAMS:
        return (_program("node", "nodejs"), *NODE_PROGRAMS[name])
    done = subprocess.run([ROOT / ".ci/interop", name], capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, f"{name} could not be built: {done.stderr}"
    return (str(ROOT / "build/interop" / name),)


def _program(*names: str) -> str:
    found = next(filter(None, map(shutil.which, names)), None)
    assert found is not None, f"{names[0]} is not installed; .ci/packages test installs it"
    return found
