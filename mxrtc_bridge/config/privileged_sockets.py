"""Sockets whose users control the machine: a service may lead to one only if the admin says that this is meant.

A container engine's socket is a root shell for whoever can write to it. It is easily published by accident, when a
target is copied from another machine's configuration. The list cannot be complete; it holds what is common.
"""

from __future__ import annotations

import os
import re

_KNOWN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), what)
    for pattern, what in (
        (r".*/(docker|podman)(-\w+)?\.sock", "a container engine"),
        (r".*/(containerd|buildkitd|crio|cri-dockerd)(-\w+)?\.sock(\.ttrpc)?", "a container engine"),
        (r"(/var)?/run/(containerd|docker|podman|crio|buildkit)/.*", "a container engine"),
        (r"(/var)?/run/systemd/.*", "systemd"),
        (r"(/var)?/run/user/[0-9]+/(systemd/.*|bus)", "a user's systemd or message bus"),
        (r"(.*/)?system_bus_socket", "the system's message bus"),
        (r".*/libvirt-sock(-admin)?|.*/(virtqemud|libvirtd)-(admin-)?sock", "virtual machines"),
        (r".*/(lxd|incus)/(unix|control)\.socket.*|.*/lxd/unix\.socket", "containers (LXD, Incus)"),
        (r".*/snapd(-snap)?\.socket", "snapd"),
        (r".*/(ssh-\w+/agent\.[0-9]+|S\.gpg-agent(\..*)?|gcr/ssh)", "somebody's keys (an agent)"),
    )
)


def what_it_controls(path: str) -> str | None:
    """Say what the socket at ``path`` controls, or None for an ordinary one; symbolic links are followed."""
    for candidate in (os.path.normpath(path), os.path.realpath(path)):
        for pattern, what in _KNOWN:
            if pattern.fullmatch(candidate):
                return what
    return None
