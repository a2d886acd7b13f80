"""The chain of the audit: whatever is changed, taken out, put in or moved is found."""

from __future__ import annotations

import contextlib
import hmac
import json
import string
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.audit.chain import (
    MAX_LINE_BYTES,
    NO_LINES,
    AuditEntry,
    AuditKind,
    AuditRecord,
    ChainError,
    Head,
    Removals,
    Retention,
    check_head,
    entry_after,
    is_authentic,
    number_of,
    read_chain,
    read_line,
    retention,
)
from mxrtc_bridge.core.audit.sentences import describe

NOW = 1_700_000_000_000

texts = st.none() | st.text(max_size=400)
numbers = st.none() | st.integers(-5, 2**60)
records = st.builds(
    AuditRecord,
    kind=st.sampled_from(AuditKind),
    at_ms=st.integers(0, 2**50),
    user=texts,
    peer=texts,
    service=texts,
    allowed=st.none() | st.booleans(),
    rule=texts,
    by=texts,
    device=texts,
    session=numbers,
    grant=numbers,
    request=numbers,
    until_ms=numbers,
    path=texts,
    lasted_ms=numbers,
    sent=numbers,
    received=numbers,
    reason=texts,
    count=numbers,
    line=numbers,
)


def chain(*made: AuditRecord, after: Head = NO_LINES, key: bytes | None = None) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    for record in made:
        entries.append(entry_after(entries[-1].head if entries else after, record, key))
    return entries


def lines_of(entries: list[AuditEntry]) -> list[bytes]:
    return [entry.line.encode() for entry in entries]


FIVE = chain(*(AuditRecord(AuditKind.CALL, NOW + n, user=f"@u{n}:example.org", allowed=True) for n in range(5)))


@given(st.lists(records, max_size=4))
def test_what_is_written_can_be_read_and_is_bounded(made: list[AuditRecord]) -> None:
    entries = chain(*made)
    found = list(read_chain(lines_of(entries)))
    assert [each.line for each in found] == [each.line for each in entries]
    assert [each.head for each in found] == [each.head for each in entries]
    for entry in entries:
        assert entry.line.isascii()
        assert entry.line.isprintable()
        assert len(entry.line) <= MAX_LINE_BYTES
        # What was read is written as the same fields again: nothing but the escapes of texts can differ.
        record = read_line(entry.line.encode()).record
        assert record.kind is entry.record.kind
        assert describe(record).isprintable()
        assert describe(entry.record).isprintable()
    assert check_head(found, entries[-1].head if entries else NO_LINES) == len(made)


def test_a_line_is_what_the_documentation_says() -> None:
    record = AuditRecord(AuditKind.CALL, 5, user="@a:b", peer="@rtc_x:b", session=1, allowed=False, rule="no grant")
    (entry,) = chain(record)
    assert entry.line == (
        '{"allowed":false,"at_ms":5,"kind":"call","n":1,"peer":"@rtc_x:b",'
        f'"prev":"{"0" * 64}","rule":"no grant","session":1,"user":"@a:b"}}'
    )


def test_no_field_is_for_an_address_or_contents() -> None:
    """A new field must be thought about; this list is what admins were told."""
    assert {each.name for each in fields(AuditRecord)} == {
        "kind",
        "at_ms",
        "user",
        "peer",
        "service",
        "allowed",
        "rule",
        "by",
        "device",
        "session",
        "grant",
        "request",
        "until_ms",
        "path",
        "lasted_ms",
        "sent",
        "received",
        "reason",
        "count",
        "line",
    }


@given(st.data())
def test_every_changed_byte_is_found(data: st.DataObject) -> None:
    whole = b"\n".join(lines_of(FIVE)) + b"\n"
    place = data.draw(st.integers(0, len(whole) - 1))
    byte = data.draw(st.sampled_from(sorted(string.printable.encode())))
    changed = whole[:place] + bytes([byte]) + whole[place + 1 :]
    if changed != whole:
        with pytest.raises(ChainError):
            check_head(read_chain(changed.split(b"\n")[:-1]), FIVE[-1].head)


@pytest.mark.parametrize("gone", range(5))
def test_every_line_that_is_taken_out_is_found(gone: int) -> None:
    lines = lines_of(FIVE)
    del lines[gone]
    if gone == 0:
        # Older files may be gone; what is left must hold together.
        assert check_head(read_chain(lines), FIVE[-1].head) == 4
    else:
        with pytest.raises(ChainError, match=f"line {gone + 1}:|it ends with number 4"):
            check_head(read_chain(lines), FIVE[-1].head)


@given(st.permutations(range(5)), st.integers(0, 4))
def test_lines_that_are_moved_or_doubled_are_found(order: list[int], doubled: int) -> None:
    lines = lines_of(FIVE)
    if order != sorted(order):
        with pytest.raises(ChainError):
            check_head(read_chain([lines[index] for index in order]), FIVE[-1].head)
    with pytest.raises(ChainError):
        list(read_chain([*lines[: doubled + 1], *lines[doubled:]]))


def test_a_chain_that_was_written_anew_from_some_line_on_is_found_by_its_head() -> None:
    forged = chain(AuditRecord(AuditKind.CALL, NOW, user="@mallory:evil.test"), after=FIVE[3].head)
    lines = lines_of(FIVE[:4] + forged)
    assert len(list(read_chain(lines))) == 5, "the chain alone cannot tell"
    with pytest.raises(ChainError, match="number 5 is not the one that the database knows"):
        check_head(read_chain(lines), FIVE[-1].head)


def test_lines_that_came_after_the_head_was_read_are_none_of_its_business() -> None:
    assert check_head(read_chain(lines_of(FIVE)), FIVE[2].head) == 5


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"3",
        b"nonsense",
        b"\xff",
        b"[" * 20_000,
        b'{"n":1}',
        b'{"prev":"' + b"0" * 64 + b'"}',
        b'{"n":0,"prev":"' + b"0" * 64 + b'","kind":"call","at_ms":1}',
        b'{"n":true,"prev":"' + b"0" * 64 + b'","kind":"call","at_ms":1}',
        b'{"n":1,"prev":"' + b"0" * 63 + b'","kind":"call","at_ms":1}',
        b'{"n":1,"prev":"' + b"0" * 64 + b'","kind":"call"}',
        b'{"n":1,"prev":"' + b"0" * 64 + b'","at_ms":1}',
        b'{"n":1,"prev":"' + b"0" * 64 + b'","kind":"other","at_ms":1}',
        b'{"n":1,"prev":"' + b"0" * 64 + b'","kind":["call"],"at_ms":1}',
        b'{"n":1,"prev":"' + b"0" * 64 + b'","kind":"call","at_ms":-1}',
        b'{"n":1,"prev":"' + b"0" * 64 + b'","kind":"call","at_ms":1,"user":5}',
        b'{"n":1,"prev":"' + b"0" * 64 + b'","kind":"call","at_ms":1,"allowed":1}',
        b'{"n":1,"prev":"' + b"0" * 64 + b'","kind":"call","at_ms":1,"address":"192.0.2.1"}',
        b'{"n":1,"prev":"' + b"0" * 64 + b'","kind":"call","at_ms":1,"user":"' + b"x" * MAX_LINE_BYTES + b'"}',
    ],
)
def test_what_is_no_line_is_refused(line: bytes) -> None:
    with pytest.raises(ChainError):
        read_line(line)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=5), st.lists, max_leaves=3))
def test_odd_values_are_refused_and_never_raise_anything_else(value: object) -> None:
    for name in ("n", "prev", "kind", "at_ms", "user", "allowed", "session"):
        content = {**json.loads(FIVE[0].line), name: value}
        with contextlib.suppress(ChainError):
            read_line(json.dumps(content).encode())


def test_a_session_is_told_in_the_words_of_the_list_of_sessions() -> None:
    ended = AuditRecord(
        AuditKind.END, NOW, user="@a:b", peer="@p:b", lasted_ms=60_000, path="direct", sent=1, received=2
    )
    assert ", 1 B sent and 2 B received" in describe(ended)


@pytest.mark.parametrize("kind", AuditKind)
def test_every_kind_has_words(kind: AuditKind) -> None:
    for allowed in (None, True, False):
        said = describe(AuditRecord(kind, NOW, user="@a:b\n\u202e", allowed=allowed, reason="<b>"))
        assert said.isprintable()
        assert said


KEY, ANOTHER = b"k" * 32, b"a" * 32
KEYED = chain(*(AuditRecord(AuditKind.CALL, NOW + n, user=f"@u{n}:x", allowed=True) for n in range(5)), key=KEY)


def test_a_line_of_format_2_is_what_the_documentation_says() -> None:
    (entry,) = chain(AuditRecord(AuditKind.PAUSE, 5, by="@a:b"), key=KEY)
    line = f'{{"at_ms":5,"by":"@a:b","kind":"pause","n":1,"prev":"{"0" * 64}","v":2}}'
    mac = hmac.new(KEY, line.encode(), "sha256").hexdigest()
    assert entry.line == f'{line[:-1]},"mac":"{mac}"}}'
    assert read_line(entry.line.encode()) == entry


@given(records)
def test_only_who_has_the_key_writes_a_line_that_counts(record: AuditRecord) -> None:
    (entry,) = chain(record, key=KEY)
    assert is_authentic(entry, KEY)
    assert not is_authentic(entry, ANOTHER)
    assert not is_authentic(chain(record)[0], KEY)
    assert number_of(entry.line.encode()) == 1
    assert len(entry.line) <= MAX_LINE_BYTES


@given(st.data())
def test_every_changed_byte_is_found_with_the_key_alone(data: st.DataObject) -> None:
    """Without the database; the line behind the changed one is written anew, as somebody without the key can."""
    number = data.draw(st.integers(0, 4))
    line = KEYED[number].line.encode()
    place = data.draw(st.integers(0, len(line) - 1))
    byte = data.draw(st.sampled_from(sorted(string.printable.encode())))
    changed = line[:place] + bytes([byte]) + line[place + 1 :]
    if changed == line:
        return
    with pytest.raises(ChainError):
        list(read_chain([*lines_of(KEYED[:number]), changed], KEY))


def test_old_lines_go_on_and_are_vouched_for_by_the_first_with_a_key() -> None:
    new = chain(AuditRecord(AuditKind.START, NOW), AuditRecord(AuditKind.STOP, NOW), after=FIVE[-1].head, key=KEY)
    assert len(list(read_chain(lines_of([*FIVE, *new]), KEY, since=6))) == 7
    with pytest.raises(ChainError, match="line 1: it has the number 1, and the bridge has not written it"):
        list(read_chain(lines_of([*FIVE, *new]), KEY))
    stripped = chain(AuditRecord(AuditKind.START, NOW), after=FIVE[-1].head)
    with pytest.raises(ChainError, match="line 6: it has the number 6"):
        list(read_chain(lines_of([*FIVE, *stripped]), KEY, since=6))
    with pytest.raises(ChainError, match="line 6: it has the number 6"):
        list(read_chain(lines_of([*FIVE, *chain(new[0].record, after=FIVE[-1].head, key=ANOTHER)]), KEY, since=6))


@pytest.mark.parametrize("text", ['"v":2', '"mac":"' + "0" * 64 + '"', '"v":1,"mac":""', '"v":true,"mac":""'])
def test_a_line_is_of_one_format_or_the_other(text: str) -> None:
    line = f'{{"at_ms":1,"kind":"stop","n":1,"prev":"{"0" * 64}",{text}}}'
    with pytest.raises(ChainError, match="format"):
        read_line(line.encode())


def test_what_the_bridge_has_removed_may_be_missing_and_nothing_else() -> None:
    removed = AuditRecord(AuditKind.REMOVED, NOW, line=2)
    made = chain(*(each.record for each in FIVE), removed, key=KEY)

    def judge(entries: list[AuditEntry]) -> None:
        removals = Removals()
        list(removals.watch(entries))
        removals.check()

    judge(made)
    judge(made[1:])
    judge(made[2:])
    with pytest.raises(ChainError, match="the lines 3 to 3 are missing, and the bridge has not removed them"):
        judge(made[3:])


@pytest.mark.parametrize(
    ("record", "whose"),
    [
        (AuditRecord(AuditKind.CALL, 1, user="@a:b:8448", allowed=True), (Retention.LET_IN, "@a:b:8448")),
        (AuditRecord(AuditKind.CALL, 1, user="@a:b:8448", allowed=False), (Retention.TURNED_AWAY, "b")),
        (AuditRecord(AuditKind.SERVICE, 1, user="@a:b", allowed=False), (Retention.TURNED_AWAY, "b")),
        (AuditRecord(AuditKind.END, 1, user="@a:b"), (Retention.LET_IN, "@a:b")),
        (AuditRecord(AuditKind.END, 1, reason="3 records are lost"), (Retention.ACT, "")),
        (AuditRecord(AuditKind.REQUEST, 1, user="@a:b"), (Retention.TURNED_AWAY, "b")),
        (AuditRecord(AuditKind.ANSWER, 1, user="@a:b", by="@a:b"), (Retention.TURNED_AWAY, "b")),
        (AuditRecord(AuditKind.ANSWER, 1, user="@a:b", by="@admin:b"), (Retention.ACT, "")),
        (AuditRecord(AuditKind.GRANT, 1, user="@a:b", by="@admin:b"), (Retention.ACT, "")),
        (AuditRecord(AuditKind.GRANT_END, 1, user="@a:b"), (Retention.ACT, "")),
        (AuditRecord(AuditKind.KICK, 1, user="@a:b", by="@admin:b"), (Retention.ACT, "")),
    ],
)
def test_a_record_counts_against_the_share_of_who_orders_it(record: AuditRecord, whose: tuple[Retention, str]) -> None:
    assert retention(record) == whose
