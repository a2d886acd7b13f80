"""Homeservers for tests that start in a sixth of the time: forked from a process that has imported Synapse already.

Importing is four fifths of a start, making the tables of the database most of the rest: that is done once as well, and
copied. What is forked is as independent as a process of its own: settings, log, signals, session and exit code are. The
demonstration and its tests start Synapse as everybody does.

How it works: this file is also the program (:func:`main`) that the interpreter of Synapse runs. It is asked through a
socket, one JSON object a packet. It ends when the socket does, so with the process that started it whatever happens to
that one, and takes the homeservers and the databases with it. As in :mod:`synapse.app.complement_fork_starter`, which
forks the processes of one homeserver, no reactor is made before the fork, as all would share its descriptors.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import ctypes
import gc
import importlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn

HOMESERVER = "synapse.app.homeserver"
MAKE_TABLES = "synapse._scripts.update_synapse_database"

START_TIMEOUT_S = 60.0
"""Seconds until the imports and the tables must be done."""

MEMORY_FOLDER = Path("/dev/shm")
"""Where the databases lie if there is room: nothing that is tested waits for a disk then but what is tested itself."""

MEMORY_BYTES = 1 << 30
"""Room that there has to be."""

_PACKET_BYTES = 1 << 18
_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000


class SynapseForks:
    """Starts homeservers by forking, from the first :meth:`ready` to :meth:`close`.

    Nothing runs before that.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._template: Path | None = None
        self._databases = 0

    async def ready(self, python: str) -> None:
        """Wait until homeservers can be forked.

        Args:
            python: the interpreter that has Synapse.

        Raises:
            RuntimeError: the program has ended; it has said why on standard error.
            TimeoutError: it is not ready within a minute.
        """
        if self._template is not None:
            return
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # -P: the folder of this file has a synapse.py of its own.
        argv = [python, "-P", str(Path(__file__).resolve())]
        self._process = subprocess.Popen(argv, stdin=theirs, start_new_session=True)
        theirs.close()
        self._socket.setblocking(False)
        async with asyncio.timeout(START_TIMEOUT_S):
            answer = await asyncio.get_running_loop().sock_recv(self._socket, _PACKET_BYTES)
        self._socket.setblocking(True)
        if not answer:
            raise RuntimeError(f"what forks homeservers has ended with {self._process.wait()}")
        self._template = Path(json.loads(answer))

    def new_database(self) -> Path:
        """Return the database of a homeserver that has never run; who takes it removes it."""
        assert self._template is not None, "not ready"
        self._databases += 1
        return Path(shutil.copyfile(self._template, self._template.with_name(f"{self._databases}.db")))

    def spawn(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: IO[bytes],
        stdout: IO[bytes],
        stderr: IO[bytes],
        env: Mapping[str, str],
        cwd: Path | None,
        namespace: str = "",
    ) -> ForkedChild:
        """Start what the command line ``python -m module arguments`` would, in a network namespace if one is named."""
        _, option, module, *arguments = map(str, argv)
        assert (option, module) == ("-m", HOMESERVER)
        question = {"do": "fork", "arguments": arguments, "env": dict(env), "folder": str(cwd), "namespace": namespace}
        streams = [each.fileno() for each in (stdin, stdout, stderr)]
        return ForkedChild(self, self.ask(question, *streams))

    def ask(self, question: dict[str, Any], *streams: int) -> Any:
        """Ask the program and return its answer."""
        socket.send_fds(self._socket, [json.dumps(question).encode()], streams)
        return json.loads(self._socket.recv(_PACKET_BYTES))

    def close(self) -> None:
        """End the program and all that it has forked."""
        if self._process is not None:
            self._socket.close()
            self._process.wait()


class ForkedChild:
    """A homeserver; see :class:`mxrtc_bridge.demo.processes.Child`."""

    def __init__(self, forks: SynapseForks, pid: int) -> None:
        self._forks = forks
        self.pid = pid

    def poll(self) -> int | None:
        code: int | None = self._forks.ask({"do": "poll", "pid": self.pid})
        return code

    def collect(self) -> int:
        code: int = self._forks.ask({"do": "collect", "pid": self.pid})
        return code


# From here on what the interpreter of Synapse runs.


def main() -> None:
    # By Ctrl-C all of a terminal end: who asks does so in its own time.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with (
        socket.socket(fileno=os.dup(0)) as control,
        tempfile.TemporaryDirectory(prefix="mxrtc-homeservers-", dir=databases_folder()) as folder,
    ):
        forks = Forks(control)
        try:
            template = forks.make_template(Path(folder))
            control.send(json.dumps(str(template)).encode())
            forks.serve()
        except ConnectionError:
            pass
        finally:
            forks.end_all()


def databases_folder() -> Path | None:
    """Return where the databases go, or None for the usual place of temporary files."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(MEMORY_FOLDER).free > MEMORY_BYTES:
            return MEMORY_FOLDER
    return None


class Forks:
    def __init__(self, control: socket.socket) -> None:
        from synapse.app.complement_fork_starter import ProxiedReactor
        from twisted.internet.main import installReactor

        self._control = control
        self._running: set[int] = set()
        self._reactor = ProxiedReactor()
        installReactor(self._reactor)
        self._programs = {name: importlib.import_module(name) for name in (HOMESERVER, MAKE_TABLES)}
        gc.collect()
        gc.freeze()  # else each process would copy what the collector has only looked at

    def make_template(self, folder: Path) -> Path:
        """Make a database with all tables that no homeserver has used yet."""
        path = folder / "template.db"
        config = folder / "template.yaml"
        log = folder / "template.log"
        config.write_text(
            json.dumps(
                {
                    "server_name": "template.invalid",
                    "report_stats": False,
                    "signing_key_path": str(folder / "signing.key"),
                    "database": {"name": "sqlite3", "args": {"database": str(path)}},
                }
            )
        )
        (folder / "signing.key").write_text(f"ed25519 a_template {'A' * 43}\n")
        arguments = ["--database-config", str(config), "--run-background-updates"]
        with log.open("wb") as output, open(os.devnull, "rb") as nothing:
            streams = [nothing.fileno(), output.fileno(), output.fileno()]
            code = self._collect(self._fork(MAKE_TABLES, arguments, dict(os.environ), str(folder), streams))
        if code != 0:
            sys.exit(f"the tables of a homeserver were not made (exit code {code}):\n{log.read_text()[-2000:]}")
        return path

    def serve(self) -> None:
        """Answer until nobody is there who could ask."""
        while True:
            packet, ancillary, _, _ = self._control.recvmsg(_PACKET_BYTES, socket.CMSG_SPACE(3 * 4))
            if not packet:
                return
            asked = json.loads(packet)
            match asked["do"]:
                case "fork":
                    streams = list(array.array("i", ancillary[0][2]))
                    how = (asked["arguments"], asked["env"], asked["folder"], streams, asked["namespace"])
                    answer = self._fork(HOMESERVER, *how)
                    for each in streams:
                        os.close(each)
                case "poll":
                    found = os.waitid(os.P_PID, asked["pid"], os.WEXITED | os.WNOHANG | os.WNOWAIT)
                    answer = None if found is None else exit_code(found)
                case "collect":
                    answer = self._collect(asked["pid"])
            self._control.send(json.dumps(answer).encode())

    def end_all(self) -> None:
        for pid in self._running:
            os.kill(pid, signal.SIGKILL)
        while self._running:
            self._collect(next(iter(self._running)))

    def _collect(self, pid: int) -> int:
        found = os.waitid(os.P_PID, pid, os.WEXITED)
        self._running.discard(pid)
        return exit_code(found)

    def _fork(
        self,
        name: str,
        arguments: list[str],
        env: dict[str, str],
        folder: str,
        streams: list[int],
        namespace: str = "",
    ) -> int:
        leads_a_session, leads = os.pipe()
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            self._become(name, arguments, env, folder, streams, namespace, parent)
        self._running.add(pid)
        os.close(leads)
        os.read(leads_a_session, 1)  # to its end: from here on the process group can be killed
        os.close(leads_a_session)
        return pid

    def _become(
        self,
        name: str,
        arguments: list[str],
        env: dict[str, str],
        folder: str,
        streams: list[int],
        namespace: str,
        parent: int,
    ) -> NoReturn:
        """Make of this process what an exec of the program would have made of it, and run that."""
        code = 1
        try:
            os.setsid()
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number, stream in enumerate(streams):
                os.dup2(stream, number)
            os.closerange(3, 1024)
            if namespace:
                enter(namespace)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(env)
            sys.argv = [name, *arguments]
            from twisted.internet.epollreactor import EPollReactor

            self._reactor._install_real_reactor(EPollReactor())
            self._programs[name].main()
            code = 0
        except SystemExit as error:
            if isinstance(error.code, str):
                sys.stderr.write(f"{error.code}\n")
            code = error.code if isinstance(error.code, int) else int(error.code is not None)
        except Exception:  # noqa: BLE001 - what the interpreter would do with it
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def enter(namespace: str) -> None:
    """Have this process in a network namespace from here on."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/run/netns/{namespace}", "rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"setns to {namespace}")


def exit_code(found: os.waitid_result) -> int:
    return found.si_status if found.si_code == os.CLD_EXITED else -found.si_status


if __name__ == "__main__":
    main()
