"""The steps of the demonstration: what an admin and a user do, with the real commands as child processes.

Nothing here reaches into the bridge or the client: what works here works for whoever types the same commands. The one
thing that differs from a real installation is what :data:`LOOPBACK_ONLY` adds to the configuration.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shlex
import sys
from contextlib import AsyncExitStack
from pathlib import Path

from mxrtc_bridge.demo.fetch import Fetched, fetch
from mxrtc_bridge.demo.processes import PortReservation
from mxrtc_bridge.demo.programs import COMMAND_TIMEOUT_S, CommandError, Programs, find_program
from mxrtc_bridge.demo.story import DemoStep, Story
from mxrtc_bridge.demo.synapse import Synapse
from mxrtc_bridge.demo.website import FILE_BYTES, FILE_PATH, PAGE

DOMAIN = "example.test"
USER = f"@alice:{DOMAIN}"
STRANGER = f"@mallory:{DOMAIN}"
PEER = "demo"
SERVICE = "demo/web"

LOOPBACK_ONLY = """
# Added by the demonstration, which happens on this machine alone. A real installation needs none of these lines.
ice:
  servers: []
  interfaces: [lo]
  remote: {loopback: true}
"""


class Tour:
    """One run of the demonstration.

    Args:
        folder: an empty folder; everything is written there.
        story: told what happens.
        stack: ends what was started, in reverse order.
    """

    def __init__(self, folder: Path, story: Story, stack: AsyncExitStack) -> None:
        self._folder = folder
        self._story = story
        self._stack = stack
        self._config = folder / "bridge" / "config.yaml"
        environment = {
            "MXRTC_STATE": str(folder / "alice"),
            "MXRTC_INTERFACES": "lo",
            "MXRTC_CONFIG": str(self._config),
        }
        self._programs = Programs(folder, environment, stack)
        self._port = 0
        self._connected = ""

    async def run(self) -> None:
        """Go through all steps; what was started keeps running.

        Raises:
            StepError: a step failed.
        """
        target, sha256 = await self._start_target()
        homeserver = await self._set_up_bridge(target)
        await self._start_homeserver(homeserver)
        await self._check()
        await self._run_bridge()
        await self._make_user(homeserver)
        await self._list_services()
        await self._connect()
        await self._fetch_page()
        file = await self._fetch_file(sha256)
        await self._ping()
        self._story.text(
            f"\nEverything works: {self._connected}, {file.megabytes_a_second:.0f} MB/s, every byte as it was sent.",
            "bold green",
        )

    # The admin's side

    async def _start_target(self) -> tuple[int, str]:
        """Start the service; returns its port and the SHA-256 of its file."""
        with self._story.step("A service to be reached: a small web server") as step:
            website = await self._programs.start(step, "website", [sys.executable, "-m", "mxrtc_bridge.demo.website"])
            sha256 = (await website.wait_for_line(r"^sha256 ([0-9a-f]{64})$"))[1]
            port = int((await website.wait_for_line(r"^listening on 127\.0\.0\.1:(\d+)$"))[1])
            step.say(f"it listens on 127.0.0.1:{port}, which the user never connects to")
            step.say(f"it has a page, and a file of {FILE_BYTES >> 20} MiB with SHA-256 {sha256[:16]}...")
            return port, sha256

    async def _set_up_bridge(self, target: int) -> Synapse:
        """Write the bridge's files; returns the homeserver that they name, which does not run yet."""
        with self._story.step("The admin sets up the bridge") as step:
            home = self._folder / "homeserver"
            home.mkdir()
            registration = self._config.with_name("registration.yaml")
            homeserver = Synapse(home, server_name=DOMAIN, app_services=[registration])
            self._stack.push_async_callback(homeserver.stop)
            listen = self._stack.enter_context(PortReservation())
            where = ("--output", str(self._config.parent), "--domain", DOMAIN, "--homeserver-address", homeserver.url)
            service = ("--peer", PEER, "--service", f"web=tcp:127.0.0.1:{target}", "--allow", USER)
            await self._programs.run(
                step, "mxrtc-bridge", "init", *where, "--listen", f"127.0.0.1:{listen.port}", *service
            )
            with self._config.open("a") as config:
                config.write(LOOPBACK_ONLY)
            step.say("it wrote config.yaml and registration.yaml there, with random tokens")
            step.say("MXRTC_CONFIG names the first of them from here on")
            step.say(f"the peer @rtc_{PEER}:{DOMAIN} has the service web, and {USER} may use it; nobody else may")
            return homeserver

    async def _start_homeserver(self, homeserver: Synapse) -> None:
        with self._story.step("A homeserver (Synapse) starts and reads the registration") as step:
            step.see(self._homeserver_log)
            await homeserver.start()
            step.say(f"it answers at {homeserver.url}")

    @property
    def _homeserver_log(self) -> Path:
        return self._folder / "homeserver" / "synapse-1.stderr"

    async def _check(self) -> None:
        with self._story.step("The admin looks for mistakes") as step:
            found = await self._programs.run(step, "mxrtc-bridge", "check", "--json")
            findings = [json.loads(line) for line in found.splitlines()]
            for finding in findings:
                step.output(f"{finding['level']:<4}  {finding['what']}")
            if any(finding["level"] == "warn" for finding in findings):
                step.say("the warnings belong to a trial on one machine")

    async def _run_bridge(self) -> None:
        with self._story.step("The bridge starts") as step:
            step.command("mxrtc-bridge run")
            bridge = await self._programs.start(step, "bridge", [find_program("mxrtc-bridge"), "run"])
            ready = await bridge.wait_for_line("bridge ready", COMMAND_TIMEOUT_S)
            step.output(ready.string)
            await bridge.wait_for_line("encryption is o(n|ff): ", COMMAND_TIMEOUT_S)

    # The user's side

    async def _make_user(self, homeserver: Synapse) -> None:
        with self._story.step(f"{USER} gets an account and logs in") as step:
            step.see(self._homeserver_log)
            password = secrets.token_urlsafe(16)
            await homeserver.register_user(USER[1:].partition(":")[0], password)
            login = ("login", USER, "--homeserver", homeserver.url, "--password-file", "-")
            await self._programs.run(step, "mxrtc", *login, stdin=f"{password}\n".encode())

    async def _list_services(self) -> None:
        with self._story.step("The user asks what there is") as step:
            if SERVICE not in (await self._programs.run(step, "mxrtc", "ls")).split():
                raise CommandError(f"mxrtc ls does not name {SERVICE}")

    async def _connect(self) -> None:
        with self._story.step("The user opens the pipe: a port here that leads to the service there") as step:
            command = ["connect", SERVICE, "-L", "0"]
            step.command(shlex.join(["mxrtc", *command]))
            # Whoever tries things out may well take the right to it away.
            connect = await self._programs.start(step, "connect", [find_program("mxrtc"), *command], vital=False)
            connected = await connect.wait_for_line(r"^connected to \S+: (.+), (\d+) ms$", COMMAND_TIMEOUT_S)
            listening = await connect.wait_for_line(r"^listening on 127\.0\.0\.1:(\d+) for ", COMMAND_TIMEOUT_S)
            step.output(connected.string)
            step.output(listening.string)
            path, setup_ms = connected.groups()
            self._connected = f"{path}, set up in {setup_ms} ms"
            self._port = int(listening[1])
            step.say(f"path: {path}; set-up time: {setup_ms} ms, from the first request to the open connection")

    async def _fetch_page(self) -> None:
        with self._story.step("A page comes through it") as step:
            page = PAGE.encode()
            fetched = await self._fetch(step, "/", len(page), hashlib.sha256(page).hexdigest())
            step.say(f"{fetched.size} bytes in {fetched.seconds * 1000:.0f} ms, the page that the service has")

    async def _fetch_file(self, sha256: str) -> Fetched:
        with self._story.step(f"{FILE_BYTES >> 20} MiB come through it") as step:
            fetched = await self._fetch(step, FILE_PATH, FILE_BYTES, sha256)
            step.say(f"{fetched.size} bytes in {fetched.seconds:.1f} s: {fetched.megabytes_a_second:.0f} MB/s")
            step.say(f"SHA-256 {fetched.sha256[:16]}... is that of the service's file")
            return fetched

    async def _fetch(self, step: DemoStep, path: str, size: int, sha256: str) -> Fetched:
        step.command(f"curl http://127.0.0.1:{self._port}{path}")
        self._programs.see_logs(step)
        fetched = await fetch(
            self._port, path, limit=size, progress=lambda have: step.busy(f"{have >> 20} of {size >> 20} MiB")
        )
        if (fetched.size, fetched.sha256) != (size, sha256):
            raise CommandError(
                f"{path} came with {fetched.size} bytes and SHA-256 {fetched.sha256}; "
                f"the service has {size} bytes and SHA-256 {sha256}"
            )
        return fetched

    async def _ping(self) -> None:
        with self._story.step("The user measures the round trip") as step:
            await self._programs.run(step, "mxrtc", "ping", PEER, "-c", "3", "-i", "0.25")

    # Staying up

    async def stay_up(self) -> None:
        """Show what to try, and watch over the programs until cancelled.

        Raises:
            StepError: one of them ended.
        """
        with self._story.step("It stays up until Ctrl-C") as step:
            self._programs.see_logs(step)
            self._story.text(self._invitation())
            await self._programs.watch()

    def _invitation(self) -> str:
        return f"""
Paste into another terminal:

{self._programs.exports()}
curl http://127.0.0.1:{self._port}/
mxrtc status
mxrtc ls
mxrtc ping {PEER}
mxrtc connect {SERVICE} -L 8080
printf 'GET / HTTP/1.0\\r\\n\\r\\n' | mxrtc nc {SERVICE}
mxrtc-bridge explain {USER} {SERVICE}
mxrtc-bridge explain {STRANGER} {SERVICE}

The logs are in {self._folder}.
Ctrl-C ends everything and removes that folder."""
