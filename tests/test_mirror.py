"""Each module has a test file of its name, or it is said here where it is tested and why there.

What stands here is checked: the named file exists, and leads to the module by its imports, unless it starts the
programs. How much of each module is run by tests is another matter: see ``coverage_floors.toml``.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.test_architecture import PACKAGE, ROOT, sources

TESTS = ROOT / "tests"
STARTING_PROGRAMS = ("e2e/", "demo/", "cli/test_shutdown.py")

VALUES = "only values, which the tests of those that use them make and compare"
PORTS = "only Protocols, which the doubles of that test implement"

ELSEWHERE: dict[str, tuple[str, list[str]]] = {
    # The bridge
    "bridge/access/test_runtime_grants.py": ("it writes for RuntimeGrants alone", ["bridge/access/grant_writer.py"]),
    "bridge/access/test_grant_places.py": (
        "what people do with grants is tried with all places that know of a grant",
        ["bridge/admin/access_requests.py"],
    ),
    "bridge/access/test_rights.py": (
        "rights are judged with them", ["bridge/audit/events.py", "bridge/current_config.py"],
    ),
    "bridge/test_hostile_control.py": (
        "a whole bridge is given commands",
        ["bridge/admin/socket.py"],
    ),
    "bridge/test_bridge.py": (
        "it is put together with a whole bridge, and does nothing without one",
        [
            "bridge/announcements.py", "bridge/bot/bot.py", "bridge/build.py",
            "bridge/config_mapping.py",
        ],
    ),
    # The programs
    "cli/bridge/test_main.py": (
        "commands are tried as they are typed",
        [
            "cli/bridge/admin.py", "cli/bridge/audit.py", "cli/bridge/check.py",
            "cli/bridge/identity.py", "cli/bridge/init.py",
        ],
    ),
    "cli/bridge/test_systemd_setup.py": ("a service is set up as a whole", ["cli/bridge/installation.py"]),
    "cli/bridge/test_services.py": ("services are added and removed by it", ["cli/bridge/editing.py"]),
    "cli/client/test_output_options.py": ("what is logged is tried with the option", ["cli/verbosity.py"]),
    "cli/test_shutdown.py": ("it takes signals and calls the program", ["cli/bridge/entry.py"]),
    "e2e/test_pipe.py": (
        "commands are tried as they are typed",
        ["cli/client/entry.py", "client/commands.py"],
    ),
    "e2e/test_files.py": ("commands are tried as they are typed", ["cli/client/files.py"]),
    "e2e/test_shared_account.py": ("commands are tried as they are typed", ["cli/client/up.py"]),
    "e2e/test_signal.py": ("it needs devices that a homeserver knows", ["client/devices.py"]),
    "client/sharing/test_holder.py": (
        "two commands are joined, with both ends of what one lends to the other",
        [
            "client/sharing/guest.py", "client/sharing/reach.py", "client/sharing/served_guest.py",
            "engine/borrowed_channels.py",
            "engine/lent_channel.py", "sinks/frame_socket.py",
        ],
    ),
    "client/sharing/test_calls.py": ("a command outlives its own work for others", ["client/sharing/lending.py"]),
    "client/files/test_sentences.py": (VALUES, ["client/exit_codes.py"]),
    "client/files/test_commands.py": ("the commands put and get use it", ["client/files/single_file.py"]),
    "demo/test_demo.py": ("the demonstration is run as a whole", ["demo/programs.py", "demo/tour.py"]),
    "demo/test_fetch.py": ("the page is fetched", ["demo/website.py"]),
    # The configuration
    "config/test_loader.py": (
        "a file is read as a whole, and its mistakes are told together",
        [
            "config/access.py", "config/build.py", "config/config.py", "config/encryption.py", "config/problems.py",
            "config/schema.py", "config/validation_errors.py",
        ],
    ),
    "config/test_yaml_reader.py": ("what is written is read back", ["config/yaml_writer.py"]),
    "bridge/test_reload.py": ("a reload waits for a file that rests", ["config/settled.py"]),
    # The core
    "config/test_file_services.py": (VALUES, ["core/access/targets.py"]),
    "core/audit/test_chain.py": ("records are told in sentences", ["core/audit/sentences.py"]),
    "core/bot/test_parser.py": (
        "commands are parsed with their arguments", ["core/bot/arguments.py", "core/bot/commands.py"],
    ),
    "core/call/test_codec.py": (VALUES, ["core/call/events.py"]),
    "core/call/test_machine.py": (
        "it is a part of the machine", ["core/call/values.py"],
    ),
    "bridge/devices/test_wakeups.py": (VALUES, ["core/crypto/device_changes.py"]),
    "storage/test_crypto.py": (VALUES, ["core/crypto/records.py"]),
    "core/crypto/test_sas.py": ("two ends compare a code", ["core/crypto/sas_codes.py", "core/crypto/sas_values.py"]),
    "bridge/devices/test_verification.py": ("what is compared is said there", ["core/crypto/sas_text.py"]),
    "core/files/test_acceptor.py": (
        "transfers are tried from end to end, with both machines",
        ["core/files/events.py", "core/files/machine.py"],
    ),
    "core/files/test_sender.py": ("it is a part of the sender", ["core/files/read_ahead.py"]),
    "core/access/test_policy.py": ("rights are about these names", ["core/ids.py"]),
    "storage/test_events.py": (VALUES, ["core/inbox.py"]),
    "core/stream/test_machine.py": (
        "both halves are tried together, with their events", ["core/stream/events.py", "core/stream/halves.py"],
    ),
    "core/stream/test_messages.py": ("all messages of a stream are read by it", ["core/stream/json_message.py"]),
    "core/bot/test_words.py": ("durations are words of commands", ["core/text/durations.py"]),
    # The engine
    "engine/test_session_channels.py": (
        "both ends of a session are joined",
        [
            "engine/bridge_channels.py", "engine/client_channels.py", "engine/control_channel.py",
            "engine/file_ports.py", "engine/stream_forwarder.py",
        ],
    ),
    "engine/test_call_manager.py": (
        "a call is managed with its session",
        [
            "engine/call_ports.py", "engine/clock.py", "engine/ports.py",
            "engine/session.py",
        ],
    ),
    "engine/test_round_robin.py": ("work is fair by its turns", ["engine/fair_work.py"]),
    "engine/test_file_transfer.py": ("transfers move files", ["engine/file_operations.py"]),
    # Matrix
    "matrix/api/test_homeserver.py": (
        "it is a request to a homeserver", ["matrix/api/login.py", "matrix/api/ping.py"],
    ),
    "matrix/api/test_sync.py": ("answers to a sync hold events", ["matrix/api/room_event.py"]),
    "matrix/crypto/test_olm_sessions.py": (
        "sessions are made with them",
        [
            "matrix/crypto/account.py", "matrix/crypto/binding.py", "matrix/crypto/olm_message.py",
            "matrix/crypto/store.py",
        ],
    ),
    "matrix/crypto/test_device_receiving.py": (
        "a device receives as a whole",
        ["matrix/crypto/broken_sessions.py", "matrix/crypto/device.py", "matrix/crypto/sync_answer.py"],
    ),
    "matrix/crypto/test_device_lists.py": (
        "lists of devices are asked for", ["matrix/crypto/keyed_locks.py"],
    ),
    "matrix/crypto/test_signed_json.py": ("they sign", ["matrix/crypto/keys.py"]),
    "matrix/crypto/test_claims.py": (
        "keys are claimed for what is sent",
        ["matrix/crypto/outbound.py", "matrix/crypto/to_device_sender.py", "matrix/crypto/values.py"],
    ),
    "matrix/inbox/test_inbox.py": (
        "it is a part of the inbox",
        ["matrix/inbox/incoming.py", "matrix/inbox/lanes.py", "matrix/inbox/outcomes.py"],
    ),
    "matrix/inbox/test_removals.py": ("it is what removals are remembered by", ["matrix/inbox/redactions.py"]),
    "matrix/rooms/test_peers_members.py": (
        "members come and go", ["matrix/rooms/peer_membership.py"],
    ),
    "matrix/rooms/test_peers.py": (PORTS, ["matrix/rooms/ports.py"]),
    # WebRTC
    "rtc/test_dtls.py": ("both edges keep one contract", ["rtc/aiortc_dtls.py", "rtc/openssl_dtls.py"]),
    "rtc/test_flow_control.py": ("two peers are joined by it", ["rtc/ice.py"]),
    "rtc/test_udp.py": ("sockets pass them on", ["rtc/datagrams.py"]),
    "sctp/test_bbr.py": (
        "a congestion control is tried as a whole", ["sctp/bbr_limits.py", "sctp/congestion.py"],
    ),
    "sctp/test_channels.py": ("channels are opened by it", ["sctp/dcep.py", "sctp/reconfig.py"]),
    "sctp/test_chunks.py": ("packets hold chunks", ["sctp/packets.py"]),
    "sctp/test_flow.py": (
        "two associations are joined by a link, and their parts are of no use alone",
        [
            "sctp/association.py", "sctp/events.py", "sctp/flight.py", "sctp/outbound_queue.py",
            "sctp/packet_reader.py", "sctp/path_mtu.py", "sctp/receiver.py", "sctp/rtt.py",
            "sctp/sender.py", "sctp/settings.py",
        ],
    ),
    "sctp/test_handshake.py": ("associations begin and end", ["sctp/lifecycle.py"]),
    # Sinks
    "sinks/files/receive/test_drop_box.py": (
        "files arrive in a box as a whole",
        [
            "sinks/files/linux.py", "sinks/files/os_errors.py", "sinks/files/receive/batch_dirs.py",
            "sinks/files/receive/name_allocator.py",
            "sinks/files/receive/partial_file.py", "sinks/files/receive/publisher.py",
            "sinks/files/receive/receipts.py", "sinks/files/receive/receiver.py",
            "sinks/files/receive/state_dir.py", "sinks/files/rooted_dir.py",
        ],
    ),
    "sinks/files/send/test_share.py": (
        "a share is walked as a whole", ["sinks/files/send/tree_walk.py"],
    ),
    "engine/test_rights_meanwhile.py": (VALUES, ["sinks/files/transfer_ports.py"]),
    "sinks/test_stdio.py": (
        "standard streams may be of either kind", ["sinks/pollable.py", "sinks/reader_writer.py", "sinks/threaded.py"],
    ),
    "sinks/test_resets.py": ("resets are told by it", ["sinks/hangups.py"]),
    "sinks/test_sockets.py": ("a socket is one", ["sinks/stream_sink.py"]),
    # Storage and web
    "storage/test_audit.py": ("lines of the audit are in both", ["storage/audit_file.py"]),
    "storage/test_tables.py": (
        "it is one small table", ["storage/certificates.py", "storage/notice_times.py", "storage/rooms.py"],
    ),
    "storage/test_bounds.py": ("all tables have bounds", ["storage/crypto_bounds.py"]),
    "storage/test_postgres_away.py": ("failures come from databases", ["storage/failures.py"]),
    "storage/test_grants.py": ("grants are read back", ["storage/grant_recovery.py"]),
    "storage/test_virtual_users.py": ("databases of earlier versions are taken up", ["storage/schema.py"]),
    "web/test_server.py": ("it is served", ["web/metrics.py"]),
}  # fmt: skip
"""Why modules without a test file of their name are tested in another one, by that file."""


def mirrored(module: str) -> Path:
    """Return where the test file of a module's name is."""
    path = TESTS / module
    return path.with_name(f"test_{path.name}")


def modules() -> list[str]:
    names = (file.relative_to(PACKAGE).as_posix() for file in sources(PACKAGE))
    return [name for name in names if not name.endswith(("__init__.py", "__main__.py"))]


TEXT = re.compile(r'""".*?"""', re.DOTALL)
IMPORT = re.compile(
    r"^\s*((?:from (?:mxrtc_bridge|tests)[\w.]* import (?:\([^)]*\)|[^(\n]+))|import (?:mxrtc_bridge|tests)[^\n]*)",
    re.MULTILINE,
)


@cache
def imported(file: Path) -> frozenset[Path]:
    """Return the files of this tree that one imports."""
    names = set()
    # A whole file takes ten times as long to parse as its imports, and all files are read for this.
    for statement in IMPORT.findall(TEXT.sub("", file.read_text())):
        for node in ast.walk(ast.parse(statement)):
            if isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{each.name}" for each in node.names)}
            elif isinstance(node, ast.Import):
                names |= {each.name for each in node.names}
    ours = [ROOT / name.replace(".", "/") for name in names if name.startswith(("mxrtc_bridge", "tests"))]
    paths = (path for each in ours for path in (each.with_suffix(".py"), each / "__init__.py"))
    return frozenset(path for path in paths if path.exists())


def leads_to(file: Path, module: Path) -> bool:
    seen, left = {file}, [file]
    while left:
        found = imported(left.pop()) - seen
        seen |= found
        left += found
    return module in seen


def test_a_module_has_a_test_file_of_its_name_or_it_is_said_where_it_is_tested() -> None:
    told = [module for _, those in ELSEWHERE.values() for module in those]
    assert len(told) == len(set(told)), "once is enough"
    assert set(told) - set(modules()) == set(), "these modules are gone"
    assert {module for module in told if mirrored(module).exists()} == set(), "these have a test file of their name now"
    missing = [module for module in modules() if not mirrored(module).exists() and module not in told]
    assert missing == [], "name a test file after each, or say above where it is tested"


@pytest.mark.parametrize("by", ELSEWHERE)
def test_a_file_that_is_said_to_test_a_module_leads_to_it(by: str) -> None:
    file = TESTS / by
    assert file.exists()
    why, those = ELSEWHERE[by]
    assert why
    assert those
    if not by.startswith(STARTING_PROGRAMS):
        assert [module for module in those if not leads_to(file, PACKAGE / module)] == []
