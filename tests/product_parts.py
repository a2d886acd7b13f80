"""Where tests reach into the product: what the two rules of ``test_architecture`` look for, and what is left of it.

A test that sets a constant of a module tests another product than the one that runs, and one that reads a private
attribute breaks with each change of what nobody was promised. So limits are parameters with the constant as their
default, and what a test has to see inside has a property or a ``status()``.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

PACKAGE = "mxrtc_bridge"
_CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]*")


# A text without any of these reaches into nothing, and need not be parsed, which takes most of the time.
_REACHES = re.compile(
    r"setattr|(?<!\bself)(?<!\bcls)(?<!\bsuper\(\))\._(?!_)"
    rf"|^\s*from {PACKAGE}\S* import (\([^)]*|[^\n]*)(?<!\w)_[a-zA-Z]",
    re.MULTILINE,
)


@lru_cache(maxsize=1)
def _nodes(source: str) -> tuple[ast.AST, ...]:
    return tuple(ast.walk(ast.parse(source))) if _REACHES.search(source) else ()


def _imported(nodes: Iterable[ast.AST]) -> set[str]:
    """Names of a test module by which it knows modules and classes of the product."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            found |= {each.asname or each.name for each in node.names}
        elif isinstance(node, ast.Import):
            found |= {each.asname for each in node.names if each.asname and each.name.split(".")[0] == PACKAGE}
    return found


def _settings(nodes: Sequence[ast.AST]) -> Iterator[tuple[str, str]]:
    """Each ``setattr`` of something of the product: what it is set of, and the name."""
    ours = _imported(nodes)
    for node in nodes:
        if not (isinstance(node, ast.Call) and node.args):
            continue
        called = node.func
        if (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")) != "setattr":
            continue
        match node.args:
            case [ast.Constant(value=str(path)), *_] if path.startswith(f"{PACKAGE}."):
                yield path.rpartition(".")[0], path.rpartition(".")[2]
            case [ast.Name(id=owner), ast.Constant(value=str(name)), *_] if owner in ours:
                yield owner, name
            case [owner, ast.Constant(value=str(name)), *_] if name.startswith("_"):
                yield ast.unparse(owner), name


def patched_constants(source: str) -> list[str]:
    """The constants of the product that a test module sets."""
    return [f"{owner}.{name}" for owner, name in _settings(_nodes(source)) if _CONSTANT.fullmatch(name)]


def private_names(source: str) -> set[str]:
    """The private names that a test module uses of something that is not its own object or class."""
    nodes = _nodes(source)
    found = {name for _, name in _settings(nodes) if _is_private(name) and not _CONSTANT.fullmatch(name)}
    for node in nodes:
        if isinstance(node, ast.Attribute) and _is_private(node.attr):
            if ast.unparse(node.value) not in {"self", "cls", "super()"}:
                found.add(node.attr)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == PACKAGE:
            found |= {each.name for each in node.names if _is_private(each.name)}
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


REACHED_INTO: dict[str, dict[str, str]] = {
    "They reach into a library or into another class of the tests.": {
        "bridge/access/grants_world.py": "_tasks",
        "cli/command_pages.py": "_NumberRangeBase",
        "cli/test_command_pages.py": "_sentences",
        "e2e/test_admins_words.py": "_seen",
        "e2e/test_audit.py": "_runs",
        "e2e/test_client_ends.py": "_transport",
        "e2e/test_control.py": "_runs",
        "e2e/test_devices_now.py": "_runs",
        "e2e/test_people.py": "_seen",
        "e2e/test_restored.py": "_runs",
        "e2e/test_rights.py": "_stack",
        "e2e/test_signal.py": "_runs",
        "e2e/test_verify.py": "_runs",
        "forked.py": "_tmp_path_factory",
        "cut_off.py": "_exit",
        "other_user.py": "_exit",
        "synapse_forks.py": "_exit _install_real_reactor",
        "rtc/stock.py": "_handle_data _send_data",
        "rtc/test_stock_interop.py": "_connection _ice _protocols _query_consent_task",
        "sctp/test_aiortc.py": "_handle_data",
        "sinks/test_sockets.py": "_changed",
        "storage/lossy_postgres.py": "_pass_on",
        "storage/postgres.py": "_run",
    },
    "What stands between our peer and a library has to be reached where the two meet, to send what no peer sends.": {
        "bench/channel.py": "_received",
        "rtc/lossy.py": "_association _dtls",
        "rtc/peers.py": "_association _machine _receiver",
        "rtc/test_consent.py": "_ice _protocols _send",
        "rtc/test_dtls.py": "_certificate _connect_ice _dtls _ended _ice _ssl",
        "rtc/test_factory.py": "_gathering _ice _plan",
        "rtc/test_flow_control.py": "_association _ice _queued",
        "rtc/test_gathering.py": "_ice _protocols",
        "rtc/test_hostile_peers.py": (
            "_association _beyond _check_list _connect_ice _early_checks _ice "
            "_last_received_tsn _local_tsn _machine _outbound_stream_seq _payload _queue _receiver "
            "_reconfig_request_seq _remote_candidates _remote_max_message_size "
            "_remote_verification_tag"
        ),
        "rtc/test_interop.py": "_association _message_limit",
        "rtc/test_interop_flow.py": "_association _dtls _machine",
        "rtc/test_many_candidates.py": "_ice _protocols",
        "rtc/test_peer.py": "_check_list_done _connect_ice _early_checks _ice _protocols",
        "rtc/test_privacy.py": "_ice",
        "rtc/test_send_burst.py": "_association _transport",
        "rtc/test_turn.py": "_ice _protocols",
        "rtc/test_udp.py": "_pending _pending_bytes _readable _writable",
        "test_pins.py": "_dtls _ice",
    },
    "The parts of an association are packed with what no honest peer sends, and weighed while it runs.": {
        "sctp/fuzz.py": "_receiver _settings",
        "sctp/hostile.py": "_receiver _sender",
        "sctp/test_acknowledgements.py": "_receiver",
        "sctp/test_bbr.py": "_model",
        "sctp/test_channels.py": "_max_channels _receiver _sender",
        "sctp/test_flow.py": "_beyond _congestion _path _queue _receiver _sender _streams",
        "sctp/test_handshake.py": "_drawn _writer _zero",
        "sctp/test_limits.py": "_congestion _gaps _receiver _sender _window _writer",
        "sctp/test_recordings.py": "_do _sender",
        "sctp/test_reliability.py": "_sender",
        "sctp/test_stream_states.py": "_do",
        "sctp/test_timeouts.py": "_sender",
        "sctp/test_transfer.py": "_receiver _sender",
    },
    "A store is brought out of step with the homeserver, and a device with its sessions, as no user of them can.": {
        "matrix/crypto/test_claims.py": "_live _lock _olm _order _waiters",
        "matrix/crypto/test_device_real.py": "_handler _inbound _live _olm _own _server _unwedged",
        "matrix/crypto/test_olm_sessions.py": "_live",
    },
    "A step in the middle of something is made slow, or fails, where no fake can stand.": {
        "bridge/access/killed_grants.py": "_database",
        "bridge/access/test_grant_places.py": "_claims _run_once",
        "bridge/audit/test_recovery.py": "_file",
        "bridge/audit/test_writer.py": "_check_room",
        "bridge/test_file_services.py": "_workers",
        "matrix/api/test_homeserver.py": "_host _named_address",
        "matrix/conftest.py": "_transport",
        "matrix/rooms/test_peers_real.py": "_post",
        "sinks/files/receive/test_drop_box_hostile.py": "_LIBRARY",
        "sinks/files/receive/test_quota.py": "_users",
        "sinks/files/send/test_share.py": "_root",
        "sinks/files/test_public_directories.py": "_Item _sync_directories _take_lock",
        "sinks/test_connect.py": "_connect_socket",
        "sinks/test_resets.py": "_epoll _told",
        "sinks/test_stdio.py": "_open_anew",
        "storage/test_database.py": "_running",
    },
    "They put somebody into the bridge who would have to come with a homeserver and a peer connection.": {
        "bridge/devices/test_devices.py": "_check_encryption _ends _known _store",
        "bridge/devices/test_identities.py": "_is_on _server",
        "bridge/devices/test_late_keys.py": "_shares",
        "bridge/test_hostile_control.py": "_ends _waiting",
        "bridge/test_hostile_devices.py": "_note_changes",
    },
}
"""The private names that are used all the same, by reason and file of the tests. It only gets shorter."""
