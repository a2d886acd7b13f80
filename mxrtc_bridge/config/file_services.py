"""Services that are directories: from the file to :class:`~mxrtc_bridge.core.access.targets.FilesTarget`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from mxrtc_bridge.config import schema
from mxrtc_bridge.config.config import PeerSettings
from mxrtc_bridge.config.problems import Complain, KeyPath
from mxrtc_bridge.core.access.targets import Direction, FileLimits, FilesTarget
from mxrtc_bridge.core.files.names import NamePolicy
from mxrtc_bridge.core.files.patterns import parse_name_pattern

_FOR_TARGETS = ("target", "expect", "raw", "connect_timeout", "i_know_this_is_root")
_FOR_RECEIVING = ("names", "allow", "announce", "mode", "group", "limits")


def build_files(
    service: schema.ServiceSection, section: schema.FilesSection, path: KeyPath, complain: Complain
) -> FilesTarget:
    """Judge a service that has files."""
    for key in _FOR_TARGETS:
        if key in service.model_fields_set:
            text = "give target or files, not both" if key == "target" else "is for services with a target"
            complain((*path, key), text)
    if service.limits.idle is not None:
        complain((*path, "limits", "idle"), "is for services with a target; transfers have time limits of their own")
    direction, limits = Direction(section.direction), section.limits
    for key in _FOR_RECEIVING:
        if key in section.model_fields_set and not direction.receives:
            complain((*path, "files", key), "is about what is received, but the direction is send")
    if "hidden" in section.model_fields_set and not direction.sends:
        complain((*path, "files", "hidden"), "is about what is offered, but the direction is receive")
    return FilesTarget(
        section.dir,
        direction,
        names=NamePolicy(section.names),
        announce=section.announce,
        allowed=tuple(parse_name_pattern(text) for text in section.allow),
        limits=FileLimits(limits.file_size, limits.per_user, limits.total, limits.keep_free, limits.partial_age),
        hidden=section.hidden,
        mode=section.mode,
        group=section.group,
    )


def shared_directories(peers: Mapping[str, PeerSettings]) -> Iterator[tuple[KeyPath, str]]:
    """Find directories that two services receive into: each keeps books of what is in it, and can do so only alone."""
    known: dict[PurePosixPath, str] = {}
    for name, peer in peers.items():
        for service in peer.services.values():
            target = service.target
            if not isinstance(target, FilesTarget) or not target.direction.receives:
                continue
            place = PurePosixPath(target.path)
            for other, owner in known.items():
                if place.is_relative_to(other) or other.is_relative_to(place):
                    path = ("peers", name, "services", service.name, "files", "dir")
                    yield (
                        path,
                        f"{owner} receives into {str(other)!a} already; give each service its own directory",
                    )
                    break
            known.setdefault(place, f"{name}/{service.name}")
