"""What earlier commands have seen of peers, services and their files, for completion: no network is asked for it.

A cache in the state folder, bounded, and forgotten by ``mxrtc logout``. What is wrong in it is taken for nothing: what
is completed is looked up again by the command itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.core.errors import EventError
from mxrtc_bridge.core.ids import ServiceName, UserId, parse_service_name, parse_user_id
from mxrtc_bridge.core.stream.messages import ServiceKind

FILE = "known.json"
MAX_SERVICES = 300
MAX_LISTINGS = 20
"""Directories whose names are kept, those listed last."""
MAX_NAMES = 400
"""Of one directory."""
MAX_NAME_CHARS = 400
MAX_WRITTEN = 100_000
"""Bytes of all names of files together, as they are written: with as many services they fit into the file."""
_AROUND = 10
"""Bytes around a name there."""

Service = tuple[UserId, ServiceName]
Directory = tuple[UserId, ServiceName, str]
"""A path in a service; empty for its root."""


@dataclass(slots=True)
class KnownServices:
    """What is known, the latest last."""

    kinds: dict[Service, ServiceKind | None] = field(default_factory=dict)
    """The services, and what each is for."""
    listings: dict[Directory, tuple[str, ...]] = field(default_factory=dict)
    """The names in a directory; those of directories end in a slash."""

    @property
    def peers(self) -> tuple[UserId, ...]:
        return tuple(dict.fromkeys(peer for peer, _ in self.kinds))

    def see_services(
        self, found: Mapping[UserId, Iterable[ServiceName]], kinds: Mapping[Service, ServiceKind], *, all_peers: bool
    ) -> None:
        """Take over what a peer has listed, or the bot of all peers, in the place of what was known before."""
        kept = {} if all_peers else {key: kind for key, kind in self.kinds.items() if key[0] not in found}
        for peer, names in found.items():
            kept |= {(peer, name): kinds.get((peer, name)) for name in names}
        self.kinds = kept
        self._bound()

    def see_files(self, directory: Directory, names: Iterable[str]) -> None:
        """Take over what is in a directory of a service."""
        self.kinds.setdefault(directory[:2], None)
        self.listings.pop(directory, None)
        self.listings[directory] = tuple(names)
        self._bound()

    def _bound(self) -> None:
        self.kinds = dict(list(self.kinds.items())[-MAX_SERVICES:])
        bounded: dict[Directory, tuple[str, ...]] = {}
        left = MAX_WRITTEN
        for directory, names in list(self.listings.items())[::-1][:MAX_LISTINGS]:
            kept = tuple(name for name in names if 0 < len(name) <= MAX_NAME_CHARS)[:MAX_NAMES]
            left -= sum(len(json.dumps(name)) + _AROUND for name in (directory[2], *kept))
            if left < 0:
                break
            bounded[directory] = kept
        self.listings = dict(list(bounded.items())[::-1])


def load_known(state: StateFolder, user: UserId) -> KnownServices:
    """Read what is known to a user; nothing where the file cannot be read, or is of another login."""
    data = state.load_cache(FILE)
    known = KnownServices()
    if data.get("user") != user:
        return known
    try:
        for peer, services in _items(data.get("services")):
            for name, kind in _items(services):
                key = parse_user_id(peer), parse_service_name(name)
                known.kinds[key] = next((each for each in ServiceKind if each.value == kind), None)
        listings = data.get("files")
        for each in listings if isinstance(listings, list) else ():
            peer, name, path, names = each
            if isinstance(path, str) and isinstance(names, list) and all(isinstance(entry, str) for entry in names):
                known.listings[parse_user_id(peer), parse_service_name(name), path] = tuple(names)
    except (EventError, TypeError, ValueError):
        return KnownServices()
    known._bound()
    return known


def save_known(state: StateFolder, user: UserId, known: KnownServices) -> None:
    """Keep what is known; where nothing can be written, completion knows less."""
    services: dict[str, dict[str, str | None]] = {}
    for (peer, name), kind in known.kinds.items():
        services.setdefault(peer, {})[name] = None if kind is None else kind.value
    files = [[*directory, list(names)] for directory, names in known.listings.items()]
    state.save_cache(FILE, {"user": user, "services": services, "files": files})


def _items(value: object) -> Iterable[tuple[str, object]]:
    return value.items() if isinstance(value, Mapping) else ()
