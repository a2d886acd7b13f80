"""What we rely on inside our libraries, beyond what they promise.

A failure here means that an upgrade moved something that we override or reach into. Read the library's changes, adapt
the module named in the message, run its tests, then widen the tested range.
"""

from __future__ import annotations

import dis
import importlib
import inspect
from importlib.metadata import version

import pytest

TESTED = {"aiortc": ("1.16",), "aioice": ("0.13",), "mautrix": ("0.21",), "vodozemac": ("0.10",)}

SIGNATURES = {
    # mxrtc_bridge.rtc.ice and datagrams
    "aioice.ice:Connection.__init__": (
        "ice_controlling",
        "components",
        "stun_server",
        "turn_server",
        "turn_username",
        "turn_password",
        "turn_ssl",
        "turn_transport",
        "use_ipv4",
        "use_ipv6",
        "transport_policy",
        "local_username",
        "local_password",
    ),
    "aioice.ice:Connection.gather_candidates": (),
    "aioice.ice:Connection.connect": (),
    "aioice.ice:Connection.close": (),
    "aioice.ice:Connection.recv": (),
    "aioice.ice:Connection.query_consent": (),
    "aioice.ice:Connection.data_received": ("data", "component"),
    "aioice.ice:Connection.check_incoming": ("message", "addr", "protocol"),
    "aioice.ice:Connection.check_complete": ("pair",),
    "aioice.ice:Connection.check_start": ("pair",),
    "aioice.ice:Connection.check_state": ("pair", "state"),
    "aioice.ice:Connection.build_request": ("pair", "nominate"),
    "aioice.ice:Connection._add_remote_candidate": ("remote_candidate", "network_host"),
    "aioice.ice:Connection._pair_remote_candidate": ("remote_candidate",),
    "aioice.ice:StunProtocol.__init__": ("receiver",),
    "aioice.ice:StunProtocol.datagram_received": ("data", "addr"),
    "aioice.ice:StunProtocol.request": ("request", "addr", "integrity_key", "retransmissions"),
    "aioice.ice:StunProtocol.close": (),
    "aioice.candidate:candidate_priority": ("candidate_component", "candidate_type", "local_pref"),
    "aioice.candidate:candidate_foundation": ("candidate_type", "candidate_transport", "base_address"),
    "aioice.turn:TurnClientTcpProtocol.__init__": (
        "server",
        "username",
        "password",
        "lifetime",
        "channel_refresh_time",
    ),
    "aioice.turn:TurnClientUdpProtocol.__init__": (
        "server",
        "username",
        "password",
        "lifetime",
        "channel_refresh_time",
    ),
    "aioice.turn:TurnTransport.__init__": ("inner_protocol",),
    "aioice.turn:TurnTransport._connect": ("protocol",),
    "aioice.turn:TurnTransport.sendto": ("data", "addr"),
    "aioice.utils:random_string": ("length",),
    # mxrtc_bridge.rtc.aiortc_dtls
    "aiortc:RTCCertificate.__init__": ("key", "cert"),
    "aiortc:RTCCertificate._create_ssl_context": ("srtp_profiles",),
    "aiortc.rtcdtlstransport:RTCDtlsTransport.__init__": ("transport", "certificates"),
    "aiortc.rtcdtlstransport:RTCDtlsTransport.start": ("remoteParameters",),
    "aiortc.rtcdtlstransport:RTCDtlsTransport.stop": (),
    "aiortc.rtcdtlstransport:RTCDtlsTransport._do_handshake": (),
    "aiortc.rtcdtlstransport:RTCDtlsTransport._recv_next": (),
    "aiortc.rtcdtlstransport:RTCDtlsTransport._write_ssl": (),
    "aiortc.rtcdtlstransport:RTCDtlsTransport._set_role": ("role",),
    "aiortc.rtcdtlstransport:RTCDtlsTransport._set_state": ("state",),
    "aiortc.rtcdtlstransport:RTCDtlsTransport._setup_srtp": (),
    "aiortc.rtcdtlstransport:RTCDtlsTransport._validate_peer_identity": ("remoteParameters",),
}

SOURCES = {
    # The base class asks its ICE transport for nothing but these; IceConnection has the role, the rest is overridden.
    "aiortc.rtcdtlstransport:RTCDtlsTransport": (
        "self.transport._recv",
        "self.transport._send",
        "self.transport.role",
        "self._task = asyncio.ensure_future(self.__run())",
    ),
    "aiortc.rtcdtlstransport:RTCDtlsTransport.start": ("_create_ssl_context(",),
    # While DTLS is open the queue carries nothing but the end: these put None into it.
    "aioice.ice:Connection.protocol_lost": ("self._queue.put_nowait(None)",),
    "aioice.ice:Connection.recvfrom": ("await self._queue.get()", "if result is None:"),
    "aioice.turn:TurnTransport": ("self.__close_task", "self.__send_tasks"),
    "aioice.ice:Connection.connect": ("self._query_consent_task = asyncio.create_task(self.query_consent())",),
}


def find(name: str) -> object:
    module, _, path = name.partition(":")
    found: object = importlib.import_module(module)
    for part in path.split("."):
        assert hasattr(found, part), f"{name} is gone: adapt what overrides or calls it"
        found = getattr(found, part)
    return found


@pytest.mark.parametrize("library", TESTED)
def test_version_is_one_that_was_tested(library: str) -> None:
    installed = version(library)
    series = ".".join(installed.split(".")[:2])
    assert series in TESTED[library], (
        f"{library} {installed} was not tested with this package, which reaches into it; tested: {TESTED[library]}"
    )


@pytest.mark.parametrize("name", SIGNATURES)
def test_what_we_override_or_call_takes_the_same_arguments(name: str) -> None:
    parameters = tuple(p for p in inspect.signature(find(name)).parameters if p != "self")  # type: ignore[arg-type]
    assert parameters == SIGNATURES[name], f"{name} takes other arguments now: {parameters}"


@pytest.mark.parametrize("name", SOURCES)
def test_what_we_rely_on_is_still_done(name: str) -> None:
    source = inspect.getsource(find(name))  # type: ignore[arg-type]
    for text in SOURCES[name]:
        assert text in source, f"{name} no longer has {text!r}"


CONNECTION_STATE = (
    "_check_list",
    "_closing",
    "_local_candidates",
    "_local_candidates_end",
    "_local_candidates_start",
    "_nominated",
    "_protocols",
    "_queue",
    "_remote_candidates",
    "ice_controlling",
    "remote_is_lite",
    "remote_password",
    "remote_username",
)
DTLS_STATE = ("_role", "_ssl", "_state", "_task", "encrypted")


async def test_state_that_we_share_exists_and_ours_hides_nothing() -> None:
    """Attributes of the base classes are there, and no attribute of ours has the name of one by accident."""
    from aioice.ice import Connection
    from aiortc import RTCCertificate
    from aiortc.rtcdtlstransport import RTCDtlsTransport
    from aiortc.rtcicetransport import RTCIceGatherer, RTCIceTransport

    connection = Connection(ice_controlling=True)
    dtls = RTCDtlsTransport(RTCIceTransport(RTCIceGatherer(iceServers=[])), [RTCCertificate.generateCertificate()])
    for thing, names in ((connection, CONNECTION_STATE), (dtls, DTLS_STATE)):
        missing = [name for name in names if not hasattr(thing, name)]
        assert missing == [], f"{type(thing).__name__} has lost {missing}"
    await _assert_no_accidental_names(connection, dtls)


async def _assert_no_accidental_names(connection: object, dtls: object) -> None:
    from tests.rtc.peers import make_peer

    peer = make_peer()
    for ours, theirs in ((peer._ice, connection), (peer._dtls, dtls)):
        package = "mxrtc_bridge"
        assigned = {
            step.argval
            for kind in type(ours).__mro__
            if kind.__module__.startswith(package) and "__init__" in vars(kind)
            for step in dis.get_instructions(kind.__init__)
            if step.opname == "STORE_ATTR" and step.argval.startswith("_")
        }
        accidental = assigned & set(vars(theirs))
        assert accidental == set(), f"{type(ours).__name__} and its base class both use {accidental}"
    await peer.close()


def test_olm_library_has_what_its_stubs_do_not_say() -> None:
    """Fallback keys, unpublished keys only, and the old message format that Matrix uses (version 3)."""
    import vodozemac

    account = vodozemac.Account()
    account.generate_one_time_keys(1)
    account.generate_fallback_key()
    (key,) = account.one_time_keys.values()
    assert next(iter(account.fallback_key.values())).to_base64()
    account.mark_keys_as_published()
    assert (account.one_time_keys, account.fallback_key) == ({}, {})
    session = vodozemac.Account().create_outbound_session(account.curve25519_key, key)
    assert session.encrypt(b"x").to_parts()[1][0] == 3
    assert vodozemac.GroupSession().encrypt(b"x").to_bytes()[0] == 3
