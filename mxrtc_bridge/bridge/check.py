"""What can be checked only by asking others: database, disks, homeserver, the way back from it, targets.

What it says of the network is in :mod:`mxrtc_bridge.bridge.network_check`.

One file: it is one list of questions, in the order in which the first cause leaves out what comes of it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

from mxrtc_bridge.bridge.config_mapping import profiles, proxy_of
from mxrtc_bridge.bridge.devices.identities import BridgeIdentities
from mxrtc_bridge.bridge.devices.identity_key import why_impossible
from mxrtc_bridge.bridge.network_check import check_network
from mxrtc_bridge.config.config import Config, EncryptionMode
from mxrtc_bridge.config.problems import Finding, Level
from mxrtc_bridge.config.secrets import read_secret_file
from mxrtc_bridge.config.values import TcpListen, UnixListen
from mxrtc_bridge.core.access.targets import AppendTarget, FilesTarget, ReadTarget
from mxrtc_bridge.core.errors import (
    ConfigError,
    HomeserverError,
    LocalError,
    MxrtcError,
    StateError,
    TargetError,
)
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.core.text.display import size_words
from mxrtc_bridge.engine.side_by_side import each
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.ping import UNKNOWN_TOKEN, ping
from mxrtc_bridge.matrix.api.transport import RequestPolicy, RetryPolicy, Transport
from mxrtc_bridge.matrix.rooms.successions import MAX_SUCCESSORS
from mxrtc_bridge.matrix.virtual_users import MAX_NAMED, NOT_OUR_NAMES, AdminConsent, VirtualUsers
from mxrtc_bridge.metrics import Metrics
from mxrtc_bridge.sinks.connector import TargetConnector
from mxrtc_bridge.storage.disk_space import FULL_BYTES, LOW_BYTES, space_left
from mxrtc_bridge.storage.file_lock import database_file, is_in_use
from mxrtc_bridge.storage.inspection import DatabaseLook, look
from mxrtc_bridge.web.appservice import AppserviceEndpoint
from mxrtc_bridge.web.metrics import metrics_application
from mxrtc_bridge.web.server import Server

PATIENCE_S = 5.0
ROOMS_AT_ONCE = 8
NOT_SHOWN = Finding(
    Level.OK,
    "devices of callers are asked for at each call and every 15 seconds; homeservers do not show that an account is "
    "locked or suspended: to keep one out, put it on deny (and mxrtc-bridge kick for a single session)",
)


class _Answering:
    """Stands in for a bridge that does not run, so that the homeserver's ping has somebody to reach."""

    ready = True

    def look(self, events: Sequence[object]) -> None:
        """A check takes nothing away: it refuses what comes, so that the bridge gets it."""

    async def accept(self, txn_id: str, events: Sequence[object]) -> None:
        # Nothing may be taken from the homeserver's queue here: the running bridge must get it.
        raise LocalError(f"transaction {txn_id[:20]} with {len(events)} events came during a check")

    def knows_user(self, user_id: str) -> bool:  # noqa: ARG002 - nobody is known to a check
        return False


class _Seen:
    """The users that the database knows of; a check notes nothing."""

    def __init__(self, users: Mapping[UserId, str]) -> None:
        self._users = users

    async def all(self) -> Mapping[UserId, str]:
        return self._users

    async def remember(self, user: UserId, how: str, now_ms: int) -> None:
        raise StateError(f"{user} is not noted as {how} by a check at {now_ms}")

    async def forget(self, user: UserId) -> None:
        raise StateError(f"{user} is not forgotten by a check")


async def check(config: Config) -> list[Finding]:
    """Check all that needs the network; every finding comes with its fix.

    Nothing is written anywhere: no file, no table, no account. What a bridge would find wrong at its start fails here;
    where one cause has others, the first one is named, and what can only be said behind it is left out.
    """
    seen, database = await _check_database(config)
    runs = await _is_running(config)
    findings = [database, *await asyncio.to_thread(_check_disks, config)]
    findings += [await asyncio.to_thread(_check_encryption, config), NOT_SHOWN]
    findings += [finding async for finding in _check_listeners(config, runs=runs)]
    policy = RequestPolicy(RetryPolicy(total_s=PATIENCE_S))
    transport = Transport(config.homeserver.address, config.appservice.as_token, policy, proxy=proxy_of(config))
    async with Homeserver(transport) as homeserver:
        findings += [finding async for finding in _check_homeserver(config, homeserver, runs=runs)]
        if seen is not None and all(finding.level is not Level.FAIL for finding in findings):
            findings.append(await _check_own_users(config, homeserver, transport, seen))
            findings += await _check_rooms(config, homeserver)
    findings += [finding async for finding in _check_targets(config)]
    return findings


async def _check_database(config: Config) -> tuple[DatabaseLook | None, Finding]:
    try:
        seen = await look(config.database)
    except MxrtcError as error:
        fix = "correct database: in the configuration, or give the bridge's user what it names"
        return None, Finding(Level.FAIL, f"the database cannot be used: {error}", fix)
    return seen, Finding(Level.OK, "the database is made at the first start" if seen.is_new else "the database opens")


def _check_disks(config: Config) -> list[Finding]:
    """Whether the bridge can go on writing what it takes no sessions without."""
    findings = []
    for what, file in {"the database": database_file(config.database), "the audit": config.audit.file}.items():
        left = None if file is None else space_left(file)
        if left is not None and left < LOW_BYTES:
            findings.append(
                Finding(
                    Level.FAIL if left < FULL_BYTES else Level.WARN,
                    f"the disk of {what} has {size_words(left)} left; without room no new sessions are taken",
                    f"make room where {file} is; the bridge then goes on by itself",
                )
            )
    return findings


async def _is_running(config: Config) -> bool:
    """Whether a bridge listens at the control socket; without one, whether one holds the database file."""
    if config.control_socket is None:
        return await asyncio.to_thread(is_in_use, config.database)
    try:
        _, writer = await asyncio.open_unix_connection(str(config.control_socket))
    except OSError:
        return False
    writer.close()
    return True


def _check_encryption(config: Config) -> Finding:
    settings = config.encryption
    level = Level.FAIL if settings.mode is EncryptionMode.ON else Level.WARN
    why = why_impossible(settings)
    if why is not None:
        fix = "set encryption.enabled to auto" if settings.mode is EncryptionMode.OFF else "pip install vodozemac"
        return Finding(level, f"calls from encrypted rooms are not understood: {why}", fix)
    kept = "is in the configuration"
    if settings.key is None:
        kept = f"will be made at the first start, in {settings.key_file}; keep a copy of it then"
        if os.path.lexists(settings.key_file):
            try:
                read_secret_file(settings.key_file)  # and not in the way that makes one
            except ConfigError as error:
                what, _, fix = str(error).partition("; run: ")
                return Finding(level, f"the key of all identities cannot be used: {what}", fix or "put its file back")
            kept = f"is in {settings.key_file}"
        elif not os.access(settings.key_file.parent, os.W_OK | os.X_OK, effective_ids=True):
            what = f"the key of all identities cannot be made: {settings.key_file.parent} cannot be written to"
            return Finding(level, what, "make the folder, for the user that runs the bridge")
    return Finding(Level.OK, f"encrypted rooms can be understood; the key of all identities {kept}")


async def _check_listeners(config: Config, *, runs: bool) -> AsyncIterator[Finding]:
    """Whether the addresses are free, but for the one that the homeserver calls, which is tried with it."""
    listen = config.metrics_listen
    if runs or not isinstance(listen, TcpListen):
        return
    try:
        async with Server(metrics_application(lambda: b""), listen):
            pass
    except LocalError as error:
        yield Finding(Level.FAIL, f"the metrics: {error}", "choose another address for metrics.listen")


async def is_registered(config: Config) -> bool:
    """Whether the homeserver has read the registration; not, where it does not answer."""
    policy = RequestPolicy(RetryPolicy(total_s=PATIENCE_S))
    transport = Transport(config.homeserver.address, config.appservice.as_token, policy, proxy=proxy_of(config))
    async with Homeserver(transport) as homeserver:
        try:
            await homeserver.whoami()
        except HomeserverError:
            return False
    return True


async def _check_homeserver(config: Config, homeserver: Homeserver, *, runs: bool) -> AsyncIterator[Finding]:
    address = config.homeserver.address
    try:
        versions = await homeserver.versions()
        identity = await homeserver.whoami()
    except HomeserverError as error:
        if error.errcode in UNKNOWN_TOKEN:
            yield Finding(Level.FAIL, f"the homeserver does not know the as_token: {error}", _to_register(config))
        else:
            what = (
                "the homeserver does not answer" if error.retryable else "what answers is no homeserver for this bridge"
            )
            way = "it must lead to the client-server API, past no login and no other page"
            yield Finding(Level.FAIL, f"{what}: {error}", f"correct homeserver.address ({way}), or start it")
        return
    yield Finding(Level.OK, f"the homeserver at {address} answers (up to {versions[-1] if versions else 'unknown'})")
    # As it is written: of names that differ in capitals only, the homeserver knows one.
    if identity.user_id.partition(":")[2] != config.homeserver.domain:
        yield Finding(
            Level.FAIL,
            f"the homeserver's users are like {identity.user_id}, the configuration says {config.homeserver.domain}",
            "correct homeserver.domain",
        )
        return
    yield Finding(Level.OK, "the homeserver accepts the as_token")
    async for finding in _check_names(config, homeserver):
        yield finding
    yield await _check_way_back(config, homeserver, runs=runs)
    async for finding in check_network(config.ice, homeserver):
        yield finding


def _to_register(config: Config) -> str:
    """What to do about a token that the homeserver does not know, by what the registration beside the file holds."""
    fix = "list the registration file under app_service_config_files in homeserver.yaml and restart the homeserver"
    return f"{fix}; as_token must be the same there and in {config.path}"


async def _check_names(config: Config, homeserver: Homeserver) -> AsyncIterator[Finding]:
    """Whether the registration gives us the names of the bot and the peers; asked without making anybody."""
    others: list[UserId] = []
    unknown: HomeserverError | None = None
    for profile in profiles(config):
        try:
            await homeserver.whoami(profile.user_id)
        except HomeserverError as error:
            # Synapse says by the same code whether a user is not in our namespace, or only not there yet.
            if error.errcode == "M_EXCLUSIVE" or "masquerade" in str(error):
                others.append(profile.user_id)
            elif "has not registered" not in str(error):
                unknown = error
    if others:
        shown = ", ".join(others[:MAX_NAMED]) + (f" and {len(others) - MAX_NAMED} more" if others[MAX_NAMED:] else "")
        yield Finding(Level.FAIL, f"the homeserver does not give this bridge the names {shown}", NOT_OUR_NAMES)
    elif unknown is not None:
        what = f"whether the registration gives this bridge the names of its peers is not told: {unknown}"
        yield Finding(Level.WARN, what, "start the bridge: it says which name is refused")
    else:
        yield Finding(Level.OK, "the registration gives this bridge the names of the bot and all peers")


async def _check_own_users(config: Config, homeserver: Homeserver, transport: Transport, seen: DatabaseLook) -> Finding:
    """Whether a start would stop, or leave peers out, because of accounts or identities that are not the bridge's."""
    own_users = VirtualUsers(
        homeserver,
        _Seen(seen.own_users),
        BridgeIdentities(config, transport),
        consent=AdminConsent(),
        wall_ms=lambda: 0,
        taken_over=lambda _user, _what: None,
    )
    try:
        await own_users.load()
        refused = await own_users.refusals([profile.user_id for profile in profiles(config)])
    except MxrtcError as error:
        return Finding(Level.WARN, f"whose accounts the peers have could not be found out: {error}", "try again")
    if refused:
        what = ", ".join(f"{user} {why.value}" for user, why in sorted(refused.items()))
        ends = own_users.nobody_serves(config.appservice.bot, [peer.user_id for peer in config.peers.values()])
        first = "the bridge would not start" if ends else "not everybody is served"
        return Finding(Level.FAIL, f"{first}: {what}", own_users.explain(refused).replace("\n", " "))
    return Finding(Level.OK, "the accounts and identities of the peers are the bridge's, or still to be made")


async def _check_rooms(config: Config, homeserver: Homeserver) -> list[Finding]:
    """Name the rooms that were upgraded, and those that the bot is not in: it was not invited, or was removed."""
    named = {str(room): "grants or grantable_to" for room in config.member_rooms}
    named |= {str(room): "policy_lists" for room in config.policy_lists}
    named |= {room: f"rooms.{key}" for key, room in config.rooms.named().items()}
    bot, replaced, absent = config.appservice.bot, dict[str, RoomId](), dict[str, str]()
    try:
        joined = frozenset(await homeserver.joined_rooms(bot))
    except HomeserverError:
        joined = None  # there is no bot before the first start, which joins where it may

    async def look_at(name: str) -> None:
        try:
            room = RoomId(name) if name.startswith("!") else await homeserver.resolve_alias(name, bot)
        except HomeserverError as error:
            if error.is_outside and joined is not None:
                absent[name] = f"{name} leads to no room, and {named[name]} names it"
            return
        try:
            for _ in range(MAX_SUCCESSORS):
                if (new := await homeserver.replaced_by(room, bot)) is None:
                    break
                replaced[name] = room = new
        except HomeserverError:
            pass  # as the bot is not in it
        if joined is not None and room not in joined:
            meant = "" if name == room else f"; it is {name}"
            absent[name] = f"the bot is not in {room}, which {named[name]} names{meant}"

    await each(named, look_at, ROOMS_AT_ONCE)
    return [
        Finding(
            Level.WARN,
            f"{name}, which {named[name]} names, was replaced by {new}, by what it says itself",
            f"write {new} in its place, if that is the room you mean; until then the bridge follows where it may enter",
        )
        for name, new in sorted(replaced.items())
    ] + [
        Finding(
            Level.WARN, what, f"invite {bot} there: without it nobody has a right by that room, and nothing is told"
        )
        for _, what in sorted(absent.items())
    ]


async def _check_way_back(config: Config, homeserver: Homeserver, *, runs: bool) -> Finding:
    """Have the homeserver reach the bridge; where no bridge runs, stand in for it."""
    listen = config.appservice.listen
    if not runs and isinstance(listen, UnixListen):
        what = f"whether the homeserver reaches the bridge cannot be tried: no bridge runs, and {listen} is a file"
        return Finding(Level.WARN, what, "start the bridge, and check again")
    try:
        if runs:
            duration = await ping(homeserver, config.appservice.id)
        else:
            endpoint = AppserviceEndpoint(_Answering(), token=config.appservice.hs_token, metrics=Metrics())
            async with Server(endpoint.application(), listen):
                duration = await ping(homeserver, config.appservice.id)
    except LocalError as error:
        fix = "end what listens there, or choose another appservice.listen and register again"
        return Finding(Level.FAIL, f"no bridge runs, and its address is not free: {error}", fix)
    except HomeserverError as error:
        return _no_way_back(config, error)
    return Finding(Level.OK, f"the homeserver reaches the bridge ({duration} ms)")


def _no_way_back(config: Config, error: HomeserverError) -> Finding:
    fix = f"the homeserver must reach {config.appservice.url}: correct appservice.url and listen, then register again"
    match error.errcode:
        case "M_UNRECOGNIZED":
            what = f"whether the homeserver reaches the bridge is not told: it has no ping ({error})"
            return Finding(Level.WARN, what, f"see to it that it reaches {config.appservice.url}; calls show it")
        case "M_BAD_STATUS":
            fix = "give the homeserver the registration with the hs_token of this configuration, and restart it"
        case "M_FORBIDDEN":
            fix = "correct appservice.id, or write the registration anew, and give it to the homeserver"
    return Finding(Level.FAIL, f"the homeserver does not reach the bridge: {error}", fix)


def check_path(name: str, target: AppendTarget | ReadTarget | FilesTarget) -> Finding:
    """Whether a file or directory can be used by whoever runs this check, who should be the bridge's user."""
    try:
        return _check_directory(name, target) if isinstance(target, FilesTarget) else check_file(name, target)
    except PermissionError:
        what, fix = "is in a folder that is closed to this user", "open the folders above it"
    except OSError as error:
        what, fix = f"cannot be looked at: {(error.strerror or '').lower()}", "correct the path"
    return Finding(Level.WARN, f"{name}: {target.path} {what}", fix)


def check_file(name: str, target: AppendTarget | ReadTarget) -> Finding:
    """Look, but do not open: that would make the file, or wake whoever waits at the other end of a FIFO."""
    path, writes = Path(target.path), isinstance(target, AppendTarget)
    # An append service makes its file when it is first used.
    looked_at = path if path.exists() or not writes else path.parent
    if looked_at == path and not (path.is_file() or path.is_fifo()):
        return Finding(Level.WARN, f"{name}: there is no file or FIFO at its path", f"make one at {path}")
    if not os.access(looked_at, os.W_OK if writes else os.R_OK, effective_ids=True):
        return Finding(Level.WARN, f"{name}: this user may not use its file", f"check {looked_at}, its owner and mode")
    return Finding(Level.OK, f"{name} can be {'appended to' if writes else 'read'}")


async def _check_targets(config: Config) -> AsyncIterator[Finding]:
    connector = TargetConnector()
    for peer in config.peers.values():
        for service in peer.services.values():
            name = f"{peer.name}/{service.name}"
            if isinstance(service.target, FilesTarget | AppendTarget | ReadTarget):
                yield await asyncio.to_thread(check_path, name, service.target)
                continue
            try:
                sink = await connector.connect(service.target)
            except TargetError as error:
                yield Finding(Level.WARN, f"{name}: {error}", f"start what should answer at {service.target}")
            else:
                sink.reset()
                yield Finding(Level.OK, f"{name} answers")


def _check_directory(name: str, target: FilesTarget) -> Finding:
    path = Path(target.path)
    needed = os.X_OK | (os.R_OK if target.direction.sends else 0) | (os.W_OK if target.direction.receives else 0)
    if path.is_dir():
        if os.access(path, needed, effective_ids=True):
            return Finding(Level.OK, f"{name} can be used")
        return Finding(Level.WARN, f"{name}: {target.path} is not open to this user", "change its owner or mode")
    can_be_made = not path.exists() and os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True)
    if can_be_made and target.direction.receives:
        return Finding(Level.OK, f"{name}: {target.path} will be made")
    return Finding(
        Level.WARN, f"{name}: {target.path} is not a directory", "make it, for the user that runs the bridge"
    )
