"""``mxrtc send``, ``mxrtc get`` and the listing of files, without the command line."""

from __future__ import annotations

import asyncio
import errno
import shlex
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mxrtc_bridge.client.calls.connection import Use, only_service
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.files.named_output import NamedOutput, may_name_a_file
from mxrtc_bridge.client.files.progress_view import Meter, make_view
from mxrtc_bridge.client.files.sentences import (
    TransferDirection,
    failure_fields,
    failure_sentence,
    go_on_sentence,
    judge,
    other_sentences,
)
from mxrtc_bridge.client.files.single_file import SingleFile, pour
from mxrtc_bridge.client.files.transfer import FileTransfer
from mxrtc_bridge.client.known_services import load_known, save_known
from mxrtc_bridge.client.options import Context
from mxrtc_bridge.client.report import Report
from mxrtc_bridge.client.sharing.calls import Calls
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.access.remote_paths import RemotePath, parse_remote_name
from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.events import TransferOutcome
from mxrtc_bridge.core.files.messages import EntryKind, FileEntry, Get, Job, Ls, Put
from mxrtc_bridge.core.files.patterns import has_wildcards
from mxrtc_bridge.core.text.display import display, quoted
from mxrtc_bridge.engine.file_ports import FileReceiver, FileSource
from mxrtc_bridge.sinks.files.disk_names import typed
from mxrtc_bridge.sinks.files.transfer_ports import ReceivedFrom
from mxrtc_bridge.sinks.files.user_paths import STDIN, Sources, UserDestination

EVERYTHING = "*"
"""What is fetched where no path is given."""

MAX_LISTED = 100_000
"""Entries of a listing that are kept in memory and shown."""


async def send(
    context: Context, paths: Sequence[str], peer: str, *, name: str | None, resume: bool, reconnect: bool
) -> None:
    """Send files and directories to a drop box."""
    login = context.state.load_login()
    remote = _remote(login, peer)
    if remote.path:
        raise ClientError(
            Exit.USAGE, f"{quoted(peer)}: what is sent has no path at the other side; name a peer or service"
        )
    if STDIN in paths and name is None:
        raise ClientError(Exit.USAGE, "standard input needs a name for the other side; give one with --name")
    sources = Sources(paths, name=name, resume=resume)
    await _opened(sources)
    try:
        await _run(context, login, remote, Put(), sources, reconnect=reconnect)
    finally:
        sources.close()


async def get(context: Context, remote_name: str, *, output: str, force: bool, resume: bool, reconnect: bool) -> None:
    """Fetch what a path or pattern selects into a directory, or one file under a name."""
    login = context.state.load_login()
    remote = _remote(login, remote_name)

    def open_at(place: Path, asked: str) -> UserDestination:
        return UserDestination(place, force=force, resume=resume, asked=asked)

    if may_name_a_file(output, remote.path):
        named = NamedOutput(Path(output), remote.name.peer, remote.path, open_at)
        try:
            await _get(context, login, remote, named, reconnect=reconnect)
        finally:
            await named.close()
        return
    destination = open_at(Path(output), remote.path)
    await _opened(destination)
    try:
        await _get(context, login, remote, ReceivedFrom(destination, remote.name.peer), reconnect=reconnect)
    finally:
        await destination.close(tidy=True)


async def get_to_output(context: Context, remote_name: str, *, reconnect: bool) -> None:
    """Fetch one file and write it to standard output, once all of it is there and verified."""
    login = context.state.load_login()
    remote = _remote(login, remote_name)
    with tempfile.TemporaryDirectory(prefix="mxrtc-") as folder:
        destination = UserDestination(Path(folder), asked=remote.path, private=True)
        await _opened(destination)
        try:
            try:
                only = SingleFile(destination, remote.name.peer)
                await _get(context, login, remote, only, reconnect=reconnect)
                source = only.open_received()
            finally:
                await destination.close()
        except LocalError as error:
            raise ClientError(Exit.LOCAL, str(error)) from error
        if source is None:
            raise ClientError(Exit.DENIED, f"{quoted(remote_name)}: there is no such file")
        try:
            await pour(source, sys.stdout.fileno())
        except OSError as error:
            if error.errno == errno.EPIPE:
                raise  # whoever read it has had enough
            raise ClientError(Exit.LOCAL, f"the output cannot be written: {error.strerror}") from error


def names_files(state: StateFolder, remote_name: str) -> bool:
    """Whether files are meant, and not the services of a peer."""
    remote = _remote(state.load_login(), remote_name)
    return remote.name.service is not None or remote.path != ""


async def list_files(context: Context, remote_name: str, *, max_listed: int = MAX_LISTED) -> None:
    """Show what is in a directory of a service."""
    login, report = context.state.load_login(), context.report
    remote = _remote(login, remote_name)
    entries: list[FileEntry] = []
    count = 0

    def take(entry: FileEntry) -> None:
        nonlocal count
        count += 1
        if len(entries) < max_listed:
            entries.append(entry)

    async with Calls(context, login) as caller, caller.call(remote.name.peer) as connection:
        short = login.name_of(remote.name.peer)
        service = remote.name.service or await only_service(short, connection, Use.GET)
        opened = connection.links.open_transfer(service, Ls(remote.path), take)
        try:
            await asyncio.wait([opened.finished])
        finally:
            opened.reset("interrupted", "ended by the user")
        finished = opened.finished.result()
    if (place := listed_place(remote.path)) is not None and entries:
        known = load_known(context.state, login.user_id)
        known.see_files((remote.name.peer, service, place), names_in(place, entries))
        save_known(context.state, login.user_id, known)
    for entry in entries:
        _show(report, entry)
    if count > len(entries):
        report.say("more", f"{count - len(entries)} more are not shown", count=count - len(entries))
    progress = finished.progress
    for failure in progress.failures:
        report.say("failure", failure_sentence(failure), **failure_fields(failure))
    if progress.untold or progress.hidden:
        report.say("not_listed", "\n".join(other_sentences(progress)), untold=progress.untold, hidden=progress.hidden)
    outcome = judge(f"{short}/{service}", TransferDirection.GET, finished)
    if finished.outcome is TransferOutcome.PARTIAL and entries:
        raise ClientError(outcome.code, f"{short}/{service}: {finished.progress.failed} are not offered")
    if outcome.code is not Exit.DONE:
        raise ClientError(outcome.code, outcome.sentence)


def listed_place(path: str) -> str | None:
    """The directory of which a listing is; None where it is one of a pattern."""
    return None if has_wildcards(path) else path


def names_in(place: str, entries: Iterable[FileEntry]) -> Iterator[str]:
    """The names of what is directly in a directory; those of directories end in a slash."""
    for entry in entries:
        name = entry.path.removeprefix(f"{place}/" if place else "")
        if name and "/" not in name and entry.path != place:
            yield name + ("/" if entry.kind is EntryKind.DIRECTORY else "")


def _show(report: Report, entry: FileEntry) -> None:
    directory = entry.kind is EntryKind.DIRECTORY
    size = None if directory else entry.size
    name = display(entry.path, limit=4 * 1024) + ("/" if directory else "")
    report.data(
        "file",
        f"{'-' if size is None else size:>14}  {modified_words(entry.modified_ms)}  {name}",
        path=entry.path,
        type=entry.kind.name.lower(),
        size=size,
        modified_ms=entry.modified_ms,
    )


def modified_words(modified_ms: int) -> str:
    """``2026-11-25 04:30`` in local time; dashes where no calendar has that day."""
    try:
        return datetime.fromtimestamp(modified_ms / 1000, UTC).astimezone().strftime("%Y-%m-%d %H:%M")
    except (ValueError, OverflowError, OSError):
        return "----------------"


async def _get(context: Context, login: Login, remote: RemotePath, files: FileReceiver, *, reconnect: bool) -> None:
    job = Get((remote.path or EVERYTHING,))
    await _run(context, login, remote, job, files, reconnect=reconnect)


async def _opened(files: Sources | UserDestination) -> None:
    try:
        await files.open()
    except LocalError as error:
        raise ClientError(Exit.LOCAL, str(error)) from error


async def _run(
    context: Context, login: Login, remote: RemotePath, job: Job, files: FileSource | FileReceiver, *, reconnect: bool
) -> None:
    report = context.report
    async with Calls(context, login) as caller:
        meter = Meter(make_view(report))
        transferring = FileTransfer(caller, report, remote.name, job, files, meter)
        try:
            await transferring.run(reconnect=reconnect)
        except asyncio.CancelledError:
            meter.close()
            command = command_line()
            report.error(go_on_sentence(transferring.progress, command), code=int(Exit.INTERRUPTED), command=command)
            raise
        finally:
            meter.close()


def command_line() -> str:
    """This command as it can be typed again."""
    return shlex.join(["mxrtc", *sys.argv[1:]])


def _remote(login: Login, text: str) -> RemotePath:
    return parse_remote_name(typed(text), server=login.server, prefix=login.prefix)
