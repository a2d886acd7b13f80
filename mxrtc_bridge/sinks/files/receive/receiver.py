"""Receiving into a directory: names, quotas, room, and what goes on from an earlier session.

:class:`DirectoryReceiver` is what drop boxes and the user's own directories have in common. It decides in this order
whether a file is received: its name; whether this very version was received before; quotas and the room on the disk.

The books (:mod:`mxrtc_bridge.sinks.files.receive.books`) are counted from the disk at the start, beside everything
else: whoever sends meanwhile waits for it. So at first nobody's files are looked at one by one: all that a sender has
ever put here counts as his. And they are counted anew before somebody is refused for his quota, because people take
files out of the box behind our back.

One file: its steps are one order, in which nothing waits between what is checked and what is charged for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mxrtc_bridge.core.access.targets import FileLimits
from mxrtc_bridge.core.files.messages import EntryKind, FileCode, FileEntry, FileError
from mxrtc_bridge.core.files.names import MAX_PATH_BYTES, FileNameError, check_relative_path, sanitise
from mxrtc_bridge.core.files.patterns import NamePattern, name_allowed
from mxrtc_bridge.sinks.files.os_errors import translated
from mxrtc_bridge.sinks.files.receive.batches import Batches
from mxrtc_bridge.sinks.files.receive.books import Books
from mxrtc_bridge.sinks.files.receive.incoming_file import MAX_MEMORY_BYTES, SMALL_FILE_BYTES, Committer, IncomingFile
from mxrtc_bridge.sinks.files.receive.partial_file import PartialFileKey
from mxrtc_bridge.sinks.files.receive.permissions import Permissions, group_id
from mxrtc_bridge.sinks.files.receive.publisher import Naming, Publication, Published
from mxrtc_bridge.sinks.files.receive.receipts import Receipt
from mxrtc_bridge.sinks.files.receive.state_dir import COMPACT_FROM, KeptPartial, StateDirectory
from mxrtc_bridge.sinks.files.threads import FileThreads

RECOUNT_EVERY_S = 10.0
FREE_SPACE_AGE_S = 1.0
COUNTED_S = 30.0
"""How long a sender waits until it is known what the directory holds; a million files take about as long."""
MAX_VERSION_CHARS = 64


@dataclass(frozen=True, slots=True)
class ReceivePolicy:
    """How a directory receives."""

    naming: Naming
    limits: FileLimits
    allowed: tuple[NamePattern, ...] = ()
    """Names that are received; empty means all."""
    exclusive: bool = True
    """One process only, and books are kept; otherwise several may receive, and there are no quotas."""
    resume: bool = True
    """Go on with partial files, and recognise what was received before."""
    top_level: str | None = None
    """Which of dot and dash may begin the name of what lies in the directory itself; None: both. Below it the rules of
    names are enough."""
    umask: bool = False
    """Who may read what arrives is decided by the umask, as for any file; otherwise it is the owner's alone, unless the
    directory says something else (:class:`~mxrtc_bridge.sinks.files.receive.permissions.Permissions`)."""
    mode: int | None = None
    """Of files, whatever the umask."""
    group: str | None = None
    """Of what arrives, by name or number; None for the one that the kernel gives."""


@dataclass(frozen=True, slots=True)
class Expired:
    """What :meth:`DirectoryReceiver.expire` removed."""

    files: int
    size: int


class DirectoryReceiver:
    """Receives into one directory. Opened by :meth:`open`, ended by :meth:`close`.

    Args:
        path: the directory; made if it does not exist.
        policy: how it receives.
        clock: seconds since 1970; for tests.
        recount_every_s: see :data:`RECOUNT_EVERY_S`.
        max_memory_bytes: what files that are small may take together before they go to the disk.
        counted_s: see :data:`COUNTED_S`.
        compact_from: see :data:`mxrtc_bridge.sinks.files.receive.state_dir.COMPACT_FROM`.
    """

    def __init__(
        self,
        path: Path,
        policy: ReceivePolicy,
        *,
        clock: Callable[[], float] = time.time,
        recount_every_s: float = RECOUNT_EVERY_S,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
        counted_s: float = COUNTED_S,
        compact_from: int = COMPACT_FROM,
    ) -> None:
        self._counted_s = counted_s
        self._compact_from = compact_from
        self._recount_every_s = recount_every_s
        self._max_memory_bytes = max_memory_bytes
        self._path = path
        self._policy = policy
        self._clock = clock
        self._workers = FileThreads()
        self.books = Books(policy.limits)
        self._counts, self._counted_at, self._asked_at = 0, float("-inf"), float("-inf")
        self._is_at_most = False
        """Whether the books have what each sender has at most, as nobody's files were looked at yet."""
        self._free = 0
        self._box: StateDirectory | None = None
        self._committer: Committer | None = None
        self._lookups = Batches(self._look_up)
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._suspensions: set[asyncio.Task[None]] = set()
        self._counting: asyncio.Task[bool] | None = None
        self._closed = False

    async def open(self) -> None:
        """Open the directory, and begin to count what is in it.

        Raises:
            LocalError: it cannot be used, or another process receives into it.
        """
        policy = self._policy

        def open_box() -> None:
            group = None if policy.group is None else group_id(policy.group)
            permissions = Permissions(umask=policy.umask, mode=policy.mode, group=group)
            self._box = StateDirectory(
                self._path,
                policy.naming,
                permissions,
                exclusive=policy.exclusive,
                compact_from=self._compact_from,
            )

        try:
            await self._workers.run(open_box)
            self._committer = Committer(self.box, self._workers)
            if not policy.exclusive:
                await self._recount(first=True)  # There are no books, so it takes no time.
                return
        except BaseException:
            if self._box is not None:
                self._box.close()
            self._workers.close()
            raise
        self._count()

    async def counted(self) -> None:
        """Return when it is known what the directory holds; what could not be counted is counted again.

        Raises:
            FileError: it takes long, the disk does not answer, or this is closed, perhaps meanwhile.
        """
        self._refuse_if_closed()
        if not self._policy.exclusive:
            return
        counting = self._counting
        if counting is None or (counting.done() and counting.exception() is not None):
            counting = self._count()
        if not counting.done() and not (await asyncio.wait([counting], timeout=self._counted_s))[0]:
            raise FileError(FileCode.UNAVAILABLE, "what is here already is still being counted; try again in a while")
        counting.result()
        self._refuse_if_closed()

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise FileError(FileCode.UNAVAILABLE, "nothing is received at the moment")

    def _count(self) -> asyncio.Task[bool]:
        """Count in a task of our own: many may wait for it, and any of them may be cancelled."""
        self._counting = asyncio.get_running_loop().create_task(self._recount(first=True), name="counting")
        self._counting.add_done_callback(self._counted)
        return self._counting

    def _counted(self, counting: asyncio.Task[bool]) -> None:
        error = None if counting.cancelled() else counting.exception()
        if error is not None and not self._closed:
            self._commit.seldom.warning(str(error), "! what a directory holds could not be counted: %s", error)

    @property
    def box(self) -> StateDirectory:
        assert self._box is not None, "the store is not open"
        return self._box

    @property
    def _commit(self) -> Committer:
        assert self._committer is not None, "the store is not open"
        return self._committer

    async def begin(self, sender: str, entry: FileEntry) -> IncomingFile | Published:
        """Begin to receive a file, or a directory, which is published at once.

        Args:
            sender: who is charged, and who alone can go on with it.
            entry: as it was offered.

        Returns:
            the reception, or what was published: a directory, or a file that was received before.

        Raises:
            FileError: it is not received; the text can be told to the sender.
        """
        self._refuse_if_closed()
        parts = self._checked_parts(entry)
        await self.counted()
        identity = PartialFileKey(sender, entry.path, entry.size, entry.modified_ms, entry.version)
        if entry.kind is EntryKind.DIRECTORY:
            return await self._make_directory(identity, parts)
        if (other := self.books.live.get(identity.key)) is not None:
            # A client that lost its link comes again before we know that the old link is dead.
            await other.take_over()
        if self._policy.resume and (published := await self._received_before(identity)) is not None:
            return published
        restarted = await self._forget_others(identity)
        await self._admit(identity)
        known = identity.key in self.books.kept
        reception = self._admitted(identity, parts)
        try:
            # One of the same name may be on its way out; nothing is opened before it is gone.
            if (removal := self._removals.get(identity.key)) is not None:
                await asyncio.wait([removal])
            if entry.size > SMALL_FILE_BYTES:
                await self._look_ahead(reception, parts, known=known)
        except BaseException:
            await reception.suspend()
            raise
        reception.restarted = restarted
        return reception

    async def expire(self) -> Expired:
        """Remove partial files that nobody went on with for as long as the limits say; compacts the ledger.

        Raises:
            FileError: see :meth:`counted`.
        """
        await self.counted()
        if self._is_at_most:
            await self._recount()
        oldest = self._clock() - self._policy.limits.partial_age_s
        old = [kept for kept in self.books.kept.values() if kept.changed_s < oldest]
        for kept in old:
            await self._remove_kept(kept)
        async with self._commit.turn:
            await self._workers.run(self.box.compact)
        return Expired(len(old), sum(kept.size for kept in old))

    async def close(self, *, tidy: bool = False) -> None:
        """Suspend what is under way, and let go.

        Args:
            tidy: remove what was kept beside the files, unless something is unfinished.
        """
        if self._closed:
            return
        self._closed = True
        if self._counting is not None:
            self.box.stop_counting()
            await asyncio.wait([self._counting])
        for reception in list(self.books.live.values()):
            await reception.suspend()
        if self._suspensions:
            await asyncio.wait(self._suspensions)
        await self._lookups.close()
        if self._committer is not None:
            await self._committer.close()
        if self._removals:
            await asyncio.wait(self._removals.values())
        if self._box is not None:
            box = self._box
            await self._workers.run(lambda: box.close(tidy=tidy), always=True)
        self._workers.close()

    # Keeper

    def written(self, size: int) -> None:
        """Bytes that have come take room on the disk already."""
        self.books.written(size)

    def ended(self, reception: IncomingFile, *, kept: int, published: Published | None) -> None:
        """Settle the account of a file."""
        self.books.ended(reception, published)
        if published is not None:
            return
        if kept:
            self._keep(KeptPartial(reception.identity, kept, self._clock()))
        elif reception.before is not None and not reception.touched:
            # It ended before it had looked at what was there, which is therefore still there.
            self._keep(reception.before)

    def suspend_soon(self, reception: IncomingFile) -> None:
        """Suspend in a task of our own, which :meth:`close` waits for."""
        task = asyncio.get_running_loop().create_task(reception.suspend())
        self._suspensions.add(task)
        task.add_done_callback(self._suspensions.discard)

    # Steps of begin

    def _checked_parts(self, entry: FileEntry) -> tuple[str, ...]:
        naming = self._policy.naming
        if entry.size < 0 or len(entry.version) > MAX_VERSION_CHARS or len(entry.path) > MAX_PATH_BYTES:
            raise FileError(FileCode.VIOLATION, "the entry is outside the limits of the protocol")
        try:
            if naming.sanitise:
                parts = sanitise(entry.path, naming.rules)
            else:
                parts = check_relative_path(entry.path, naming.rules)
        except FileNameError as error:
            remedy = naming.remedy(entry.path)
            raise FileError(FileCode.NAME, f"{error}; {remedy}" if remedy else str(error)) from error
        if self._policy.top_level is not None and parts[0][0] in ".-" and parts[0][0] not in self._policy.top_level:
            raise FileError(
                FileCode.NAME,
                "names that begin with a dot or a dash are put only below a directory that was asked for; ask for it "
                f"by its own name, as PEER/SERVICE:{parts[0]}",
            )
        if entry.kind is EntryKind.FILE and not name_allowed(parts[-1], self._policy.allowed):
            wanted = ", ".join(pattern.text for pattern in self._policy.allowed)
            raise FileError(FileCode.NAME, f"only files of these names are taken here: {wanted[:200]}")
        return parts

    async def _make_directory(self, identity: PartialFileKey, parts: tuple[str, ...]) -> Published:
        try:
            self.books.check_directory(identity.sender)
        except FileError:
            if not await self._recount():
                raise
            self.books.check_directory(identity.sender)
        published = await self._commit.publish(Publication(identity, parts, ""))
        self.books.add_directories(identity.sender, published.directories)
        return published

    async def _received_before(self, identity: PartialFileKey) -> Published | None:
        if not self.box.ledger.knows(identity):
            return None
        receipt = await self._lookups.do(identity)
        return None if receipt is None else Published(receipt.name, receipt.size, receipt.digest, before=True)

    async def _look_up(self, identities: Sequence[PartialFileKey]) -> Sequence[Receipt | FileError | None]:
        """Look up files that may have been received before; those of a batch are answered together as well."""

        def look_up(identity: PartialFileKey) -> Receipt | FileError | None:
            try:
                return self.box.received_before(identity)
            except FileError as error:
                return error
            except OSError as error:
                return translated(error)

        try:
            async with self._commit.turn:
                return await self._workers.run(lambda: [look_up(identity) for identity in identities])
        except FileError as error:
            return [error for _ in identities]
        except Exception as error:  # noqa: BLE001 - a mistake of ours must leave nobody waiting for ever
            self._commit.seldom.exception("", "looking up a batch of files failed", error=error)
            return [FileError(FileCode.IO, "it could not be looked up") for _ in identities]

    async def _forget_others(self, identity: PartialFileKey) -> bool:
        """Drop partial files of other versions; returns whether there were any."""
        others = [
            kept
            for key, kept in self.books.kept.items()
            if kept.identity.place == identity.place and (key != identity.key or not self._policy.resume)
        ]
        for kept in others:
            await self._remove_kept(kept)
        return bool(others)

    async def _admit(self, identity: PartialFileKey) -> None:
        self.books.check_number(identity.sender)
        free = await self._free_bytes()
        try:
            self.books.check(identity, free)
        except FileError as error:
            if error.code not in {FileCode.QUOTA, FileCode.SPACE} or not await self._recount():
                raise
            self.books.check(identity, await self._free_bytes())

    def _admitted(self, identity: PartialFileKey, parts: tuple[str, ...]) -> IncomingFile:
        """Charge for a file that may come. Nothing waits between the check and this."""
        kept = self.books.begin(identity)
        reception = IncomingFile(
            identity,
            parts,
            box=self.box,
            workers=self._workers,
            committer=self._commit,
            keeper=self,
            before=kept,
            max_memory_bytes=self._max_memory_bytes,
        )
        self.books.live[identity.key] = reception
        return reception

    async def _look_ahead(self, reception: IncomingFile, parts: tuple[str, ...], *, known: bool) -> None:
        """Learn before gigabytes are sent that the name will be refused, and how much is there already."""
        async with self._commit.turn:
            await self._workers.run(lambda: self.box.publisher.check_place(parts))
        if known:
            await reception.take_up()

    # What is on the disk

    async def _free_bytes(self) -> int:
        now = asyncio.get_running_loop().time()
        if now - self._asked_at > FREE_SPACE_AGE_S:
            self._free = await self._workers.run(self.box.free_bytes)
            self._asked_at = now
        return self._free

    async def _recount(self, *, first: bool = False) -> bool:
        """Count what is on the disk; returns whether it was done, as it is not right after the last time."""
        now, counts = asyncio.get_running_loop().time(), self._counts
        if now - self._counted_at < self._recount_every_s:
            return False
        async with self._commit.turn:
            # Who waited for another's count has it; if that one was cancelled, or failed, there is none.
            if counts == self._counts:
                await self._count_anew(first=first)
                # Whoever has no room by what he has at most is counted before he is refused.
                self._counted_at = float("-inf") if first else now
                self._counts += 1
        return True

    async def _count_anew(self, *, first: bool) -> None:
        at_most = await self._workers.run(self.box.read_ledger) if first else None
        if self._policy.exclusive:
            self.books.recount(await self._workers.run(lambda: self.box.contents(at_most)))
            self._is_at_most = first
        if first:
            for kept in await self._workers.run(self.box.kept):
                self._keep(kept)

    def _keep(self, kept: KeptPartial) -> None:
        if (surplus := self.books.keep(kept)) is not None:
            self._start_removal(surplus)

    async def _remove_kept(self, kept: KeptPartial) -> None:
        self._start_removal(kept)
        removal = self._removals.get(kept.identity.key)
        if removal is not None:
            await asyncio.wait([removal])

    def _start_removal(self, kept: KeptPartial) -> None:
        """Take a partial file out of the books at once, and off the disk as soon as can be."""
        if self.books.take(kept.identity) is None:
            return
        key = kept.identity.key
        task = asyncio.get_running_loop().create_task(self._remove(kept))
        self._removals[key] = task
        task.add_done_callback(lambda _: self._removals.pop(key, None))

    async def _remove(self, kept: KeptPartial) -> None:
        try:
            await self._workers.run(lambda: self.box.remove_partial(kept.identity))
        except FileError as error:
            self._commit.seldom.warning(str(error), "a partial file could not be removed: %s", error)
