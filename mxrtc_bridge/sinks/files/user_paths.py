"""The user's side: what ``mxrtc send`` sends and where ``mxrtc get`` puts things.

Sources are named by the user, and are taken at his word: a link on the command line is followed, hidden files and files
with several names are sent. Links *within* a directory are not followed, as everywhere.

Standard input has no size and cannot be read twice, and both are needed to resume. It is therefore written to a
temporary file without a name first, and sent from there when its end is known. Its end may never come, so that reading
it can be given up at any time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import stat
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mxrtc_bridge.core.errors import LocalError
from mxrtc_bridge.core.files.events import Failure
from mxrtc_bridge.core.files.messages import EntryKind, FileCode, FileEntry
from mxrtc_bridge.core.files.names import LAX, LAX_PORTABLE, UNNAMED
from mxrtc_bridge.core.files.patterns import Selection, parse_path_pattern
from mxrtc_bridge.core.text.display import quoted
from mxrtc_bridge.sinks.files.disk_names import from_disk, typed
from mxrtc_bridge.sinks.files.receive.publisher import Existing, Naming
from mxrtc_bridge.sinks.files.receive.quota import UNLIMITED
from mxrtc_bridge.sinks.files.receive.receiver import DirectoryReceiver, ReceivePolicy
from mxrtc_bridge.sinks.files.rooted_dir import RootedDirectory
from mxrtc_bridge.sinks.files.send.outgoing_file import OutgoingFile, inode_of, version_of
from mxrtc_bridge.sinks.files.send.share import open_source
from mxrtc_bridge.sinks.files.send.tree_walk import NOT_TEXT, Found, Tree, TreeWalk, displayable_path
from mxrtc_bridge.sinks.files.threads import FileThreads
from mxrtc_bridge.sinks.files.whole_input import GivenUpError, WholeInput
from mxrtc_bridge.system import WINDOWS, files

MAX_SOURCES = 1024
STDIN = "-"
PRIVATE_MODE = 0o600


@dataclass(frozen=True, slots=True)
class _Single:
    """A file named on the command line, or standard input's copy."""

    path: Path | None
    descriptor: int = -1


class Sources:
    """What the command line names. Made by :meth:`open`; ended by :meth:`close`.

    Args:
        paths: files, directories, or ``-`` for standard input.
        name: the name of standard input for the other side.
        stdin: its descriptor.
        resume: let the other side go on with what it has of these files, and know those that it has as a whole.
    """

    def __init__(self, paths: Sequence[str], *, name: str | None = None, stdin: int = 0, resume: bool = True) -> None:
        self._paths = tuple(paths)
        self._name = None if name is None else typed(name)
        self._stdin = stdin
        # A receiver knows a file by its version: one that it has never seen begins anew. It stays the same as long as
        # this object lives, so that a lost connection costs nothing even then.
        self._mark = "" if resume else f"{secrets.token_hex(8)}-"
        self._workers = FileThreads()
        self._input: WholeInput | None = None
        self._trees: list[Tree] = []
        self._singles: list[_Single] = []
        self._entries: list[Found] = []
        self._names: set[str] = set()

    async def open(self) -> None:
        """Find everything that was named; reads standard input to its end if it is among it.

        Raises:
            LocalError: something named is not there, cannot be read, or is no file and no directory.
        """
        if not 1 <= len(self._paths) <= MAX_SOURCES:
            raise LocalError(f"{len(self._paths)} paths were named; give 1 to {MAX_SOURCES}")
        if STDIN in self._paths:
            try:
                self._input = WholeInput(self._stdin)
            except OSError as error:
                raise _unreadable(error) from error
        finding = asyncio.ensure_future(self._workers.run(self._find_all))
        try:
            await asyncio.wait([finding])
            finding.result()
        except BaseException:
            if self._input is not None:
                self._input.give_up()
            with contextlib.suppress(Exception):
                await finding  # a disk may still be waited for
            self.close()
            raise

    def walk(self) -> TreeWalk:
        """Return a walk through everything."""
        return TreeWalk(self._trees, self._workers, self._entries)

    async def open_file(self, entry: FileEntry, offset: int = 0) -> OutgoingFile:
        """Open a file that the walk has found, at ``offset``.

        Raises:
            FileError: it is not what was found any more, or cannot be read.
        """
        entry = replace(entry, version=entry.version.removeprefix(self._mark))
        kind, _, rest = entry.origin.partition(":")
        if kind == "single":
            single = self._singles[int(rest)]
            return await open_source(lambda: _open_single(single), entry, self._workers, offset, hard_links=True)
        number, _, path = rest.partition(":")
        root, parts = self._trees[int(number)].root, path.split("/")
        return await open_source(lambda: root.open(parts, os.O_RDONLY), entry, self._workers, offset, hard_links=True)

    def close(self) -> None:
        """Let go; call it after all walks and files are done."""
        self._workers.close()
        for tree in self._trees:
            tree.root.close()
        for single in self._singles:
            if single.descriptor >= 0:
                os.close(single.descriptor)
        self._trees, self._singles = [], []
        if self._input is not None:
            self._input.close()

    def _find_all(self) -> None:
        for path in self._paths:
            if path == STDIN:
                self._add_stdin()
            else:
                self._add(Path(path))

    def _add(self, path: Path) -> None:
        try:
            status = path.stat()
        except OSError as error:
            raise LocalError(f"{quoted(str(path), 200)} cannot be sent: {os.strerror(error.errno or 0)}") from error
        # "." and "dir/.." have no name of their own; the directory that they mean has.
        name = from_disk(path.name if path.name not in {"", ".."} else path.resolve().name)
        if (shown := displayable_path(name)) != name:
            # As for such a name within a directory: it costs that file, and nothing else.
            self._entries.append(Failure(shown, FileCode.NAME, NOT_TEXT))
            return
        name = self._offered_name(name or UNNAMED)
        if stat.S_ISDIR(status.st_mode):
            everything = Selection([parse_path_pattern("")])
            origin = f"tree:{len(self._trees)}:"
            self._trees.append(
                Tree(
                    RootedDirectory(path),
                    everything,
                    hidden=True,
                    prefix=(name,),
                    origin=origin,
                    version=self._mark,
                    hard_links=True,
                )
            )
            self._entries.append(FileEntry(name, EntryKind.DIRECTORY, 0, max(status.st_mtime_ns // 1_000_000, 0)))
        elif stat.S_ISREG(status.st_mode):
            self._add_single(name, status, _Single(path))
        else:
            raise LocalError(
                f"{quoted(str(path), 200)} cannot be sent: it is neither a file nor a directory; for what comes from a "
                "pipe name - (standard input): COMMAND | mxrtc send - PEER --name NAME"
            )

    def _add_single(self, name: str, status: os.stat_result, single: _Single) -> None:
        origin = f"single:{len(self._singles)}"
        self._singles.append(single)
        modified_ms = max(status.st_mtime_ns // 1_000_000, 0)
        version = self._mark + version_of(status)
        self._entries.append(
            FileEntry(name, EntryKind.FILE, status.st_size, modified_ms, version, origin, inode_of(status))
        )

    def _offered_name(self, name: str) -> str:
        """The name as it is: what it may be at the other side is decided there, as for names within a directory."""
        if name in self._names:
            raise LocalError(f"two of the paths have the name {quoted(name)}; send them one after the other")
        self._names.add(name)
        return name

    def _add_stdin(self) -> None:
        if self._name is None:
            raise LocalError("standard input needs a name for the other side; give one with --name")
        if self._name in {"", ".", ".."} or "/" in self._name or displayable_path(self._name) != self._name:
            raise LocalError(f"{quoted(self._name)} is no name of a file; give another one with --name")
        name = self._offered_name(self._name)
        try:
            # Without a buffer, which would fail once more when it is closed, and say less.
            with tempfile.TemporaryFile(prefix="mxrtc-", buffering=0) as spool:
                assert self._input is not None
                self._input.copy_to(spool.fileno())
                descriptor = os.dup(spool.fileno())
        except GivenUpError:
            raise LocalError("standard input was not read to its end") from None
        except OSError as error:
            raise _unreadable(error) from error
        self._add_single(name, os.fstat(descriptor), _Single(None, descriptor))


def _unreadable(error: OSError) -> LocalError:
    words = f"{os.strerror(error.errno or 0)}; TMPDIR chooses where its copy is kept"
    return LocalError(f"standard input cannot be read to its end: {words}")


def _open_single(single: _Single) -> int:
    if single.path is None:
        return os.dup(single.descriptor)
    return files.open_at(single.path, os.O_RDONLY | files.O_CLOEXEC | files.O_NONBLOCK | files.O_NOCTTY)


class UserDestination(DirectoryReceiver):
    """The directory that ``mxrtc get`` puts things into.

    What is unfinished is kept in ``.mxrtc`` there; ``close(tidy=True)`` removes it if everything is finished. Several
    programs may receive into the same directory at a time.

    Args:
        path: the directory; made if it does not exist.
        force: replace files of the same names, each in one step, instead of choosing other names.
        resume: go on with what is unfinished, do not fetch again what an unfinished transfer has fetched, and keep no
            second file of the same name and content.
        asked: what of the other side is wanted, as it was typed. Hidden files and names like options, which somebody
            else has chosen, are put below a directory of their own only, unless the last part of this begins so.
        private: nobody else may read what is fetched, whatever the umask.
    """

    def __init__(
        self,
        path: Path,
        *,
        force: bool = False,
        resume: bool = True,
        asked: str = "",
        private: bool = False,
    ) -> None:
        # An earlier command may have fetched all of it, and ended before it could say so.
        existing = Existing.REPLACE if force else Existing.KEEP_DIFFERENT if resume else Existing.KEEP_BOTH
        # Names that cannot be kept are made safe: who fetches something wants to have it.
        naming = Naming(LAX_PORTABLE if WINDOWS else LAX, sanitise=True, existing=existing)
        policy = ReceivePolicy(
            naming,
            UNLIMITED,
            exclusive=False,
            resume=resume,
            top_level=asked.rstrip("/").rpartition("/")[2][:1],
            umask=not private,
            mode=PRIVATE_MODE if private else None,
        )
        super().__init__(path, policy)
