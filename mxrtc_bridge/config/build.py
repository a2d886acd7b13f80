"""From validated sections to a ``Config``: everything that needs more than one key to be judged.

Mistakes are reported to a collector and do not stop the others from being found; a ``Config`` exists only when
there was none. Sections are independent, so those without mistakes are judged even when others could not be read.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from urllib.parse import quote, unquote, urlsplit

from mxrtc_bridge.config import schema, values
from mxrtc_bridge.config.access import SubjectReader
from mxrtc_bridge.config.config import AppserviceSettings, AuditSettings, IceSettings, PeerSettings, ServiceSettings
from mxrtc_bridge.config.file_services import build_files, shared_directories
from mxrtc_bridge.config.privileged_sockets import what_it_controls
from mxrtc_bridge.config.problems import Complain, KeyPath, quoted
from mxrtc_bridge.config.secrets import complaint_about_token, find_secret, read_secret_file
from mxrtc_bridge.core.access.targets import FilesTarget, Target, TcpTarget, UnixTarget
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.ids import MAX_ID_CHARS, ServiceName, UserId
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy, IpNetwork
from mxrtc_bridge.core.webrtc.ice import IcePolicy, parse_advertised
from mxrtc_bridge.core.webrtc.ice_servers import IceServer


def build_appservice(
    section: schema.AppserviceSection, domain: str, folder: Path, environ: Mapping[str, str], complain: Complain
) -> AppserviceSettings:
    """Judge names, address and tokens of the application service."""
    listen = values.parse_listen(section.listen)
    url = section.url
    if url is None and isinstance(listen, values.TcpListen) and not ipaddress.ip_address(listen.host).is_unspecified:
        url = f"http://{listen}"
    if url is None:
        text = f"needed because the homeserver cannot call {section.listen}; write where it reaches the bridge"
        complain(("appservice", "url"), text)
    sender = section.sender_localpart
    if sender is not None and (sender == section.bot or sender.startswith(section.peer_prefix)):
        complain(("appservice", "sender_localpart"), "must be neither the bot nor one of the peers; use a random word")
    tokens = {name: _token(name, section, folder, environ, complain) for name in ("hs_token", "as_token")}
    if tokens["hs_token"] and tokens["hs_token"] == tokens["as_token"]:
        complain(("appservice", "as_token"), "must not be the same as hs_token")
    return AppserviceSettings(
        id=section.id,
        listen=listen,
        url=url or "",
        bot=UserId(f"@{section.bot}:{domain}"),
        peer_prefix=section.peer_prefix,
        sender_localpart=sender,
        hs_token=tokens["hs_token"],
        as_token=tokens["as_token"],
    )


def _token(
    name: str, section: schema.AppserviceSection, folder: Path, environ: Mapping[str, str], complain: Complain
) -> str:
    inline, file = getattr(section, name), getattr(section, f"{name}_file")
    if inline is not None and file is not None:
        complain(("appservice", name), f"give {name} or {name}_file, not both")
        return ""
    try:
        token = find_secret(name, inline, file, folder, environ)
    except ConfigError as error:
        complain(("appservice", f"{name}_file"), str(error))
        return ""
    if token is None:
        complain(("appservice", name), f"there is no token; set {name}, {name}_file or $MXRTC_{name.upper()}")
        return ""
    complaint = complaint_about_token(token)
    if complaint is not None:
        complain(("appservice", name), complaint)
    return token


def build_database(text: str, folder: Path, environ: Mapping[str, str], complain: Complain) -> str:
    """Return the database's URL, with an absolute path for a file. The text may hold a password and is never shown."""
    try:
        url = find_secret("database", text, None, folder, environ) or text
    except ConfigError as error:
        complain(("database",), str(error))
        return ""
    scheme, _, rest = url.partition(":")
    if scheme == "sqlite":
        name = unquote(rest.removeprefix("//") if rest.startswith("///") else rest)
        if not name or name.startswith("//") or name.endswith("/") or ":memory:" in name or "\0" in name:
            complain(
                ("database",), "is not sqlite:FILE, like sqlite:mxrtc-bridge.db or sqlite:/var/lib/mxrtc/bridge.db"
            )
        return f"sqlite://{quote(str((folder / name).absolute()))}"
    try:
        usable = scheme in ("postgres", "postgresql") and bool(urlsplit(url).path.strip("/"))
    except ValueError:
        usable = False
    if not usable:
        complain(("database",), "is neither sqlite:FILE nor postgres://USER:PASSWORD@HOST/NAME")
    return url


def build_peers(
    sections: Mapping[str, schema.PeerSection],
    subjects: SubjectReader,
    appservice: schema.AppserviceSection,
    domain: str,
    complain: Complain,
) -> dict[str, PeerSettings]:
    """Return the peers by their name in the file; all names of groups must exist."""
    peers = {}
    for name, section in sections.items():
        path: KeyPath = ("peers", name)
        user_id = f"@{appservice.peer_prefix}{name}:{domain}"
        if user_id == f"@{appservice.bot}:{domain}":
            complain(path, f"would have the same user id as the bot, {user_id}; rename one of them")
        if len(user_id) > MAX_ID_CHARS:
            complain(path, f"the user id {user_id[:40]}... would have {len(user_id)} characters; Matrix allows 255")
        services = {
            ServiceName(service): _service(service, value, subjects, (*path, "services", service), complain)
            for service, value in section.services.items()
        }
        settings = PeerSettings(name, UserId(user_id), section.displayname or name, MappingProxyType(services))
        peers[name] = settings
    for path, text in shared_directories(peers):
        complain(path, text)
    return peers


def _service(
    name: str, section: schema.ServiceSection, subjects: SubjectReader, path: KeyPath, complain: Complain
) -> ServiceSettings:
    return ServiceSettings(
        name=ServiceName(name),
        target=_target_or_files(section, path, complain),
        raw=section.raw,
        max_streams=section.limits.streams,
        idle_s=section.limits.idle,
        grantable_to=subjects.read(section.grantable_to),
        listed=section.listed,
    )


def _target_or_files(section: schema.ServiceSection, path: KeyPath, complain: Complain) -> Target | FilesTarget:
    if section.files is not None:
        return build_files(section, section.files, path, complain)
    if section.target is None:
        complain(path, "give target (where streams of bytes lead) or files (a directory)")
        return UnixTarget("")
    return _target(section, values.parse_target(section.target), path, complain)


def _target(section: schema.ServiceSection, target: Target, path: KeyPath, complain: Complain) -> Target:
    expect = tuple(values.parse_network(text) for text in section.expect)
    if isinstance(target, TcpTarget):
        _check_expect(target, expect, path, complain)
        return replace(target, expect=expect, connect_timeout_s=section.connect_timeout)
    controls = what_it_controls(target.path) if isinstance(target, UnixTarget) else None
    if controls is not None and not section.i_know_this_is_root:
        text = f"{quoted(target.path)} controls {controls}, and so this machine"
        complain((*path, "target"), f"{text}; if you mean it, add i_know_this_is_root: true")
    if expect:
        complain((*path, "expect"), "is for TCP targets; a path has no network")
    return replace(target, connect_timeout_s=section.connect_timeout)


def _check_expect(target: TcpTarget, expect: tuple[IpNetwork, ...], path: KeyPath, complain: Complain) -> None:
    address = values.parse_address(target.host)
    if expect and address is not None and not any(address in network for network in expect):
        complain((*path, "expect"), f"does not hold the target's own address {address}, so nothing could be reached")


def build_ice(section: schema.IceSection, folder: Path, complain: Complain) -> IceSettings:
    """Judge servers, ports and addresses."""
    servers = tuple(
        _ice_server(server, ("ice", "servers", index), folder, complain)
        for index, server in enumerate(section.servers or [])
    )
    if section.policy == "relay" and section.servers is not None and not any(each.turn_urls for each in servers):
        complain(("ice", "policy"), "relay needs a TURN server, but ice.servers names none")
    return IceSettings(
        use_homeserver_servers=section.servers is None,
        servers=servers,
        policy=IcePolicy(section.policy),
        interfaces=tuple(section.interfaces),
        advertise=tuple(map(parse_advertised, section.advertise)),
        port_range=_port_range(section.port_range, complain),
        remote=AddressPolicy(
            private=section.remote.private,
            loopback=section.remote.loopback,
            allow=tuple(values.parse_network(text) for text in section.remote.allow),
            deny=tuple(values.parse_network(text) for text in section.remote.deny),
        ),
    )


def _port_range(ports: list[int] | None, complain: Complain) -> tuple[int, int] | None:
    if ports is None:
        return None
    first, last = ports
    if first > last:
        complain(("ice", "port_range"), f"the first port {first} is larger than the last one {last}")
    return first, last


def _ice_server(section: schema.IceServerSection, path: KeyPath, folder: Path, complain: Complain) -> IceServer:
    credential = section.credential
    if section.credential_file is not None:
        if credential is not None:
            complain((*path, "credential"), "give credential or credential_file, not both")
        try:
            credential = read_secret_file(folder / section.credential_file)
        except ConfigError as error:
            complain((*path, "credential_file"), str(error))
            return IceServer(tuple(section.urls))
    server = IceServer(tuple(section.urls), section.username or "", credential or "")
    if server.turn_urls and not (server.username and server.credential):
        complain(path, "a TURN server needs username and credential (or credential_file)")
    return server


AUDIT_FILE = "audit.jsonl"


def build_audit(section: schema.AuditSection, beside: Path, folder: Path) -> AuditSettings:
    """Say where the audit is kept.

    Args:
        section: the section.
        beside: the folder of the database, where it lies by default.
        folder: what relative paths are relative to.
    """
    file = beside / AUDIT_FILE if section.file is None else folder / section.file
    return AuditSettings(file, section.max_size, section.keep)


CONTROL_SOCKET = "control.sock"
_MAX_SOCKET_BYTES = 107
"""Of the path of a unix socket (unix(7), sun_path)."""


def build_control(section: schema.ControlSection, beside: Path, folder: Path, complain: Complain) -> Path | None:
    """Say where the control socket is, or None where there is none.

    Args:
        section: the section.
        beside: the folder of the database, where it lies by default.
        folder: what relative paths are relative to.
        complain: told each mistake.
    """
    if not section.enabled:
        return None
    path = (beside / CONTROL_SOCKET if section.socket is None else folder / section.socket).absolute()
    if len(bytes(path)) > _MAX_SOCKET_BYTES:
        complain(("control", "socket"), f"{quoted(str(path))} is longer than {_MAX_SOCKET_BYTES} bytes; choose another")
        return None
    return path
