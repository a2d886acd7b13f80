"""Services that are directories: what the file says about them, and what is wrong with it."""

from __future__ import annotations

from typing import Any

import pytest

from mxrtc_bridge.config.values import parse_size
from mxrtc_bridge.core.access.targets import GIB, Direction, FileLimits, FilesTarget
from mxrtc_bridge.core.files.names import NamePolicy
from mxrtc_bridge.core.files.patterns import parse_name_pattern

from .samples import changed, load, mistakes

INBOX = ("peers", "build", "services", "inbox")
RECEIVE = {"dir": "/srv/inbox", "direction": "receive"}


def service(**keys: Any) -> dict[str, Any]:
    return changed(*INBOX, to=keys)


def target_of(data: dict[str, Any]) -> FilesTarget:
    config = load(data)
    target = config.target(config.peer_id("build"), "inbox")
    assert isinstance(target, FilesTarget)
    assert config.files_targets() == (target,)
    return target


def test_directory_has_careful_limits_from_the_start() -> None:
    assert target_of(service(files=RECEIVE)) == FilesTarget(
        "/srv/inbox",
        Direction.RECEIVE,
        names=NamePolicy.KEEP,
        allowed=(),
        limits=FileLimits(16 * GIB, 64 * GIB, None, GIB, 7 * 86400.0),
    )


def test_every_key_counts() -> None:
    limits = {"file_size": "5MiB", "per_user": "1GiB", "total": "2TiB", "keep_free": "0B", "partial_age": "2d"}
    files = {
        "dir": "/srv//shared/./docs/",
        "direction": "both",
        "names": "sanitise",
        "allow": ["*.pdf", "a?"],
        "mode": "0660",
        "group": "builders",
        "limits": limits,
    }
    assert target_of(service(files=files)) == FilesTarget(
        "/srv/shared/docs",
        Direction.BOTH,
        names=NamePolicy.SANITISE,
        allowed=(parse_name_pattern("*.pdf"), parse_name_pattern("a?")),
        limits=FileLimits(5 * 1024**2, GIB, 2 * 1024**4, 0, 2 * 86400.0),
        mode=0o660,
        group="builders",
    )


def test_group_may_be_a_number() -> None:
    assert target_of(service(files={**RECEIVE, "group": 1001})).group == "1001"


@pytest.mark.parametrize(
    ("keys", "key", "text"),
    [
        ({}, "", "give target (where streams of bytes lead) or files (a directory)"),
        ({"files": RECEIVE, "target": "tcp:127.0.0.1:22"}, ".target", "give target or files, not both"),
        ({"files": RECEIVE, "raw": True}, ".raw", "is for services with a target"),
        ({"files": RECEIVE, "expect": ["10.0.0.0/8"]}, ".expect", "is for services with a target"),
        ({"files": RECEIVE, "limits": {"idle": "1h"}}, ".limits.idle", "transfers have time limits of their own"),
        ({"files": {"dir": "/srv/x"}}, ".files.direction", "this key is missing"),
        ({"files": {**RECEIVE, "direction": "all"}}, ".files.direction", "'receive', 'send' or 'both'"),
        ({"files": {**RECEIVE, "dir": "inbox"}}, ".files.dir", "'inbox' is not an absolute path like /srv/inbox"),
        ({"files": {**RECEIVE, "dir": "/srv/../etc"}}, ".files.dir", "'/etc' belongs to the system"),
        ({"files": {**RECEIVE, "dir": "//"}}, ".files.dir", "'/' belongs to the system"),
        ({"files": {**RECEIVE, "dir": "/proc/1/root"}}, ".files.dir", "belongs to the system"),
        ({"files": {**RECEIVE, "allow": ["a/b"]}}, ".files.allow[0]", "must be one name without '/'"),
        ({"files": {**RECEIVE, "allow": ["[a"]}}, ".files.allow[0]", "'[a'"),
        ({"files": {**RECEIVE, "limits": {"per_user": "10GB"}}}, ".files.limits.per_user", "is not a size; write"),
        ({"files": {**RECEIVE, "limits": {"total": 10}}}, ".files.limits.total", "is not a size; write"),
        ({"files": {**RECEIVE, "limits": {"keep_free": "9000TiB"}}}, ".files.limits.keep_free", "at most 8191TiB"),
        ({"files": {**RECEIVE, "limits": {"partial_age": "1s"}}}, ".files.limits.partial_age", "at least 3600s"),
        ({"files": {**RECEIVE, "mode": 640}}, ".files.mode", 'is not a mode in quotes, like "0640"'),
        ({"files": {**RECEIVE, "mode": "rw-r-----"}}, ".files.mode", 'is not a mode in quotes, like "0640"'),
        ({"files": {**RECEIVE, "mode": "0666"}}, ".files.mode", "files cannot have the mode '0666'"),
        ({"files": {**RECEIVE, "mode": "0755"}}, ".files.mode", "nobody executes"),
        ({"files": {**RECEIVE, "mode": "0440"}}, ".files.mode", "the owner reads and writes"),
        ({"files": {**RECEIVE, "group": "two words"}}, ".files.group", "is not the name or number of a group"),
        ({"files": {**RECEIVE, "group": -1}}, ".files.group", "is not the name or number of a group"),
        (
            {"files": {"dir": "/srv/x", "direction": "send", "group": "www-data"}},
            ".files.group",
            "is about what is received, but the direction is send",
        ),
        (
            {"files": {"dir": "/srv/x", "direction": "send", "names": "sanitise"}},
            ".files.names",
            "is about what is received, but the direction is send",
        ),
    ],
)
def test_mistake_is_named_with_its_place(keys: dict[str, Any], key: str, text: str) -> None:
    found = mistakes(service(**keys))
    assert len(found) == 1
    assert f"peers.build.services.inbox{key}: " in found[0]
    assert text in found[0]


@pytest.mark.parametrize(
    ("other", "direction", "is_mistake"),
    [
        ("/srv/inbox", "receive", True),
        ("/srv/inbox/below", "both", True),
        ("/srv", "receive", True),
        ("/srv/inbox2", "receive", False),
        ("/srv/inbox", "send", False),
    ],
)
def test_two_services_do_not_receive_into_the_same_directory(other: str, direction: str, is_mistake: bool) -> None:
    data = service(files=RECEIVE)
    data["peers"]["lab"]["services"]["box"] = {"files": {"dir": other, "direction": direction}}
    found = mistakes(data)
    assert bool(found) is is_mistake
    if found:
        assert "peers.lab.services.box.files.dir: build/inbox receives into '/srv/inbox' already" in found[0]


@pytest.mark.parametrize(
    ("text", "size"), [("0B", 0), ("1B", 1), ("3KiB", 3072), ("8191TiB", 8191 * 1024**4), ("500MiB", 500 * 1024**2)]
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "1", "1GB", "-1B", "1.5GiB", "1 GiB", "1gib", "8192TiB", None, 5])
def test_what_is_no_size_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match=r"is not a size|at most"):
        parse_size(text)
