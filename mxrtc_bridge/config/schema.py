"""The shape of the configuration file: names, types, bounds, defaults, and the text that explains each key.

The docstring below a key is the only place where it is described: the example file and the reference page are made
from it. The models are strict (text is never taken for a number) and know nothing of each other; whatever needs two
keys at once is checked in :mod:`mxrtc_bridge.config.build`. The rest of the program gets
:class:`mxrtc_bridge.config.config.Config`.

One file: every key of the configuration is described here and nowhere else, and is read from top to bottom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from mxrtc_bridge.config import values
from mxrtc_bridge.core.access.policy import parse_subject
from mxrtc_bridge.core.access.targets import GIB
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.core.webrtc.ice import parse_advertised


@dataclass(frozen=True, slots=True)
class Kind:
    """What a value is called in the reference and in messages."""

    text: str
    default: str | None = None
    """How the default is written in the file, where the value itself does not show it."""


def _checked_subject(text: str) -> str:
    if text.startswith("group:"):
        return text
    try:
        parse_subject(text)
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return text


def _checked_server(entry: object) -> object:
    """A bare URI is short for a server without credentials."""
    return {"urls": [entry]} if isinstance(entry, str) else entry


def _word(pattern: str) -> StringConstraints:
    return StringConstraints(pattern=rf"\A{pattern}\z")


Text = Annotated[str, StringConstraints(min_length=1, max_length=255), Kind("text")]
Secret = Annotated[str, StringConstraints(max_length=4096), Kind("text, secret")]
FilePath = Annotated[str, StringConstraints(min_length=1, max_length=4096), Kind("path")]
Duration = Annotated[float, BeforeValidator(values.parse_duration), Kind("duration")]
Time = Annotated[str, AfterValidator(lambda text: (values.parse_time(text), text)[1]), Kind("date or time")]
Size = Annotated[int, BeforeValidator(values.parse_size), Kind("size")]
Directory = Annotated[FilePath, AfterValidator(values.parse_directory), Kind("absolute path")]
FileMode = Annotated[int, BeforeValidator(values.parse_file_mode), Kind("mode")]
FileGroup = Annotated[str, BeforeValidator(values.parse_group), Kind("group")]
AllowedName = Annotated[Text, AfterValidator(values.parse_allowed_name), Kind("pattern")]
Target = Annotated[str, AfterValidator(lambda text: (values.parse_target(text), text)[1]), Kind("target")]
ListenText = Annotated[str, AfterValidator(lambda text: str(values.parse_listen(text))), Kind("listen address")]
Network = Annotated[str, AfterValidator(lambda text: str(values.parse_network(text))), Kind("network")]
Advertised = Annotated[str, AfterValidator(lambda text: str(parse_advertised(text))), Kind("IP address")]
Interface = Annotated[str, AfterValidator(values.parse_interface), Kind("interface or network")]
ServerName = Annotated[str, AfterValidator(values.parse_server_name), Kind("server name")]
HttpUrl = Annotated[str, AfterValidator(values.parse_http_url), Kind("URL")]
ProxyText = Annotated[str, AfterValidator(values.parse_proxy_text), Kind("proxy")]
IceUri = Annotated[str, AfterValidator(values.parse_ice_uri), Kind("STUN or TURN URI")]
Subject = Annotated[str, AfterValidator(_checked_subject), Kind("subject")]
UserText = Annotated[str, AfterValidator(values.parse_user), Kind("user id")]
RoomIdText = Annotated[str, AfterValidator(values.parse_room_id), Kind("room id")]
RoomText = Annotated[str, AfterValidator(values.parse_room), Kind("room id or alias")]
Localpart = Annotated[str, _word(r"[a-z0-9][a-z0-9._=-]{0,62}"), Kind("lower-case name")]
PeerName = Annotated[str, _word(r"[a-z0-9][a-z0-9._-]{0,62}"), Kind("lower-case name")]
GroupName = Annotated[str, _word(r"[a-z0-9][a-z0-9._-]{0,62}"), Kind("lower-case name")]
ServiceNameText = Annotated[str, _word(r"[a-z0-9._-]{1,63}"), Kind("service name")]
RuleName = Annotated[str, _word(r"[A-Za-z0-9][A-Za-z0-9._ -]{0,62}"), Kind("name")]
Reference = Annotated[str, _word(r"[a-z0-9._-]{1,63}(/[a-z0-9._-]{1,63})?"), Kind("PEER/SERVICE or PEER")]
Port = Annotated[int, Field(ge=1024, le=65535), Kind("port")]


MasterKey = Annotated[str, _word(r"[A-Za-z0-9+/]{43}"), Kind("public key")]


class Section(BaseModel):
    """Common settings of all sections."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        regex_engine="rust-regex",
        protected_namespaces=(),
    )


class HomeserverSection(Section):
    """The homeserver that the bridge belongs to."""

    address: HttpUrl
    """Client-server API of the homeserver, as the bridge reaches it."""
    domain: ServerName
    """Server name of the homeserver: the part after the colon of its user ids."""
    proxy: ProxyText | None = None
    """Proxy by which the bridge reaches it: http://, https:// or socks5://HOST:PORT, or none for no proxy whatever the
    environment says (HTTPS_PROXY, ALL_PROXY, NO_PROXY)."""


class AppserviceSection(Section):
    """How bridge and homeserver know and reach each other; the same values stand in registration.yaml."""

    id: Annotated[str, _word(r"[A-Za-z0-9._-]{1,64}"), Kind("name")] = "mxrtc"
    """Name of this application service at the homeserver."""
    listen: ListenText = "127.0.0.1:29350"
    """Where the bridge listens for the homeserver: ADDRESS:PORT or unix:/path."""
    url: HttpUrl | None = None
    """Where the homeserver reaches the bridge; made from `listen`, unless that is a unix socket or a wildcard."""
    bot: Localpart = "rtcbot"
    """Local part of the bridge's own user."""
    peer_prefix: Annotated[str, _word(r"[a-z0-9._=-]{1,32}"), Kind("lower-case text")] = "rtc_"
    """Local parts of peers begin with this; the bridge claims all such names for itself."""
    sender_localpart: Localpart | None = None
    """A user that the homeserver wants to exist and nobody uses: random. Only written to registration.yaml."""
    hs_token: Secret | None = None
    """Token that the homeserver shows to the bridge. Or hs_token_file, or the environment: MXRTC_HS_TOKEN,
    MXRTC_HS_TOKEN_FILE, or a file hs_token in $CREDENTIALS_DIRECTORY."""
    hs_token_file: FilePath | None = None
    """File that holds the token, mode 0600 or 0640; relative to this file."""
    as_token: Secret | None = None
    """Token that the bridge shows to the homeserver; same choices, with MXRTC_AS_TOKEN and as_token."""
    as_token_file: FilePath | None = None
    """File that holds the token."""


class ServiceLimitsSection(Section):
    """Limits of one service."""

    streams: Annotated[int, Field(ge=1, le=256), Kind("number")] = 256
    """Streams, or transfers of files, of this service that one session may have open at a time."""
    idle: Annotated[Duration, Field(ge=1, le=30 * 86400)] | None = None
    """A stream without traffic for this long is reset; without it, never."""


class FileLimitsSection(Section):
    """What a directory takes from callers. What would not fit is refused before it is sent."""

    file_size: Annotated[Size, Kind("size", default="16GiB")] = 16 * GIB
    """The largest file."""
    per_user: Annotated[Size, Kind("size", default="64GiB")] = 64 * GIB
    """Everything that one user has there; what is moved away does not count any more."""
    total: Size | None = None
    """Everything in the directory, whoever put it there; without it, no limit."""
    keep_free: Annotated[Size, Kind("size", default="1GiB")] = GIB
    """What the file system must have left after every file that has begun."""
    partial_age: Annotated[Duration, Field(ge=3600, le=365 * 86400)] = 604800.0
    """An unfinished file that nobody goes on with is removed after this long."""


class FilesSection(Section):
    """A directory of the machine of the bridge that callers move files into or out of, by the file protocol."""

    dir: Directory
    """The directory. If callers may put files into it, it is made where it is missing."""
    direction: Literal["receive", "send", "both"]
    """receive: callers may put files in, and see nothing; send: they may list and fetch what is there; or both."""
    hidden: bool = False
    """Offer files and directories whose names begin with a dot. Otherwise callers are told how many there are."""
    names: Literal["keep", "any", "refuse", "sanitise"] = "keep"
    """keep: what the file system can hold keeps its name, without control characters, text that shows backwards, and
    leading dots and dashes, which are refused; any: the same, with leading dots and dashes, as a copy of a git checkout
    needs; refuse: only names that every system can hold (no : ? and the like, nothing reserved by Windows, no two that
    differ in case, no characters that show nothing); sanitise: names that are not so are made so."""
    allow: Annotated[list[AllowedName], Field(max_length=64)] = []
    """Names of files that are received, like "*.pdf"; empty: all."""
    announce: bool = True
    """What has arrived is told to its sender in the direct chat, and in the room for notices."""
    mode: FileMode | None = None
    """Mode of files that arrive, in quotes, like "0640"; who may read a directory may also enter it. Without it they
    are the bridge's alone, except in a directory with the setgid bit, where its group may read, and in one with a
    default access list (setfacl -d), which then decides."""
    group: FileGroup | None = None
    """Group of files that arrive, by name or number. The bridge's user must be a member of it. They are readable for it
    unless mode says something else. Without it: the bridge's group, or that of a directory with the setgid bit."""
    limits: FileLimitsSection = FileLimitsSection()
    """What the directory takes from callers."""


class ServiceSection(Section):
    """A named service: the caller sends the name, only this file knows where it leads. It has a target, or files."""

    target: Target | None = None
    """Where streams are piped to: tcp:HOST:PORT or unix:/path. append:/path adds what a caller sends to the end of a
    file, or writes it into a FIFO; read:/path gives a file or FIFO to its end."""
    files: FilesSection | None = None
    """Instead of a target: a directory that files are put into or fetched from."""
    expect: Annotated[list[Network], Field(max_length=64)] = []
    """Networks that the address of the target must lie in when it is connected; a name may be rebound, these cannot.
    Empty: any."""
    raw: bool = False
    """Let bare browsers use the service without the stream protocol. It has no half-close and no end-to-end credit."""
    connect_timeout: Annotated[Duration, Field(ge=0.1, le=120)] = 10.0
    """How long connecting to the target may take."""
    i_know_this_is_root: bool = False
    """Needed for sockets like docker.sock, whose users control the whole machine."""
    grantable_to: Annotated[list[Subject], Field(max_length=1000)] = []
    """Users, servers, groups and rooms that admins may give this service to while the bridge runs, for a time. Empty:
    nobody; only the grants of this file count."""
    listed: bool = False
    """Show those whom grantable_to names, in the answer to peers in a chat, that they may ask for this service. Without
    it whoever asks must know its name."""
    limits: ServiceLimitsSection = ServiceLimitsSection()
    """Limits of this service."""


class PeerSection(Section):
    """A virtual user that can be called."""

    displayname: Annotated[str, StringConstraints(min_length=1, max_length=128), Kind("text")] | None = None
    """Name that Matrix clients show; without it, the name of the peer."""
    services: Annotated[dict[ServiceNameText, ServiceSection], Field(min_length=1, max_length=128)]
    """What can be reached through this peer, by name."""


class GrantSection(Section):
    """A rule that allows something; grants only add, so their order does not matter."""

    id: RuleName
    """Name of the rule in logs and in `mxrtc-bridge explain`."""
    from_: Annotated[list[Subject], Field(alias="from", min_length=1, max_length=1000)]
    """Who: "@user:server", "server:example.org" (exactly that server), "group:NAME", "room:!id", or "*" for everybody.
    Guest accounts are no part of their server or of "*"; they are "guest-accounts:example.org"."""
    to: Annotated[list[Reference], Field(min_length=1, max_length=1000)]
    """What: PEER/SERVICE, or PEER for all its services."""
    until: Time | None = None
    """When the rule ends: a date (its beginning, UTC) or a time with an offset."""
    acknowledge: Literal["open-to-federation"] | None = None
    """Must be "open-to-federation" where "*" is used: it lets in users of every server in the world."""


class TestSection(Section):
    """A claim about the rules above; the bridge refuses a configuration in which it does not hold."""

    as_: Annotated[str, Field(alias="as"), Kind("user id")]
    """The user that the claim is about."""
    may: Annotated[list[Reference], Field(max_length=1000)] = []
    """What the user must be able to use. The ends of grants (`until`) do not count here."""
    may_not: Annotated[list[Reference], Field(max_length=1000)] = []
    """What the user must not be able to use."""


class IceServerSection(Section):
    """A STUN or TURN server of your own."""

    urls: Annotated[list[IceUri], Field(min_length=1, max_length=8)]
    """URIs of one server."""
    username: Text | None = None
    """User name for TURN."""
    credential: Secret | None = None
    """Password for TURN; or credential_file."""
    credential_file: FilePath | None = None
    """File that holds the password."""


IceServerEntry = Annotated[IceServerSection, BeforeValidator(_checked_server), Kind("URI or server")]


def _checked_servers(value: object) -> object:
    """The word for the homeserver's own servers becomes None: one type less in the model, and clearer messages."""
    if value == "homeserver":
        return None
    if not isinstance(value, list):
        raise ValueError(f"{str(value)[:80]!a} is neither the word homeserver nor a list of servers")  # noqa: TRY004
    return value


class RemoteSection(Section):
    """Which addresses of callers the bridge sends packets to. Link-local and multicast never."""

    private: bool = False
    """Allow private networks (10.0.0.0/8, 192.168.0.0/16, fc00::/7, ...): for callers in your own network."""
    loopback: bool = False
    """Allow this machine itself: for trials on one machine only."""
    allow: Annotated[list[Network], Field(max_length=256)] = []
    """Private networks that are allowed all the same."""
    deny: Annotated[list[Network], Field(max_length=256)] = []
    """Networks that are refused in any case."""


class IceSection(Section):
    """How sessions find a path through the network."""

    servers: Annotated[
        Annotated[list[IceServerEntry], Field(max_length=16)] | None,
        BeforeValidator(_checked_servers),
        Kind("homeserver, or list of servers", default="homeserver"),
    ] = None
    """STUN and TURN servers: those that the homeserver names, or a list of your own, or [] for none."""
    policy: Literal["all", "relay"] = "all"
    """all: direct paths where possible; relay: only through TURN, which hides the bridge's addresses."""
    interfaces: Annotated[list[Interface], Field(max_length=64)] = []
    """Interfaces or networks whose addresses are offered to callers; empty: all but loopback."""
    advertise: Annotated[list[Advertised], Field(max_length=16)] = []
    """External addresses, where a router maps them one to one to this machine; EXTERNAL/LOCAL says to which of its
    addresses, if it has several."""
    port_range: Annotated[list[Port], Field(min_length=2, max_length=2)] | None = None
    """First and last UDP port for sessions, for a firewall; without it, any free port."""
    remote: RemoteSection = RemoteSection()
    """Which addresses of callers the bridge sends packets to."""


class LimitsSection(Section):
    """What callers may take. At a limit new calls are refused; running ones go on."""

    calls_per_user: Annotated[int, Field(ge=1, le=1000), Kind("number")] = 4
    """Calls that one user may have at a time."""
    calls_per_server: Annotated[int, Field(ge=1, le=10000), Kind("number")] = 20
    """Calls that all users of one other homeserver may have at a time; those of your own have no limit together but
    calls_total."""
    calls_total: Annotated[int, Field(ge=1, le=10000), Kind("number")] = 200
    """Calls at a time."""
    invites_per_minute: Annotated[int, Field(ge=1, le=6000), Kind("number")] = 30
    """Calls that one user may begin in a minute."""
    invites_per_minute_per_server: Annotated[int, Field(ge=1, le=60000), Kind("number")] = 120
    """Calls that all users of one other homeserver may begin in a minute; those of your own may begin 50 times as
    many. Whoever is refused so is told to try again, and the log counts it."""
    setup_s: Annotated[Duration, Field(alias="setup", ge=5, le=300)] = 30.0
    """Time from the answer to the open connection."""
    streams_per_session: Annotated[int, Field(ge=1, le=256), Kind("number")] = 256
    """Streams that one session may have open at a time."""
    session_max_s: Annotated[Duration, Field(alias="session_max", ge=60, le=365 * 86400)] = 43200.0
    """A session ends after this time, whatever it does."""
    idle_room_s: Annotated[Duration, Field(alias="idle_room", ge=3600, le=3650 * 86400)] = 2592000.0
    """A peer leaves a room after this long without a call."""


class EncryptionSection(Section):
    """End-to-end encryption: each peer has a device of its own, signed by the peer's own identity."""

    enabled: Literal["auto", "on", "off"] = "auto"
    """auto: on, and off with a warning where the Olm library is missing or the homeserver cannot do it; on: the bridge
    does not start without; off: calls from encrypted rooms are not understood."""
    key: Secret | None = None
    """Secret that the identities of all peers are made from, at least 32 characters. Without it one is made and kept
    in the file encryption.key beside the SQLite database, or beside this file. Keep a copy: with it the identities
    outlive the database."""
    key_file: FilePath | None = None
    """File that holds the key; the environment (MXRTC_ENCRYPTION_KEY) and credentials work as for the tokens."""
    devices: Literal["any", "cross-signed", "verified"] = "any"
    """Which devices of callers are talked to. any: all, and rooms without encryption too; cross-signed: those that
    their users have verified with another session; verified: those of users whom you have verified by emoji
    (mxrtc-bridge verify), or of the identities below."""
    identities: Annotated[dict[Text, MasterKey], Field(max_length=1000)] = {}
    """Master keys (public, unpadded base64) that you have compared yourself, by user id: no other is believed."""
    receive: Literal["sync", "transactions"] = "sync"
    """How messages for the peers' devices come. sync: each device has a long poll; needs nothing of the homeserver.
    transactions: the homeserver says when there are some, so idle peers ask for nothing; needs experimental switches
    of the homeserver and a new registration, and polls as before as long as they are missing."""


class RoomsSection(Section):
    """Rooms that the bot joins and writes to. Invite it, and prefer ids: whoever rules over an alias can move it."""

    admin: RoomText | None = None
    """Where admins are told what needs them."""
    notices: RoomText | None = None
    """Where it is told what has happened, like the arrival of files."""
    redact_calls: bool = True
    """Whether the peers take back their own events of a call once it is over, so that no description stays behind."""
    audit: RoomText | None = None
    """Where each record of the audit is repeated, for all who can read that room."""

    def named(self) -> dict[str, str]:
        """The rooms that are configured, by their key in the file."""
        rooms = {"admin": self.admin, "notices": self.notices, "audit": self.audit}
        return {purpose: room for purpose, room in rooms.items() if room is not None}


class AuditSection(Section):
    """Who was let in to what, as a chain of lines that nobody changes unseen; the database holds them as well."""

    file: FilePath | None = None
    """Where the lines are appended; without it, audit.jsonl beside the database file. Nothing happens that cannot be
    written there: with a full disk no new sessions are taken."""
    max_size: Annotated[Size, Kind("size", default="64MiB")] = 64 * 1024 * 1024
    """At this size a new file is begun, and the old one gets a number."""
    keep: Annotated[int, Field(ge=1, le=10_000), Kind("number")] = 50
    """Full files that are kept; the oldest is removed first."""


class ControlSection(Section):
    """The socket by which `mxrtc-bridge who`, `grant`, `kick` and so on talk to the running bridge."""

    enabled: bool = True
    """Whether there is one."""
    socket: FilePath | None = None
    """Where; without it, control.sock beside the database file. Only the bridge's user and root are answered."""


class MetricsSection(Section):
    """Counters for Prometheus; they hold no user ids."""

    listen: ListenText | None = None
    """Where they are served, like 127.0.0.1:29351. There is no access control; without it, they are not served."""


class LoggingSection(Section):
    """The log on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """How much is logged. Only `debug` shows addresses of callers."""


class Root(Section):
    """The whole file."""

    version: Annotated[int, AfterValidator(values.parse_version), Kind("number")]
    """Version of this format. In a file of an earlier one, what is left out means what it meant then:
    `mxrtc-bridge config upgrade` writes it down."""
    homeserver: HomeserverSection
    """The homeserver that the bridge belongs to."""
    appservice: AppserviceSection
    """How bridge and homeserver know and reach each other; the same values stand in registration.yaml."""
    database: Annotated[str, StringConstraints(min_length=1, max_length=2048), Kind("database URL")] = (
        "sqlite:mxrtc-bridge.db"
    )
    """sqlite:FILE (relative to this file) or postgres://USER:PASSWORD@HOST/NAME."""
    peers: Annotated[dict[PeerName, PeerSection], Field(max_length=256)] = {}
    """Virtual users and their services. A peer `build` has the user id @rtc_build:DOMAIN."""
    groups: Annotated[
        dict[GroupName, Annotated[list[Subject], Field(min_length=1, max_length=1000)]], Field(max_length=256)
    ] = {}
    """Names for sets of users and servers, each with at most 1000."""
    grants: Annotated[list[GrantSection], Field(max_length=1000)] = []
    """Who may use what. Nothing is allowed that is not granted here."""
    deny: Annotated[list[Subject], Field(max_length=1000)] = []
    """Users and servers that may use nothing, whatever the grants say. A server means its guest accounts too, and every
    port."""
    policy_lists: Annotated[list[RoomIdText], Field(max_length=20)] = []
    """Ids of rooms that hold moderation policy lists; whom they ban may use nothing. Invite the bot to them."""
    admins: Annotated[list[UserText], Field(max_length=100)] = []
    """Users who may give commands to the bridge. It is no grant: they use services by grants, like everybody."""
    rooms: RoomsSection = RoomsSection()
    """Rooms that the bot joins and writes to."""
    ice: IceSection = IceSection()
    """How sessions find a path through the network."""
    limits: LimitsSection = LimitsSection()
    """What callers may take. At a limit new calls are refused; running ones go on."""
    encryption: EncryptionSection = EncryptionSection()
    """End-to-end encryption: each peer has a device of its own, signed by the peer's own identity."""
    audit: AuditSection = AuditSection()
    """Who was let in to what, as a chain of lines that nobody changes unseen; the database holds them as well."""
    control: ControlSection = ControlSection()
    """The socket by which `mxrtc-bridge who`, `grant`, `kick` and so on talk to the running bridge."""
    metrics: MetricsSection = MetricsSection()
    """Counters for Prometheus; they hold no user ids."""
    logging: LoggingSection = LoggingSection()
    """The log on standard error."""
    tests: Annotated[list[TestSection], Field(max_length=1000)] = []
    """Claims about the grants that are checked whenever this file is loaded; if one fails, the file is refused."""
