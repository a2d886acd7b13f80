"""What ``mxrtc`` completes beyond its own words: peers, services and remote files that earlier commands have seen."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import click
from click.shell_completion import CompletionItem

from mxrtc_bridge.cli.completion import items
from mxrtc_bridge.client.accounts import Accounts
from mxrtc_bridge.client.exit_codes import ClientError
from mxrtc_bridge.client.known_services import KnownServices, Service, load_known
from mxrtc_bridge.client.state import StateFolder
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.stream.messages import ServiceKind

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]

GIVING = frozenset({ServiceKind.SHARE, ServiceKind.FILES})
TAKING = frozenset({ServiceKind.INBOX, ServiceKind.FILES})
STREAMS = frozenset({ServiceKind.STREAM})
ALL = frozenset(ServiceKind)


def peers(context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete a peer."""
    known, written = _known(context, begun)
    return items([(written(peer), "") for peer in known.peers], begun)


def services(kinds: frozenset[ServiceKind]) -> Completer:
    """Complete a service of one of these kinds."""

    def complete(context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem[str]]:
        known, written = _known(context, begun)
        return items(list(_services(known, written, kinds)), begun)

    return complete


def remote_files(context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete a file behind a service that gives files, or the service."""
    known, written = _known(context, begun)
    listed = {directory[:2] for directory in known.listings}
    found = [
        (f"{name}:" if service in listed else name, kind)
        for service, name, kind in _named(known, written)
        if _fits(known, service, GIVING)
    ]
    for (peer, service, path), names in known.listings.items():
        place = f"{written(peer)}/{service}:{f'{path}/' if path else ''}"
        if begun.startswith(place):
            found += [(place + name, "") for name in names]
    return items(found, begun)


def paths_or_inboxes(context: click.Context, _argument: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete what is to be sent, and behind it whom to."""
    known, written = _known(context, begun)
    fitting = items(list(_services(known, written, TAKING)), begun)
    # With one word click takes it for the peer, as that is what has to be there.
    has_paths = context.params.get("paths") or context.params.get("peer")
    return fitting if fitting and has_paths else [CompletionItem(begun, type="file")]


def listens(context: click.Context, _option: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete the service in ``[BIND:]PORT=SERVICE``; of which peer is not known while an option has no value yet."""
    port, equals, _ = begun.rpartition("=")
    known, _ = _known(context, "")
    streams = (service for (_, service), kind in known.kinds.items() if kind is None or kind in STREAMS)
    return items([(f"{port}={service}", "") for service in dict.fromkeys(streams) if equals], begun)


def interfaces(_context: click.Context, _option: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete the name of a network interface."""
    return items([(name, "") for _, name in socket.if_nameindex()], begun)


def accounts(context: click.Context, _option: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """Complete the name of an account in which somebody is logged in."""
    try:
        return items([(each.name, "") for each in _accounts(context).found()], begun)
    except (ClientError, LocalError):
        return []


def _accounts(context: click.Context) -> Accounts:
    named = context.find_root().params.get("state")
    return Accounts(StateFolder(named)) if isinstance(named, Path) else Accounts.default()


def _known(context: click.Context, begun: str) -> tuple[KnownServices, Callable[[UserId], str]]:
    """What is known, and how a peer is written: in full where somebody has begun so."""
    account = context.find_root().params.get("account")
    state = _accounts(context).folder(account if isinstance(account, str) else None)
    try:
        login = state.load_login()
    except (ClientError, LocalError):
        return KnownServices(), str
    if begun.startswith("@"):
        return load_known(state, login.user_id), str
    return load_known(state, login.user_id), login.name_of


def _services(
    known: KnownServices, written: Callable[[UserId], str], kinds: frozenset[ServiceKind]
) -> Iterator[tuple[str, str]]:
    yield from ((name, kind) for service, name, kind in _named(known, written) if _fits(known, service, kinds))


def _named(known: KnownServices, written: Callable[[UserId], str]) -> Iterator[tuple[Service, str, str]]:
    for service, kind in known.kinds.items():
        yield service, f"{written(service[0])}/{service[1]}", "" if kind is None else kind.value


def _fits(known: KnownServices, service: Service, kinds: frozenset[ServiceKind]) -> bool:
    kind = known.kinds[service]
    return kind is None or kind in kinds
