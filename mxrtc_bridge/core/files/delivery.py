"""What has arrived in one transfer, and how people are told.

A delivery counts files that have their name and are on the disk: a receiver reports them in no other state. What was
there already, and directories themselves, are no news. However many files a transfer has, only the first few are kept
by name.

Texts come in two forms, plain and HTML. Names are somebody else's: both forms show them by
:func:`~mxrtc_bridge.core.text.display.display`, which leaves nothing that could act, and the second one escapes them.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from mxrtc_bridge.core.files import events as tx
from mxrtc_bridge.core.files.messages import EntryKind
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.text.display import display, size_words

MAX_NAMED = 5
"""Files of a transfer that are named one by one."""
_NAME_COLUMNS = 200


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file that has arrived."""

    name: str
    """The path that it has got."""
    size: int
    """In bytes."""
    sha256: str
    """In hexadecimal."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What one transfer has brought."""

    sender: UserId
    peer: UserId
    service: ServiceName
    files: tuple[ReceivedFile, ...]
    """The first of them to arrive, in the order of their names: files of one transfer finish in any order."""
    count: int
    size: int
    """Of all of them, in bytes."""


@dataclass(frozen=True, slots=True)
class Text:
    """Something to be said, in both forms."""

    plain: str
    html: str


class DeliveryTally:
    """Counts what one transfer brings."""

    def __init__(self) -> None:
        self._files: list[ReceivedFile] = []
        self._count = 0
        self._size = 0

    def record(self, done: tx.EntryEnd) -> None:
        """Take in what became of an entry of the transfer."""
        if not isinstance(done, tx.EntryDone) or done.kept or done.entry.kind is not EntryKind.FILE:
            return
        self._count += 1
        self._size += done.entry.size
        if len(self._files) < MAX_NAMED:
            self._files.append(ReceivedFile(done.name, done.entry.size, done.sha256))

    def delivery(self, sender: UserId, peer: UserId, service: ServiceName) -> Delivery | None:
        """Return what has come, or None if nothing has."""
        if not self._count:
            return None
        named = sorted(self._files, key=lambda file: file.name)
        return Delivery(sender, peer, service, tuple(named), self._count, self._size)


def receipt(delivery: Delivery) -> Text:
    """What the sender is told in the direct chat with the peer."""
    if delivery.count == 1:
        (file,) = delivery.files
        name = display(file.name, _NAME_COLUMNS)
        return Text(
            f"Received {name}, {size_words(file.size)}, SHA-256 {file.sha256}",
            f"Received <code>{escape(name)}</code>, {size_words(file.size)}, SHA-256 <code>{file.sha256}</code>",
        )
    return _listed(f"Received {delivery.count} files, {size_words(delivery.size)}", delivery)


def announcement(delivery: Delivery) -> Text:
    """What the room for notices is told."""
    place = f"{delivery.peer}/{delivery.service}"
    if delivery.count == 1:
        (file,) = delivery.files
        name = display(file.name, _NAME_COLUMNS)
        return Text(
            f"{delivery.sender} has put {name} into {place}: {size_words(file.size)}, SHA-256 {file.sha256}",
            f"{escape(delivery.sender)} has put <code>{escape(name)}</code> into {escape(place)}: "
            f"{size_words(file.size)}, SHA-256 <code>{file.sha256}</code>",
        )
    start = f"{delivery.sender} has put {delivery.count} files into {place}, {size_words(delivery.size)}"
    return _listed(start, delivery)


def _listed(start: str, delivery: Delivery) -> Text:
    names = [display(file.name, _NAME_COLUMNS) for file in delivery.files]
    more = delivery.count - len(names)
    rest = f" and {more} more" if more else ""
    plain = f"{start}: {', '.join(names)}{rest}"
    html = f"{escape(start)}: {', '.join(f'<code>{escape(name)}</code>' for name in names)}{rest}"
    return Text(plain, html)
