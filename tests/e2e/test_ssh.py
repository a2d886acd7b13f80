"""Real OpenSSH through ``mxrtc nc``: the use that the project is named for in its own README."""

from __future__ import annotations

import asyncio
import getpass
import hashlib
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from mxrtc_bridge.demo.processes import ManagedProcess, PortReservation
from tests.e2e.world import BIN, World, payload

pytestmark = pytest.mark.real


async def run(*argv: str | Path, **env: str) -> tuple[int, bytes, bytes]:
    """Run a command to its end."""
    import os

    process = await asyncio.create_subprocess_exec(
        *map(str, argv),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **env},
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return process.returncode, out, err


class Ssh:
    """An sshd of our own on loopback, and a client that reaches it only through the bridge."""

    def __init__(self, folder: Path, world: World) -> None:
        self.folder = folder
        self.world = world

    async def start(self, stack: AsyncExitStack) -> None:
        for name in ("host_key", "user_key"):
            code, _, err = await run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name)
            assert code == 0, err
        shutil.copy(self.folder / "user_key.pub", self.folder / "authorized_keys")
        port = stack.enter_context(PortReservation()).port
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {port}\nListenAddress 127.0.0.1\nHostKey {self.folder}/host_key\n"
            f"AuthorizedKeysFile {self.folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
            f"PidFile none\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
        )
        Path("/run/sshd").mkdir(exist_ok=True)
        sshd = ManagedProcess(
            "sshd", [shutil.which("sshd") or "/usr/sbin/sshd", "-D", "-e", "-f", config], folder=self.folder
        )
        await stack.enter_async_context(sshd)
        await sshd.wait_for_line("Server listening", 10)
        self.world.services["ssh"] = {"target": f"tcp:127.0.0.1:{port}"}

    def options(self) -> list[str]:
        return [
            "-F", "none", "-o", f"ProxyCommand={BIN}/mxrtc nc build/ssh", "-o", "StrictHostKeyChecking=no",
            "-o", f"UserKnownHostsFile={self.folder}/known_hosts", "-o", "IdentitiesOnly=yes",
            "-i", str(self.folder / "user_key"), "-o", "BatchMode=yes",
        ]  # fmt: skip


@pytest.fixture
async def ssh(tmp_path: Path) -> AsyncIterator[Ssh]:
    async with AsyncExitStack() as stack:
        world = await World.start(tmp_path, stack)
        world.own_calls = False
        ssh = Ssh(tmp_path, world)
        await ssh.start(stack)
        world.grant("alice", "build/ssh")
        await world.add_user("alice")
        await world.start_bridge()
        yield ssh


async def test_ssh_and_scp_work_through_nc(ssh: Ssh) -> None:
    env = ssh.world.env("alice")
    who = getpass.getuser()
    code, out, err = await run("ssh", *ssh.options(), f"{who}@build", "echo through the bridge; exit 7", **env)
    assert (code, out) == (7, b"through the bridge\n"), err
    source = ssh.folder / "source.bin"
    source.write_bytes(payload(8 << 20))
    there, back = ssh.folder / "there.bin", ssh.folder / "back.bin"
    code, _, err = await run("scp", *ssh.options(), source, f"{who}@build:{there}", **env)
    assert code == 0, err
    code, _, err = await run("scp", *ssh.options(), f"{who}@build:{there}", back, **env)
    assert code == 0, err
    assert hashlib.sha256(back.read_bytes()).digest() == hashlib.sha256(source.read_bytes()).digest()
