"""Files through a real homeserver: there and back, cut at both ends, refused, and out of room."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from tests.e2e.files import MIB, STATE, digests, make, objects, sparse_file, until_moved
from tests.e2e.world import World, echo, payload
from tests.other_user import OTHER_UID, as_other, needs_root, public_directory

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]

LARGE = 256 * MIB
MANY = 10_000
QUOTA = 8 * MIB


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    folder: Path = tmp_path_factory.mktemp("files")
    for name in ("inbox", "small", "share"):
        (folder / name).mkdir()
    async with AsyncExitStack() as stack:
        world = await World.start(folder, stack)
        world.own_calls = False
        await world.serve("echo", echo)
        world.services["inbox"] = {"files": {"dir": str(folder / "inbox"), "direction": "both"}}
        world.services["small"] = {
            "files": {"dir": str(folder / "small"), "direction": "receive", "limits": {"per_user": "8MiB"}}
        }
        world.services["share"] = {"files": {"dir": str(folder / "share"), "direction": "send"}}
        world.grant("alice", "build/inbox", "build/small", "build/share", "build/echo")
        for user in ("alice", "mallory"):
            await world.add_user(user)
        await world.start_bridge()
        yield world


async def test_tree_with_odd_names_goes_there_and_comes_back_unchanged(world: World, tmp_path: Path) -> None:
    tree = make(
        tmp_path / "odd tree",
        {
            "a b.txt": payload(100),
            "emoji \N{GRINNING FACE}/\N{LATIN SMALL LETTER A WITH DIAERESIS}.bin": payload(3 * MIB + 5),
            "empty": b"",
            "deep/er/and/deeper/x": payload(70_000),
            "[brackets] &c; $(so) 'it goes'": b"1",
            "exactly one chunk": payload(MIB),
        },
    )
    (tree / "nothing in here").mkdir()
    code, out, err = await world.run_mxrtc("alice", "--json", "send", tree, "build/inbox")
    assert code == 0, (err, out)
    (done,) = objects(out, "transferred")
    assert done["files"] == 6
    sent = digests(tree)
    entries = objects(out, "entry")
    assert {each["path"]: each["sha256"] for each in entries if each["type"] == "file"} == {
        f"odd tree/{name}": digest for name, digest in sent.items()
    }
    code, out, err = await world.run_mxrtc("alice", "get", "build/inbox:odd tree", "-o", tmp_path / "back")
    assert code == 0, (err, out)
    assert out == b"", "standard output is for data"
    assert digests(tmp_path / "back" / "odd tree") == sent
    assert (tmp_path / "back" / "odd tree" / "nothing in here").is_dir()
    assert not (tmp_path / "back" / STATE).exists()
    # Once more: nothing is sent again, and nothing is there twice.
    code, out, err = await world.run_mxrtc("alice", "--json", "send", tree, "build/inbox")
    assert code == 0, (err, out)
    (again,) = objects(out, "transferred")
    assert again["moved"] == 0
    assert not [name for name in os.listdir(world.folder / "inbox") if "(2)" in name]


async def test_patterns_standard_input_and_standard_output(world: World, tmp_path: Path) -> None:
    share = make(world.folder / "share", {"docs/a.txt": b"A", "docs/b.txt": b"B", "docs/c.pdf": b"C", ".hidden": b"H"})
    code, out, err = await world.run_mxrtc("alice", "get", "build/share:docs/*.txt", "-o", tmp_path)
    assert code == 0, (err, out)
    assert set(digests(tmp_path)) == {"a.txt", "b.txt"}
    code, out, err = await world.run_mxrtc("alice", "get", "build/share:docs/c.pdf", "-o", "-")
    assert (code, out) == (0, b"C"), err
    code, out, err = await world.run_mxrtc("alice", "get", "build/share:docs", "-o", "-")
    assert (code, out) == (3, b""), err
    code, out, err = await world.run_mxrtc("alice", "get", "build/share:docs/nothing*", "-o", tmp_path)
    assert code == 3, err
    code, out, err = await world.run_mxrtc("alice", "ls", "build/share:docs")
    assert code == 0, (err, out)
    assert [line.split()[-1] for line in out.decode().splitlines()] == ["docs/a.txt", "docs/b.txt", "docs/c.pdf"]
    code, out, err = await world.run_mxrtc("alice", "ls", "build/share")
    assert [line.split()[-1] for line in out.decode().splitlines()] == ["docs/"], err
    # Silent about what is waited for: that depends on how busy the machine is.
    code, out, err = await world.run_mxrtc("alice", "-q", "ls", "build/share:nothing")
    assert code == 3, err
    assert (code, out, err) == await world.run_mxrtc("alice", "-q", "ls", "build/share:.hidden")
    data = payload(2 * MIB + 1)
    code, out, err = await world.run_mxrtc("alice", "send", "-", "build/inbox", "--name", "from stdin", stdin=data)
    assert code == 0, (err, out)
    assert hashlib.sha256(data).hexdigest() in err
    assert (world.folder / "inbox" / "from stdin").read_bytes() == data
    assert digests(share)["docs/a.txt"] == hashlib.sha256(b"A").hexdigest()


@needs_root
async def test_fetching_into_a_state_that_another_user_has_prepared_is_refused(world: World) -> None:
    """Whoever made ``.mxrtc`` could exchange what is fetched, whatever digest is shown."""
    make(world.folder / "share", {"small.sh": b"echo ours"})
    with public_directory() as public:
        as_other(lambda: (public / ".mxrtc" / "partial").mkdir(parents=True))
        code, out, err = await world.run_mxrtc("alice", "get", "build/share:small.sh", "-o", public)
        assert code == 7, (err, out)
        assert f"/.mxrtc' cannot be trusted: it belongs to user {OTHER_UID}" in err
        assert hashlib.sha256(b"echo ours").hexdigest() not in err
        assert os.listdir(public) == [".mxrtc"]
        as_other(lambda: (public / ".mxrtc").rename(public / "away"))
        code, out, err = await world.run_mxrtc("alice", "get", "build/share:small.sh", "-o", public)
        assert code == 0, (err, out)
        assert (public / "small.sh").read_bytes() == b"echo ours"


async def test_service_is_chosen_by_what_it_is_for_and_no_port_leads_to_files(world: World, tmp_path: Path) -> None:
    code, out, err = await world.run_mxrtc("alice", "--json", "ls", "build")
    kinds = {each["service"]: each["type"] for each in objects(out, "service")}
    assert kinds == {"echo": "stream", "inbox": "files", "small": "inbox", "share": "share"}, err
    code, out, err = await world.run_mxrtc("alice", "nc", "build", stdin=b"there and back")
    assert (code, out) == (0, b"there and back"), err
    make(tmp_path, {"x": b"x"})
    code, _, err = await world.run_mxrtc("alice", "send", tmp_path / "x", "build")
    assert code == 2, err
    assert "ame one of the services of build: build/inbox, build/small." in err
    code, _, err = await world.run_mxrtc("alice", "connect", "build", "-L", "0=echo", "-L", "0=small")
    assert code == 3, err
    assert "build/small: this service is for files: use mxrtc send, get or ls with it" in err
    assert "listening" not in err


async def test_many_small_files(world: World, tmp_path: Path) -> None:
    tree = make(tmp_path / "many", {f"{n % 100:02}/{n}.txt": str(n).encode() * 20 for n in range(MANY)})
    code, out, err = await world.run_mxrtc("alice", "send", tree, "build/inbox", timeout_s=150)
    assert code == 0, (err, out)
    assert digests(world.folder / "inbox" / "many") == digests(tree)


async def test_who_has_no_right_is_refused_for_good(world: World, tmp_path: Path) -> None:
    make(tmp_path, {"x": b"x"})
    for args in (
        ("send", tmp_path / "x", "build/inbox"),
        ("get", "build/share", "-o", tmp_path),
        ("ls", "build/share"),
    ):
        code, out, err = await world.run_mxrtc("mallory", *args)
        assert (code, out) == (3, b""), err
        assert "Traceback" not in err


@pytest.mark.parametrize("service", ["share", "echo", "nothing"])
async def test_what_takes_no_files_is_refused(world: World, tmp_path: Path, service: str) -> None:
    make(tmp_path, {"x": b"x"})
    code, _, err = await world.run_mxrtc("alice", "send", tmp_path / "x", f"build/{service}")
    assert code == 3, err
    assert not (world.folder / "share" / "x").exists()


async def test_quota_refuses_what_is_too_much_and_takes_the_rest(world: World, tmp_path: Path) -> None:
    tree = make(tmp_path / "tree", {"1 small": payload(MIB), "2 large": payload(QUOTA + 1), "3 small": payload(MIB)})
    code, out, err = await world.run_mxrtc("alice", "--json", "send", tree, "build/small")
    assert code == 1, err
    assert [(each["path"], each["code"]) for each in objects(out, "failure")] == [("tree/2 large", "quota")]
    assert set(digests(world.folder / "small")) == {"tree/1 small", "tree/3 small"}


async def test_large_file_survives_the_death_of_the_client(world: World, tmp_path: Path) -> None:
    source = sparse_file(tmp_path / "client-killed.bin", LARGE)
    async with world.mxrtc("alice", "--json", "send", source, "build/inbox") as process:
        await until_moved(process, 20 * MIB)
        process.kill()
    assert not (world.folder / "inbox" / source.name).exists(), "nothing appears before it is whole"
    code, out, err = await world.run_mxrtc("alice", "--json", "send", source, "build/inbox", timeout_s=120)
    assert code == 0, (err, out)
    (done,) = objects(out, "transferred")
    assert isinstance(done["moved"], int)
    assert done["moved"] < LARGE - 10 * MIB, "it went on, and did not begin anew"
    expected = digests(tmp_path)[source.name]
    assert done["sha256"] == expected
    assert digests(world.folder / "inbox")[source.name] == expected


async def test_transfer_goes_on_by_itself_after_the_death_of_the_bridge(world: World, tmp_path: Path) -> None:
    source = sparse_file(tmp_path / "bridge-killed.bin", LARGE)
    async with world.mxrtc("alice", "--json", "send", source, "build/inbox") as process:
        await until_moved(process, 20 * MIB)
        assert world.bridge is not None
        world.bridge.kill()
        assert not (world.folder / "inbox" / source.name).exists()
        await world.start_bridge()
        assert await process.wait(150) == 0, process.tail()
        out = process.output()
    assert len(objects(out, "lost")) >= 1
    (done,) = objects(out, "transferred")
    assert isinstance(done["moved"], int)
    assert done["moved"] < 2 * LARGE - 10 * MIB
    assert digests(world.folder / "inbox")[source.name] == digests(tmp_path)[source.name] == done["sha256"]


async def test_ctrl_c_says_how_to_go_on_and_the_same_command_does(world: World, tmp_path: Path) -> None:
    sparse_file(world.folder / "share" / "big.bin", LARGE)
    (tmp_path / "to").mkdir()
    args = ("--json", "get", "build/share:big.bin", "-o", tmp_path / "to")
    async with world.mxrtc("alice", *args) as process:
        await until_moved(process, 20 * MIB)
        process.send_signal(signal.SIGINT)
        assert await process.wait(15) == 130, process.tail()
        (error,) = objects(process.output(), "error")
        assert error["command"] == f"mxrtc --json get build/share:big.bin -o {tmp_path / 'to'}"
        assert "Traceback" not in process.tail()
    assert digests(tmp_path / "to") == {}, "nothing appears before it is whole"
    code, out, err = await world.run_mxrtc("alice", *args, timeout_s=120)
    assert code == 0, (err, out)
    (done,) = objects(out, "transferred")
    assert isinstance(done["moved"], int)
    assert done["moved"] < LARGE - 10 * MIB
    assert digests(tmp_path / "to") == {"big.bin": digests(world.folder / "share")["big.bin"]}
    assert not (tmp_path / "to" / STATE).exists()
    # Force: the same name, replaced; without it another name.
    await asyncio.to_thread((tmp_path / "to" / "big.bin").write_bytes, b"old")
    code, out, err = await world.run_mxrtc("alice", "get", "build/share:docs/a.txt", "-o", tmp_path / "to")
    assert code == 0, (err, out)
    (tmp_path / "to" / "a.txt").write_bytes(b"old")
    for option, name in ((), "a (2).txt"), (("--force",), "a.txt"):
        code, out, err = await world.run_mxrtc("alice", "get", "build/share:docs/a.txt", "-o", tmp_path / "to", *option)
        assert code == 0, (err, out)
        assert (tmp_path / "to" / name).read_bytes() == b"A"


async def test_withdrawn_right_ends_the_transfer_and_leaves_nothing_half(world: World, tmp_path: Path) -> None:
    source = sparse_file(tmp_path / "withdrawn.bin", LARGE)
    async with world.mxrtc("alice", "--json", "send", source, "build/inbox") as process:
        await until_moved(process, 10 * MIB)
        kept = list(world.grants)
        world.grants.clear()
        world.reload()
        try:
            assert await process.wait(10) == 3, process.tail()
        finally:
            world.grants.extend(kept)
            world.reload()
    assert not (world.folder / "inbox" / source.name).exists()
