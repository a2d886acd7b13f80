"""Names on real file systems: what they can hold arrives as it is, and what must not be there never is."""

from __future__ import annotations

import os
import random
import subprocess
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.files.messages import CHUNK_BYTES, FileCode, FileError
from mxrtc_bridge.core.files.names import CAREFUL, NamePolicy, refusal
from mxrtc_bridge.sinks.files.receive.name_allocator import NameAllocator
from mxrtc_bridge.sinks.files.user_paths import Sources, UserDestination
from tests.core.files.test_names import EVERYDAY, NEVER, ODD
from tests.long import examples
from tests.other_user import needs_root
from tests.sinks.files.receive.senders import ALICE, content, directory_of, entry_of, files_in, opened, send
from tests.sinks.files.send.test_share import everything

LARGE = CHUNK_BYTES + 1


@pytest.fixture(params=["disk", pytest.param("memory", marks=needs_root)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A directory on the file system of this machine's disk, and one on tmpfs."""
    if request.param == "disk":
        yield tmp_path
        return
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", tmp_path], check=True)
    try:
        yield tmp_path
    finally:
        subprocess.run(["umount", tmp_path], check=True)


async def test_every_name_that_the_file_system_holds_arrives_under_it(place: Path) -> None:
    """Small and large, alone and as directories; NFD, ZWJ and ZWNJ, 255 bytes."""
    async with opened(place / "box") as box:
        for number, name in enumerate(EVERYDAY):
            data = content(LARGE if number % 3 == 0 else 10, number)
            assert (await send(box, name, data)).name == name
            assert (await send(box, f"dirs/{name}/{name}", b"x")).name == f"dirs/{name}/{name}"
    found = {path.name for path in (place / "box").iterdir()}
    assert found == {*EVERYDAY, "dirs", ".mxrtc"}


async def test_twins_stand_beside_each_other_where_the_file_system_tells_them_apart(place: Path) -> None:
    twins = ["makefile", "Makefile", "caf\u00e9", "cafe\u0301", "a", "a\u200d", "Stra\u00dfe", "STRASSE"]
    async with opened(place) as box:
        for number, name in enumerate(twins):
            assert (await send(box, f"{name}/{name}", content(10, number))).name == f"{name}/{name}"
    assert files_in(place) == {f"{name}/{name}": content(10, number) for number, name in enumerate(twins)}


async def test_a_name_of_full_length_that_is_taken_still_gets_a_number(place: Path) -> None:
    name = "\u06cc" * 125 + ".txt"
    async with opened(place) as box:
        first = await send(box, name, b"1")
        second = await send(box, name, b"2", version="v2")
        third = await send(box, name, content(LARGE), version="v3")
    assert first.name == name
    for number, published in ((2, second), (3, third)):
        assert published.name.endswith(f" ({number}).txt")
        assert len(published.name.encode()) <= 255
    assert len(files_in(place)) == 3


@pytest.mark.parametrize("size", [1, LARGE])
@pytest.mark.parametrize("policy", [NamePolicy.KEEP, NamePolicy.ANY])
async def test_what_no_name_may_be_is_refused_before_it_is_sent(place: Path, size: int, policy: NamePolicy) -> None:
    async with opened(place, names=policy) as box:
        for name in NEVER:
            for path in (name, f"dir/{name}", f"{name}/file"):
                if path in {"a/b", "dir/a/b", "a/b/file"}:
                    continue
                with pytest.raises(FileError) as caught:
                    await box.begin(ALICE, entry_of(path, size))
                assert caught.value.code is FileCode.NAME
    assert files_in(place) == {}


@pytest.mark.parametrize("path", [".bashrc", "-rf", "proj/.git/config", "proj/-x"])
async def test_hidden_names_and_options_are_refused_with_the_remedy_unless_any_name_may_be(
    place: Path, path: str
) -> None:
    async with opened(place / "keep") as box:
        with pytest.raises(FileError, match=r"begins with a (dot|dash); .*names: any") as caught:
            await send(box, path, b"x")
        assert caught.value.code is FileCode.NAME
    async with opened(place / "any", names=NamePolicy.ANY) as box:
        assert (await send(box, path, b"x")).name == path


@given(name=st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(ODD)), min_size=1))
@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_name_that_is_accepted_is_kept_to_the_byte(tmp_path: Path, name: str) -> None:
    async with opened(tmp_path / "box") as box:
        if "/" in name:
            return
        if refusal(name, CAREFUL) is not None:
            with pytest.raises(FileError) as caught:
                await send(box, name, b"x")
            assert caught.value.code is FileCode.NAME
            return
        published = await send(box, name, b"x")
        assert os.fsencode(published.name) in os.listdir(os.fsencode(tmp_path / "box"))
        assert published.before or published.name == name


async def test_what_the_file_system_cannot_hold_is_said_before_gigabytes_are_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As FAT refuses ``:``; what stands for it here is an answer of the kernel."""
    opening = os.open

    def without_colons(path: str, flags: int, *args: int, **options: int) -> int:
        if flags & os.O_CREAT and ":" in str(path):
            raise OSError(22, os.strerror(22))
        return opening(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", without_colons)
    async with opened(tmp_path) as box:
        with pytest.raises(FileError, match="cannot hold this name"):
            await box.begin(ALICE, entry_of("dir/a:b", 10 * LARGE))
        assert len(box.books.live) == 0
        assert (await send(box, "a;b", content(LARGE))).name == "a;b"


def test_a_name_that_the_file_system_takes_for_another_gets_a_number(tmp_path: Path) -> None:
    """The directory shows ``Makefile``, and its file system says that ``makefile`` is taken."""
    (tmp_path / "Makefile").touch()
    taken, descriptor = NameAllocator(exact=True), os.open(tmp_path, os.O_RDONLY)
    assert taken.choose(descriptor, "makefile", alike=False, rules=CAREFUL) == "makefile"
    taken.forget(descriptor)
    taken.take(descriptor, {"makefile"})
    assert taken.choose(descriptor, "makefile", alike=False, rules=CAREFUL) == "makefile (2)"
    os.close(descriptor)


@needs_root
async def test_a_directory_that_leads_to_the_state_by_another_name_is_refused(tmp_path: Path) -> None:
    """As a short name of FAT does (``MXRTC~1``); here it is a mount."""
    async with opened(tmp_path, names=NamePolicy.ANY) as box:
        for number, inside in enumerate((".mxrtc", ".mxrtc/partial")):
            other = tmp_path / f"MXRTC~{number}"
            other.mkdir()
            subprocess.run(["mount", "--bind", tmp_path / inside, other], check=True)
            try:
                with pytest.raises(FileError, match="keeps for itself"):
                    await send(box, f"{other.name}/ledger.jsonl", b"x")
                with pytest.raises(FileError, match="keeps for itself"):
                    await box.begin(ALICE, directory_of(other.name))
            finally:
                subprocess.run(["umount", other], check=True)


# The user's side


async def offered(*paths: Path) -> tuple[list[str], list[str]]:
    sources = Sources([str(path) for path in paths])
    await sources.open()
    entries, failures = await everything(sources.walk())
    sources.close()
    return [entry.path for entry in entries], [failure.path for failure in failures]


async def test_a_name_alone_on_the_command_line_is_offered_as_it_is_within_a_directory(tmp_path: Path) -> None:
    names = ["Re: hello.eml", "CON.txt", ".hidden", "-rf", "cafe\u0301", "a\x01b", os.fsdecode(b"not\xfftext")]
    (tmp_path / "dir").mkdir()
    for name in names:
        (tmp_path / "dir" / name).touch()
    entries, failures = await offered(tmp_path / "dir")
    alone = await offered(*sorted((tmp_path / "dir" / name for name in names), key=str))
    assert alone == ([path.removeprefix("dir/") for path in entries[1:]], [failures[0].removeprefix("dir/")])
    assert failures == ["dir/not\ufffdtext"]


@pytest.mark.parametrize(
    ("asked", "path", "there"),
    [
        ("", ".bashrc", False),
        ("*", ".bashrc", False),
        ("proj", "proj/.gitignore", True),
        ("proj/", "proj/.git/config", True),
        ("proj/*", ".gitignore", False),
        ("proj/.gitignore", ".gitignore", True),
        ("proj/.*", ".gitignore", True),
        (".git", ".git/config", True),
        ("*", "-rf", False),
        ("-rf", "-rf", True),
        ("-rf", ".bashrc", False),
        ("proj", "proj/-rf", True),
    ],
)
async def test_fetching_puts_hidden_files_only_below_what_was_asked_for(
    tmp_path: Path, asked: str, path: str, there: bool
) -> None:
    destination = UserDestination(tmp_path, asked=asked)
    await destination.open()
    if there:
        assert (await send(destination, path, b"x")).name == path
    else:
        with pytest.raises(FileError, match="ask for it by its own name") as caught:
            await send(destination, path, b"x")
        assert caught.value.code is FileCode.NAME
    await destination.close(tidy=True)
    assert list(files_in(tmp_path)) == [path] * there


@pytest.mark.posix
async def test_fetching_keeps_names_and_makes_only_the_dangerous_ones_safe(tmp_path: Path) -> None:
    destination = UserDestination(tmp_path)
    await destination.open()
    for name in EVERYDAY:
        assert (await send(destination, name, b"x")).name == name
    assert (await send(destination, "gpj\u202etxt.exe", b"x")).name == "gpj_txt.exe"
    assert (await send(destination, "dir/.mxrtc/ledger.jsonl", b"x")).name == "dir/_.mxrtc/ledger.jsonl"
    await destination.close(tidy=True)
    assert all(unicodedata.category(char) != "Cc" for name in files_in(tmp_path) for char in name)


@pytest.mark.parametrize("seed", range(4))
async def test_a_tree_of_everyday_names_comes_back_as_it_went(tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    names = [name for name in EVERYDAY if len(name.encode()) < 100]
    files = {"/".join(draw.sample(names, draw.randrange(1, 4))): content(10, number) for number in range(40)}
    # No file in the place of a directory.
    files = {path: data for path, data in files.items() if not any(each.startswith(f"{path}/") for each in files)}
    async with opened(tmp_path / "box") as box:
        for path, data in files.items():
            await send(box, path, data)
    assert files_in(tmp_path / "box") == files
