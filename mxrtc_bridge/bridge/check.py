"""What can be checked only by asking others: database, homeserver, the way back from it, TURN, targets."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from mxrtc_bridge.bridge.config_mapping import profiles
from mxrtc_bridge.bridge.devices.devices import why_impossible
from mxrtc_bridge.bridge.devices.identities import BridgeIdentities
from mxrtc_bridge.config import Config, Finding, Level
from mxrtc_bridge.config.config import EncryptionMode
from mxrtc_bridge.core.access.targets import AppendTarget, FilesTarget, ReadTarget
from mxrtc_bridge.core.errors import HomeserverError, LocalError, MxrtcError, TargetError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.core.webrtc.ice import IcePolicy, IceServer
from mxrtc_bridge.matrix.api.homeserver import Homeserver
from mxrtc_bridge.matrix.api.ping import ping
from mxrtc_bridge.matrix.api.transport import RetryPolicy, Transport
from mxrtc_bridge.matrix.virtual_users import Consent, VirtualUsers
from mxrtc_bridge.metrics import Metrics
from mxrtc_bridge.rtc.certificates import NoCertificates
from mxrtc_bridge.rtc.factory import AiortcPeerFactory
from mxrtc_bridge.rtc.settings import RtcSettings
from mxrtc_bridge.sinks.connector import TargetConnector
from mxrtc_bridge.storage.tables import open_stores
from mxrtc_bridge.web.appservice import AppserviceEndpoint
from mxrtc_bridge.web.server import Server

PATIENCE_S = 5.0
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


async def check(config: Config) -> list[Finding]:
    """Check all that needs the network; every finding comes with its fix."""
    findings = [await _check_database(config), _check_encryption(config), NOT_SHOWN]
    transport = Transport(config.homeserver.address, config.appservice.as_token, retry=RetryPolicy(total_s=PATIENCE_S))
    async with Homeserver(transport) as homeserver:
        findings += [finding async for finding in _check_homeserver(config, homeserver)]
        if all(finding.level is not Level.FAIL for finding in findings):
            findings.append(await _check_own_users(config, homeserver, transport))
    findings += [finding async for finding in _check_targets(config)]
    return findings


async def _check_database(config: Config) -> Finding:
    try:
        async with open_stores(config.database):
            return Finding(Level.OK, "the database opens")
    except MxrtcError as error:
        return Finding(Level.FAIL, f"the database does not open: {error}", "correct database: in the configuration")


def _check_encryption(config: Config) -> Finding:
    settings = config.encryption
    why = why_impossible(settings)
    if why is None:
        kept = "the configuration" if settings.key is not None else str(settings.key_file)
        return Finding(Level.OK, f"encrypted rooms can be understood; the key of all identities is in {kept}")
    fix = "set encryption.enabled to auto" if settings.mode is EncryptionMode.OFF else "pip install vodozemac"
    level = Level.FAIL if settings.mode is EncryptionMode.ON else Level.WARN
    return Finding(level, f"calls from encrypted rooms are not understood: {why}", fix)


async def _check_homeserver(config: Config, homeserver: Homeserver) -> AsyncIterator[Finding]:
    address = config.homeserver.address
    try:
        versions = await homeserver.versions()
    except HomeserverError as error:
        yield Finding(Level.FAIL, f"the homeserver does not answer: {error}", "correct homeserver.address, or start it")
        return
    yield Finding(Level.OK, f"the homeserver at {address} answers (up to {versions[-1] if versions else 'unknown'})")
    try:
        identity = await homeserver.whoami()
    except HomeserverError as error:
        yield Finding(
            Level.FAIL,
            f"the homeserver does not know the as_token: {error}",
            "add registration.yaml to app_service_config_files in homeserver.yaml and restart the homeserver",
        )
        return
    if not identity.user_id.endswith(f":{config.homeserver.domain}"):
        yield Finding(
            Level.FAIL,
            f"the homeserver's users are like {identity.user_id}, the configuration says {config.homeserver.domain}",
            "correct homeserver.domain",
        )
        return
    yield Finding(Level.OK, "the homeserver accepts the as_token")
    yield await _check_way_back(config, homeserver)
    async for finding in _check_turn(config, homeserver):
        yield finding


async def _check_own_users(config: Config, homeserver: Homeserver, transport: Transport) -> Finding:
    """Whether a start would stop because of accounts or identities that are not the bridge's."""
    try:
        async with open_stores(config.database) as stores:
            own_users = VirtualUsers(
                homeserver,
                stores.own_users,
                BridgeIdentities(config, transport),
                consent=Consent(),
                wall_ms=lambda: 0,
                taken_over=lambda _user, _what: None,
            )
            await own_users.load()
            refused = await own_users.refusals([profile.user_id for profile in profiles(config)])
    except MxrtcError as error:
        return Finding(Level.WARN, f"whose accounts the peers have could not be found out: {error}", "try again")
    if refused:
        what = ", ".join(f"{user} {why.value}" for user, why in sorted(refused.items()))
        return Finding(Level.FAIL, f"the bridge would not start: {what}", own_users.explain(refused).replace("\n", " "))
    return Finding(Level.OK, "the accounts and identities of the peers are the bridge's, or still to be made")


async def _check_way_back(config: Config, homeserver: Homeserver) -> Finding:
    """Have the homeserver reach the bridge; where no bridge runs, stand in for it."""
    fix = f"the homeserver must reach {config.appservice.url}: correct appservice.url and listen, then register again"
    try:
        endpoint = AppserviceEndpoint(_Answering(), token=config.appservice.hs_token, metrics=Metrics())
        async with Server(endpoint.application(), config.appservice.listen):
            duration = await ping(homeserver, config.appservice.id)
    except LocalError:
        # The address is taken, as a rule by the running bridge: then that one answers.
        try:
            duration = await ping(homeserver, config.appservice.id)
        except HomeserverError as error:
            return Finding(Level.FAIL, f"the homeserver does not reach the bridge: {error}", fix)
    except HomeserverError as error:
        return Finding(Level.FAIL, f"the homeserver does not reach the bridge: {error}", fix)
    return Finding(Level.OK, f"the homeserver reaches the bridge ({duration} ms)")


async def _check_turn(config: Config, homeserver: Homeserver) -> AsyncIterator[Finding]:
    servers = config.ice.servers
    if config.ice.use_homeserver_servers:
        try:
            # As the user that the registration itself has made: a check makes no accounts.
            servers = (*servers, *await homeserver.turn_server())
        except HomeserverError as error:
            yield Finding(
                Level.WARN, f"the homeserver gives no TURN servers: {error}", "set turn_uris in homeserver.yaml"
            )
            return
    urls = [url for server in servers for url in server.urls if url.startswith("turn")]
    if not urls:
        level = Level.FAIL if config.ice.policy is IcePolicy.RELAY else Level.WARN
        yield Finding(
            level,
            "there is no TURN server, so users behind strict firewalls cannot connect",
            "run coturn and set turn_uris and turn_shared_secret in homeserver.yaml",
        )
        return
    if await _relays(servers, config.ice.interfaces, config.appservice.bot):
        yield Finding(Level.OK, f"TURN gives a relayed address ({len(urls)} URIs)")
    else:
        yield Finding(
            Level.FAIL,
            f"none of {', '.join(urls[:4])} gives a relayed address",
            "check the secret, the ports and coturn's log",
        )


async def _relays(servers: tuple[IceServer, ...], interfaces: tuple[str, ...], local: UserId) -> bool:
    async def given(_local: UserId) -> tuple[IceServer, ...]:
        return servers

    settings = RtcSettings(policy=IcePolicy.RELAY, interfaces=interfaces)
    peer = await AiortcPeerFactory(settings, NoCertificates(), given).create(local)
    try:
        return " typ relay" in await peer.create_offer()
    except MxrtcError:
        return False
    finally:
        await peer.close()


def _check_file(name: str, target: AppendTarget | ReadTarget) -> Finding:
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
            if isinstance(service.target, FilesTarget):
                yield await asyncio.to_thread(_check_directory, name, service.target)
                continue
            if isinstance(service.target, AppendTarget | ReadTarget):
                yield _check_file(name, service.target)
                continue
            try:
                sink = await connector.connect(service.target)
            except TargetError as error:
                yield Finding(Level.WARN, f"{name}: {error}", f"start what should answer at {service.target}")
            else:
                sink.reset()
                yield Finding(Level.OK, f"{name} answers")


def _check_directory(name: str, target: FilesTarget) -> Finding:
    """Whether the bridge could use it: as whoever runs this check, who should be the bridge's user."""
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
