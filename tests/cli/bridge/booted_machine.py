"""A machine of its own as far as a service manager sees it: systemd as the first process of namespaces.

It has this machine's programs, files and network, and its own ``/etc``, ``/var/lib``, ``/opt``, ``/run`` and processes.
What is written there is gone with it. The bridge is installed in ``/opt/mxrtc``, as the pages say, from this tree and
with the Python of the tests, both under names that a service can see.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[3]
MEASURED = 'import os; "COVERAGE_PROCESS_CONFIG" in os.environ and __import__("coverage").process_startup()'
# A unit that is a part of this machine's own start has nothing to do there.
BOOT = """
set -eu
mount --make-rprivate /
mount -t tmpfs none {own}
for each in etc var/lib opt; do
    mkdir -p {own}/$each/upper {own}/$each/work
    mount -t overlay none -o lowerdir=/$each,upperdir={own}/$each/upper,workdir={own}/$each/work /$each
done
mount -t tmpfs none /run
mkdir -p /run/lock /opt/python /opt/tree /opt/site
for each in python:{python} tree:{tree} site:{site}; do
    mount --bind "${{each#*:}}" /opt/${{each%%:*}}
    # What is done there must not be done to this machine.
    mount -o remount,bind,ro /opt/${{each%%:*}}
done
mount -t proc none /proc
# Where that of the tests looks for its library, only root may.
echo /opt/python/lib > /etc/ld.so.conf.d/000-python.conf
ldconfig
rm -rf /opt/mxrtc
/opt/python/bin/{name} -m venv --without-pip /opt/mxrtc
printf '%s\\n' /opt/tree /opt/site '{measured}' > /opt/mxrtc/lib/{name}/site-packages/tree.pth
cat > /opt/mxrtc/bin/mxrtc-bridge <<END
#!/opt/mxrtc/bin/python
import sys
from mxrtc_bridge.cli.bridge.entry import main
sys.exit(main())
END
chmod 755 /opt/mxrtc/bin/mxrtc-bridge
rm -rf /etc/systemd/system/*.wants /var/lib/mxrtc /etc/matrix-synapse
ln -sf /lib/systemd/system/basic.target /etc/systemd/system/default.target
for each in systemd-logind systemd-udevd systemd-udev-trigger systemd-networkd systemd-resolved systemd-timesyncd \\
    systemd-tmpfiles-setup systemd-tmpfiles-setup-dev systemd-tmpfiles-clean \\
    systemd-sysctl systemd-modules-load systemd-random-seed; do
    ln -sf /dev/null /etc/systemd/system/$each.service
done
{more}
export container=other
{last}
"""
SYSTEMD = "exec /lib/systemd/systemd --system --log-target=null --show-status=0"
WITHOUT_SYSTEMD = "exec sleep 600"


class Machine:
    """What is run there; ``pid`` is its first process, as it is seen from here."""

    def __init__(self, pid: int) -> None:
        self._inside = ["nsenter", "--target", str(pid), "--mount", "--pid", "--uts", "--ipc", "--cgroup"]

    def run(self, *words: str, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
        env = {"PATH": f"/opt/mxrtc/bin:{os.environ['PATH']}", "LANG": "C.UTF-8", **coverage()}
        return subprocess.run(
            [*self._inside, *words], env=env, cwd="/", capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def bridge(self, *words: str) -> subprocess.CompletedProcess[str]:
        """``mxrtc-bridge``, as it is installed there."""
        return self.run("/opt/mxrtc/bin/mxrtc-bridge", *words)

    def read(self, path: str) -> str:
        done = self.run("cat", path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self, path: str) -> str:
        """Owner, group and mode."""
        return self.run("stat", "--format=%U:%G %a", path).stdout.strip()


def coverage() -> Mapping[str, str]:
    """The environment by which programs are measured, if they are."""
    return {name: value for name, value in os.environ.items() if name.startswith("COV")}


@contextmanager
def booted(more: str = "", *, with_systemd: bool = True) -> Iterator[Machine]:
    """Start one, and end it with all that runs there."""
    with tempfile.TemporaryDirectory(prefix="mxrtc-machine-") as own:
        script = BOOT.format(
            own=shlex.quote(own),
            python=shlex.quote(sys.base_prefix),
            tree=shlex.quote(str(ROOT)),
            site=shlex.quote(sysconfig.get_path("purelib")),
            name=f"python3.{sys.version_info.minor}",
            measured=MEASURED,
            more=more,
            last=SYSTEMD if with_systemd else WITHOUT_SYSTEMD,
        )
        outer = subprocess.Popen(
            ["unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--cgroup", "--kill-child", "sh", "-c", script],
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            yield _until_up(outer, with_systemd)
        finally:
            outer.kill()
            outer.communicate()


def _until_up(outer: subprocess.Popen[bytes], with_systemd: bool) -> Machine:
    deadline = time.monotonic() + 90
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    while time.monotonic() < deadline:
        if outer.poll() is not None:
            assert outer.stdout is not None
            raise AssertionError(f"it does not start: {outer.stdout.read().decode()}")
        first = children.read_text().split()
        if first and Path(f"/proc/{first[0]}/comm").read_text().strip() in ("systemd", "sleep"):
            machine = Machine(int(first[0]))
            if not with_systemd or machine.run("systemctl", "is-system-running").stdout.strip() in (
                "running",
                "degraded",
            ):
                return machine
        time.sleep(0.05)
    raise AssertionError("it has not started within 90 s")
