"""The first hour of an admin and of a user, on a Debian that has nothing yet: what the pages say, typed as it stands.

``python -m tests.first_hour [bookworm] [trixie]``, as root, prints a transcript: each command with its time, and how
many commands and edits there were. It needs ``mmdebstrap`` and the package registries.

The machine is a chroot with a network namespace of its own, which has no way out; only what installs something runs
outside of it. The homeserver is there before, as is an ssh server for the bridge to lead to. Of the pages nothing is
changed but the address of the sources, which are served from this tree, and the address of the homeserver, which a name
without DNS does not lead to.
"""

from __future__ import annotations

import asyncio
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mxrtc_bridge.core.text.installing import SOURCES
from mxrtc_bridge.demo.processes import GuardedChild, ManagedProcess
from mxrtc_bridge.demo.synapse import Synapse
from tests.nets.topology import Host

ROOT = Path(__file__).parent.parent
ADMINS_PAGE, USERS_PAGE = ROOT / "docs/how-to/synapse.md", ROOT / "docs/tutorial/for-users.md"
BASES = ROOT / "build/chroots"
MIRROR = "http://deb.debian.org/debian"
PASSWORD = "correct horse battery staple"
PREPARED = """\
useradd --create-home --shell /bin/sh alice
useradd --system matrix-synapse
install -d /etc/matrix-synapse
echo 'server_name: example.org' > /etc/matrix-synapse/homeserver.yaml
install -d /run/sshd
apt-get install --yes -q=2 --no-install-recommends openssh-server systemd
"""
"""What is there before the hour begins: two accounts, a folder of the homeserver's, and something to lead to."""
INSTALLS = re.compile(r"\b(apt|apt-get|pip|pipx) install\b|-m venv\b")
LIMIT_S = 900.0


@dataclass(frozen=True, slots=True)
class Step:
    """A command that somebody has typed."""

    who: str
    command: str
    seconds: float
    code: int
    said: str


@dataclass(slots=True)
class Hour:
    """What was typed on one Debian."""

    suite: str
    steps: list[Step] = field(default_factory=list)
    edits: list[str] = field(default_factory=list)

    def of(self, who: str) -> list[Step]:
        """Return the commands of ``admin`` or ``user``."""
        return [step for step in self.steps if step.who == who]

    def told(self) -> Iterator[str]:
        """Yield the lines of the transcript."""
        yield f"Debian {self.suite}"
        for step in self.steps:
            yield f"\n[{step.who}] $ {step.command}    # {step.seconds:.1f} s, exit code {step.code}"
            yield from (f"    {line}" for line in step.said.splitlines()[-25:])
        yield from ("", *(f"[admin] edits {edit}" for edit in self.edits), "")
        for who in ("admin", "user"):
            steps = self.of(who)
            edits = self.edits if who == "admin" else []
            minutes = sum(step.seconds for step in steps) / 60
            yield f"{who}: {len(steps)} commands, {len(edits)} edits, {minutes:.1f} minutes"


def commands_of(page: Path, *sections: str) -> list[str]:
    """Return the commands of the shell blocks of some numbered sections, in their order.

    Args:
        page: a page with headings as ``## 1. Install``.
        sections: their numbers.
    """
    found = []
    for number in sections:
        text = re.split(rf"^## {number}\. .*$", page.read_text(), flags=re.MULTILINE)[1].partition("\n## ")[0]
        for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            lines = (re.sub(r"\s+#\s.*", "", line) for line in block.replace("\\\n", " ").splitlines())
            found += [re.sub(r"\s+", " ", line).strip() for line in lines if line.strip()]
    return found


def registrations_in(machine: Machine) -> list[Path]:
    """Return the registrations that the homeserver's configuration names, once the admin has edited it."""
    listed = YAML(typ="safe").load(machine.root / "etc/matrix-synapse/homeserver.yaml")["app_service_config_files"]
    found = [machine.root / path.lstrip("/") for path in listed]
    for file in found:
        status = file.stat()
        group = group_name(machine, status.st_gid)
        assert (status.st_uid, group, status.st_mode & 0o777) == (0, "matrix-synapse", 0o640), status
    return found


def group_name(machine: Machine, number: int) -> str:
    """Return the name of a group there."""
    lines = (machine.root / "etc/group").read_text().splitlines()
    return next((name for name, _, gid, *_ in (line.split(":") for line in lines) if gid == str(number)), "")


class Machine:
    """A Debian with nothing but its base, in a folder, and its network."""

    def __init__(self, suite: str, folder: Path) -> None:
        self.root = folder / suite
        self.network = Host(f"mxrtc-hour-{suite}-{os.getpid()}")

    def make(self, base: Path, prepare: str) -> None:
        """Unpack it, give it names of hosts and trusted certificates, and prepare it by lines of shell."""
        self.root.mkdir()
        subprocess.run(["tar", "--extract", "--numeric-owner", "--file", base, "--directory", self.root], check=True)
        for file in ("/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt"):
            shutil.copy(file, self.root / file[1:])
        certificates = "[global]\ncert = /etc/ssl/certs/ca-certificates.crt\ndisable-pip-version-check = true\n"
        (self.root / "etc/pip.conf").write_text(certificates)
        self.network.add()
        self.network.run(
            "ip link set lo up; ip link add lan type veth peer name cable; ip link set cable up; ip link set lan up; "
            "ip address add 10.9.0.2/24 dev lan"
        )
        code, said = self.command(f"set -e; apt-get update -q=2; {prepare}", outside=True)
        assert code == 0, said

    def remove(self) -> None:
        self.network.remove()
        shutil.rmtree(self.root)

    def argv(self, command: str, *, user: str = "root", outside: bool = False) -> list[str]:
        """Return what runs a line of shell there, with everything that it starts ended with it."""
        inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={self.root}/proc"]
        words = ["/usr/bin/env", "-i", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", "/usr/bin/su", "--login"]
        shell = [*inside, "chroot", str(self.root), *words, "-w", "LANG,DEBIAN_FRONTEND", user, "-c", command]
        return shell if outside else self.network.command(*shell)

    def command(self, command: str, *, user: str = "root", outside: bool = False, stdin: str = "") -> tuple[int, str]:
        """Run a line of shell to its end; returns its exit code and what it has said."""
        result = subprocess.run(
            self.argv(command, user=user, outside=outside), input=stdin, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, check=False, timeout=LIMIT_S,
        )  # fmt: skip
        return result.returncode, result.stdout


class HomeserverOfMachine(Synapse):
    """A homeserver at the usual port of a machine, with the usual name."""

    def __init__(self, folder: Path, network: Host) -> None:
        def spawn(argv: Sequence[str | Path], **options: Any) -> GuardedChild:
            return GuardedChild(network.command(*argv), **options)

        super().__init__(folder, server_name="example.org", spawn=spawn)
        self._network = network
        self.port = 8008

    def _request(self, method: str, path: str, token: str | None, body: Mapping[str, Any] | None) -> object:
        with self._network.inside():  # the thread of this one request
            return super()._request(method, path, token, body)

    async def read_registrations(self, *files: Path) -> None:
        """Have it read these from now on."""
        self.app_services = list(files)
        await self._end_process(10)
        await self.start()


@contextmanager
def sources_served() -> Iterator[str]:
    """Serve the archive of the last commit on loopback; yields its address."""
    with tempfile.TemporaryDirectory(prefix="mxrtc-sources-") as name:
        archive = Path(name) / "main.tar.gz"
        command = ["git", "archive", "--format=tar.gz", "--prefix=mxrtc-bridge-main/", "-o", archive, "HEAD"]
        subprocess.run(command, cwd=ROOT, check=True)
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=name)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}/{archive.name}"
            finally:
                server.shutdown()
                thread.join()


def base_of(suite: str) -> Path:
    """Return the archive of a Debian's base, which is made once."""
    base = BASES / f"{suite}.tar"
    if not base.exists():
        BASES.mkdir(parents=True, exist_ok=True)
        made = base.with_suffix(f".{os.getpid()}.tar")
        subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", "--include=ca-certificates", suite, made, MIRROR], check=True
        )
        made.rename(base)
    return base


async def first_hour(suite: str) -> Hour:
    """Type what the pages say, on one Debian, and return what came of it.

    Raises:
        AssertionError: a command has failed; the message has what it said.
    """
    hour = Hour(suite)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mxrtc-hour-")))
        address = stack.enter_context(sources_served())
        machine = Machine(suite, folder)
        stack.callback(machine.remove)
        await asyncio.to_thread(machine.make, base_of(suite), PREPARED)
        (folder / "synapse").mkdir()
        homeserver = HomeserverOfMachine(folder / "synapse", machine.network)
        await stack.enter_async_context(homeserver)
        await homeserver.register_user("alice", PASSWORD)
        sshd = ManagedProcess("sshd", machine.argv("/usr/sbin/sshd -D -e"), folder=folder)
        await stack.enter_async_context(sshd)
        await sshd.wait_for_line("Server listening")

        async def typed(who: str, command: str, *, user: str = "root", stdin: str = "") -> None:
            command = command.replace(SOURCES, address)
            began = time.monotonic()
            outside = INSTALLS.search(command) is not None
            code, said = await asyncio.to_thread(machine.command, command, user=user, outside=outside, stdin=stdin)
            hour.steps.append(Step(who, command, time.monotonic() - began, code, said))
            assert code == 0, "\n".join(hour.told())

        for command in commands_of(ADMINS_PAGE, "1", "2", "3", "4"):
            began = time.monotonic()
            # What the service manager does, which does not run in a folder.
            if command == "systemctl restart matrix-synapse":
                lines = re.search(r"^app_service_config_files:\n(?:  - .*\n)+", hour.steps[-1].said, re.MULTILINE)
                assert lines is not None, hour.steps[-1].said
                hour.edits.append(f"homeserver.yaml: {' '.join(lines[0].split())}")
                with (machine.root / "etc/matrix-synapse/homeserver.yaml").open("a") as file:
                    file.write(lines[0])
                await homeserver.read_registrations(*registrations_in(machine))
                hour.steps.append(Step("admin", command, time.monotonic() - began, 0, ""))
            elif command == "systemctl start mxrtc-bridge":
                bridge = ManagedProcess("bridge", machine.argv("mxrtc-bridge run"), folder=folder)
                await stack.enter_async_context(bridge)
                await bridge.wait_for_line("encryption is on", 120)
                hour.steps.append(Step("admin", command, time.monotonic() - began, 0, bridge.tail()))
            else:
                await typed("admin", command)

        for command in commands_of(USERS_PAGE, "1"):
            await typed("user", command.removeprefix("sudo "), user="root" if command.startswith("sudo") else "alice")
        # What the admin has installed could be found in its place.
        _, found = await asyncio.to_thread(machine.command, "command -v mxrtc", user="alice")
        assert found == "/home/alice/.local/bin/mxrtc\n"
        (login,) = commands_of(USERS_PAGE, "2")
        login = login.replace("@you:", "@alice:") + " --homeserver http://127.0.0.1:8008"
        await typed("user", login, user="alice", stdin=PASSWORD + "\n")
        await typed("user", "mxrtc nc build/ssh </dev/null", user="alice")
        assert hour.steps[-1].said.count("SSH-2.0-"), hour.steps[-1].said
    return hour


def main() -> None:
    """Print the transcript of each Debian that is named, by default of both."""
    for suite in sys.argv[1:] or ["bookworm", "trixie"]:
        print(*asyncio.run(first_hour(suite)).told(), sep="\n", flush=True)


if __name__ == "__main__":
    main()
