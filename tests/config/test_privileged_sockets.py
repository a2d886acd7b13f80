"""Sockets that control the machine are known by their path, through links as well."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from mxrtc_bridge.config.privileged_sockets import what_it_controls


@pytest.mark.parametrize(
    "path",
    [
        "/var/run/docker.sock",
        "/run/docker.sock",
        "/run/user/1000/docker.sock",
        "/srv/../run/docker.sock",
        "/run//docker.sock",
        "/run/podman/podman.sock",
        "/run/containerd/containerd.sock",
        "/run/k3s/containerd/containerd.sock",
        "/run/crio/crio.sock",
        "/run/buildkit/buildkitd.sock",
        "/run/systemd/private",
        "/run/user/1000/systemd/private",
        "/run/user/1000/bus",
        "/run/dbus/system_bus_socket",
        "/var/run/libvirt/libvirt-sock",
        "/var/lib/incus/unix.socket",
        "/run/snapd.socket",
        "/tmp/ssh-abc123/agent.4711",
    ],
)
def test_control_socket_is_recognised(path: str) -> None:
    assert what_it_controls(path) is not None


@pytest.mark.parametrize("path", ["/run/build/web.sock", "/run/dockerish.sock.d/x", "/run/postgresql/.s.PGSQL.5432"])
def test_ordinary_socket_is_let_through(path: str) -> None:
    assert what_it_controls(path) is None


def test_a_link_to_a_control_socket_is_followed(tmp_path: Path) -> None:
    real = tmp_path / "docker.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(real))
    (tmp_path / "harmless.sock").symlink_to(real)
    assert what_it_controls(str(tmp_path / "harmless.sock")) == "a container engine"
