"""What deserves a second look in a configuration that can be used: found without any network."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.problems import Finding, Level
from mxrtc_bridge.config.secrets import exposure
from mxrtc_bridge.config.values import LATEST_VERSION, Listen, TcpListen, parse_address
from mxrtc_bridge.core.access.policy import Everyone, Grant, GuestAccounts, Service
from mxrtc_bridge.core.access.targets import FilesTarget, TcpTarget
from mxrtc_bridge.core.files.names import NamePolicy

_PASSWD_FIELDS = 7
_PORTS_PER_CALL = 2
"""A session needs a port for each local address; most machines have one of IPv4 and one of IPv6."""


def inspect(config: Config, now_ms: int) -> list[Finding]:
    """Look for settings that are legal and perhaps not meant, and for files that others can read.

    Args:
        config: the configuration.
        now_ms: wall-clock time in milliseconds since 1970: some grants may have ended.
    """
    return [
        *_summary(config),
        *_version(config),
        *_rules(config, now_ms),
        *_admins(config),
        *_targets(config),
        *_inboxes(config),
        *_listeners(config),
        *_ice(config),
        *_database_file(config),
    ]


def _warn(what: str, fix: str) -> Finding:
    return Finding(Level.WARN, what, fix)


def _summary(config: Config) -> Iterator[Finding]:
    services = sum(1 for _ in config.services())
    counts = f"peers: {len(config.peers)}, services: {services}, grants: {len(config.grants)}"
    yield Finding(
        Level.OK, f"the configuration {config.path} can be used ({counts}, tests passed: {len(config.tests)})"
    )


def _version(config: Config) -> Iterator[Finding]:
    if config.version < LATEST_VERSION:
        what = f"the file is written in version {config.version} of the format, and is read as it was meant then"
        yield _warn(what, f"to have it in version {LATEST_VERSION}: mxrtc-bridge config upgrade")


def _rules(config: Config, now_ms: int) -> Iterator[Finding]:
    if not config.peers:
        yield _warn("there are no peers, so there is nothing to call", "add a peer with a service under peers:")
    elif not config.grants:
        yield _warn("there are no grants, so nobody may use anything", "add one under grants:")
    elif not config.tests:
        fix = "add claims under tests: that must hold, so that a slip in the grants cannot open more than you mean"
        yield _warn("there are no policy tests", fix)
    granted = {service for grant in config.grants if grant.in_force(now_ms) for service in grant.services}
    for grant in config.grants:
        if not grant.in_force(now_ms):
            yield _warn(f"the grant {grant.id} has ended", "remove it, or give it a later until:")
        yield from _wide_subjects(grant)
    for peer, service in config.services() if config.grants else ():
        if Service(peer.user_id, service.name) not in granted:
            yield _warn(f"nobody may use {peer.name}/{service.name}", "grant it to somebody, or remove it")


def _wide_subjects(grant: Grant) -> Iterator[Finding]:
    if Everyone() in grant.subjects:
        yield _warn(f"the grant {grant.id} lets in users of every server", "name users or servers, unless meant")
    for subject in sorted(grant.subjects, key=str):
        if isinstance(subject, GuestAccounts):
            what = f"the grant {grant.id} lets in {subject}: whoever reaches that homeserver can make one"
            yield _warn(what, "name users or the server, unless meant")


def _admins(config: Config) -> Iterator[Finding]:
    for admin in sorted(config.admins):
        if (denied := config.policy().denial(admin)) is not None:
            what = f"{admin} is an admin and denied ({denied.rule}), and so can give no commands"
            yield _warn(what, "take the name out of admins, or that rule out of deny")

    for peer, service in config.services():
        if service.listed and not service.grantable_to:
            what = f"{peer.name}/{service.name} is listed for those who may ask for it, and nobody may"
            yield _warn(what, "name them in its grantable_to")
    if config.grantable_to and config.rooms.admin is None:
        what = "services can be granted, but there is no room in which admins are asked, so nobody can ask for them"
        yield _warn(what, "name one under rooms.admin; or grant by mxrtc-bridge grant alone")


def _targets(config: Config) -> Iterator[Finding]:
    for peer, service in config.services():
        target = service.target
        if isinstance(target, TcpTarget) and not target.expect and parse_address(target.host) is None:
            what = f"the target of {peer.name}/{service.name} is the name {target.host}, which may be rebound"
            yield _warn(what, "add expect: with the networks that its address must lie in")


def _inboxes(config: Config) -> Iterator[Finding]:
    homes = _homes()
    for peer, service in config.services():
        target = service.target
        if not isinstance(target, FilesTarget) or not target.direction.receives:
            continue
        path = Path(target.path)
        if os.path.lexists(path / ".ssh"):
            why = "has a folder .ssh in it"
        elif path in homes or os.path.realpath(path) in {str(home) for home in homes}:
            why = "is a home directory"
        else:
            continue
        danger = ", and takes hidden files" if target.names is NamePolicy.ANY else ""
        what = f"callers put files into {target.path} ({peer.name}/{service.name}), which {why}{danger}"
        yield _warn(what, "give a directory of its own, like /srv/inbox: what lies in a home is read by programs")


def _homes() -> frozenset[Path]:
    """The home directories of the users of this machine, as far as its own file knows them."""
    found = {Path.home()} if "HOME" in os.environ else set()
    with contextlib.suppress(OSError, UnicodeError):
        for line in Path("/etc/passwd").read_text("utf-8").splitlines():
            fields = line.split(":")
            # Those of the system are no homes: /, /var/lib/x, /nonexistent.
            if len(fields) == _PASSWD_FIELDS and fields[5].startswith(("/home/", "/root", "/Users/")):
                found.add(Path(fields[5]))
    return frozenset(found)


def _listeners(config: Config) -> Iterator[Finding]:
    if _is_open(config.appservice.listen) and config.appservice.url.startswith("http:"):
        what = f"the homeserver's requests arrive without encryption on {config.appservice.listen}"
        yield _warn(what, "listen on 127.0.0.1 or a unix socket, unless only the homeserver's network can reach it")
    if config.metrics_listen is not None and _is_open(config.metrics_listen):
        yield _warn(f"everybody who reaches {config.metrics_listen} can read the metrics", "listen on 127.0.0.1")


def _is_open(listen: Listen) -> bool:
    return isinstance(listen, TcpListen) and not ipaddress.ip_address(listen.host).is_loopback


def _ice(config: Config) -> Iterator[Finding]:
    if config.ice.remote.loopback:
        fix = "remove ice.remote.loopback, which is for trials on one machine"
        yield _warn("callers can make the bridge send packets to this machine itself", fix)
    if config.ice.port_range is not None:
        first, last = config.ice.port_range
        needed = config.limits.calls_total * _PORTS_PER_CALL
        if last - first + 1 < needed:
            what = f"ice.port_range has {last - first + 1} ports, but {config.limits.calls_total} calls need {needed}"
            yield _warn(what, "widen ice.port_range, or lower limits.calls_total")


def _database_file(config: Config) -> Iterator[Finding]:
    scheme, _, path = config.database.partition("://")
    if scheme != "sqlite":
        return
    file = Path(unquote(path))
    # False as well where a folder above it is closed to us.
    if os.path.exists(file):  # noqa: PTH110
        status = file.stat()
        complaint = exposure(file, status.st_mode, status.st_uid, status.st_gid)
        if complaint is not None:
            what, _, fix = complaint.partition("; run: ")
            yield Finding(Level.FAIL, what, fix)
    elif not os.access(file.parent, os.W_OK | os.X_OK, effective_ids=True):
        fix = "create it for the user that runs the bridge, or change database:"
        yield Finding(Level.FAIL, f"the folder of the database, {file.parent}, is not there or not writable", fix)
