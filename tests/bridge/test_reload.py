"""Reading the configuration again: rights at once, whatever other reload, disk or homeserver is under way."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mxrtc_bridge.bridge import reload as reload_module
from mxrtc_bridge.bridge.reload import Reload, ReloadStep, restart_only
from mxrtc_bridge.config import schema, settled
from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.settled import load_settled
from mxrtc_bridge.config.validation_errors import keys_of
from mxrtc_bridge.core.errors import ConfigError, HomeserverError
from tests.config.samples import GOOD, changed, load, text_of
from tests.waiting import until


def config_named(name: str) -> Config:
    return load(changed("grants", 0, "id", to=name))


class Bench:
    """A reload whose parts are recorded; what is read and what is slow is for the test to say."""

    def __init__(self, path: Path) -> None:
        self.in_force: list[str] = []
        self.told: list[str] = []
        self.done: list[str] = []
        self.reads: list[Callable[[], Config]] = []
        """What the next reads do, in their threads."""
        self.steps: list[list[tuple[str, Callable[[str], Awaitable[None]]]]] = []
        self.asked, started_with = asyncio.Event(), load(GOOD)
        self.reload = Reload(
            path,
            at_once=(lambda config: self.in_force.append(name_of(config)),),
            steps=self._steps_of,
            tell_admins=self.told.append,
            load=lambda _path: self.reads.pop(0)(),
            read_s=0.2,
            rest_s=0.1,
            cancel_s=0.1,
            quiet_s=0.0,
            restart_only=lambda config: restart_only(started_with, config),
        )

    async def ask(self) -> str:
        return (await self.reload.carry_out()).text

    def _steps_of(self, config: Config) -> list[list[ReloadStep]]:
        name = name_of(config)

        def step(what: str, work: Callable[[str], Awaitable[None]]) -> ReloadStep:
            return ReloadStep(what, lambda: work(name), limit_s=0.3)

        return [[step(what, work) for what, work in chain] for chain in self.steps]

    async def note(self, name: str) -> None:
        self.done.append(name)


def name_of(config: Config) -> str:
    return config.grants[0].id


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    bench = Bench(tmp_path / "config.yaml")
    task = asyncio.create_task(bench.reload.run(bench.asked))
    yield bench
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.done(), "it ends when it is told to, whatever hangs"


@pytest.fixture
def hang() -> Iterator[threading.Event]:
    """Set it to let the threads of a test go on."""
    event = threading.Event()
    yield event
    event.set()


async def forever(_name: str) -> None:
    await asyncio.get_running_loop().create_future()


async def deaf(_name: str) -> None:
    """A step that does not end when it is cancelled, as one that waits for a thread."""
    end = time.monotonic() + 1
    while time.monotonic() < end:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            continue


async def test_rights_are_in_force_while_the_rest_of_an_earlier_reload_hangs(bench: Bench) -> None:
    bench.steps = [[("rooms", forever)], [("directories", deaf)]]
    for name in ("first", "second", "third"):
        bench.reads.append(lambda name=name: config_named(name))  # type: ignore[misc]
        begun = time.monotonic()
        said = await bench.ask()
        assert bench.in_force[-1] == name
        assert said.startswith("Rights are in force")
        assert "rooms, directories" in said
        assert time.monotonic() - begun < 1


async def test_rights_are_in_force_before_the_first_slow_step_begins(bench: Bench) -> None:
    seen: list[list[str]] = []

    async def look(_name: str) -> None:
        seen.append(list(bench.in_force))

    bench.steps = [[("rooms", look)]]
    bench.reads.append(lambda: config_named("new"))
    assert await bench.ask() == "The configuration is in force: 2 peers, 1 grant."
    assert seen == [["new"]]


async def test_older_configuration_is_dropped_when_it_is_read_after_a_newer_one(
    bench: Bench, hang: threading.Event
) -> None:
    def slow() -> Config:
        hang.wait(10)
        return config_named("old")

    bench.reads += [slow, lambda: config_named("new")]
    first = asyncio.create_task(bench.ask())
    await until(lambda: len(bench.reads) == 1)
    await bench.ask()
    assert bench.in_force == ["new"]
    assert "could not be read within" in await first
    hang.set()
    await until(lambda: bench.reload.reading == 0)
    assert bench.in_force == ["new"]


async def test_configuration_that_was_read_late_is_in_force_then(bench: Bench, hang: threading.Event) -> None:
    def slow() -> Config:
        hang.wait(10)
        return config_named("late")

    bench.reads.append(slow)
    assert "the old one stays in force until it is" in await bench.ask()
    hang.set()
    await until(lambda: bench.in_force == ["late"])


async def test_reads_beyond_the_limit_are_made_up_for_when_the_disk_answers(
    bench: Bench, hang: threading.Event
) -> None:
    def slow() -> Config:
        hang.wait(10)
        return config_named("old")

    limit, others = reload_module.MAX_READING, threading.active_count()
    bench.reads += [slow] * limit + [lambda: config_named("new")]
    for left in reversed(range(1, limit + 1)):
        bench.asked.set()
        await until(lambda left=left: len(bench.reads) == left)  # type: ignore[misc]
    for said in await asyncio.gather(bench.ask(), bench.ask()):
        assert "the old one stays in force until it is" in said
    assert threading.active_count() <= others + limit
    hang.set()
    await until(lambda: bench.in_force[-1:] == ["new"])


async def test_many_reloads_within_a_moment_are_all_answered_and_no_disk_is_blamed(
    bench: Bench, hang: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    """A program that deploys sends one for each file that it has written; each waits until nothing is written."""

    def slow() -> Config:
        hang.wait(10)
        return config_named("old")

    limit = reload_module.MAX_READING
    bench.steps = [[("rooms", bench.note)]]
    bench.reads += [slow] * limit + [lambda: config_named("new")]
    asking = [asyncio.create_task(bench.ask()) for _ in range(limit + 3)]
    await until(lambda: len(bench.reads) == 1)
    hang.set()
    in_force = "The configuration is in force: 2 peers, 1 grant."
    assert [await each for each in asking[limit:]] == [in_force] * 3
    older = {await each for each in asking[:limit]}
    taken = "Rights were in force (2 peers, 1 grant); a newer configuration has taken their place."
    assert older <= {in_force, taken, "A newer configuration is in force already."}
    assert (bench.in_force[-1], bench.reads) == ("new", [])
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]


async def test_broken_configuration_after_a_good_one_changes_nothing(bench: Bench) -> None:
    def broken() -> Config:
        raise ConfigError("line 3: no")

    def defect() -> Config:
        raise KeyError("a defect")

    bench.reads += [lambda: config_named("good"), broken, defect]
    await bench.ask()
    for _ in range(2):
        assert "the old one stays in force" in await bench.ask()
    assert bench.in_force == ["good"]


async def test_failure_of_one_part_does_not_keep_the_others_from_being_done(bench: Bench) -> None:
    async def fail(_name: str) -> None:
        raise HomeserverError("away")

    bench.steps = [[("rooms", fail), ("devices", bench.note)], [("directories", bench.note)]]
    bench.reads.append(lambda: config_named("new"))
    assert "not all of the rest: rooms;" in await bench.ask()
    assert bench.done == ["new", "new"]
    assert bench.told == []


async def test_admins_are_told_what_failed_after_the_answer(bench: Bench) -> None:
    bench.steps = [[("rooms", forever), ("devices", bench.note)]]
    bench.reads.append(lambda: config_named("new"))
    assert "Still under way: rooms, devices." in await bench.ask()
    await until(lambda: bench.told)
    assert "not all of the rest: rooms;" in bench.told[0]
    assert bench.done == ["new"]


async def test_slow_part_begins_again_with_the_newest_configuration(bench: Bench) -> None:
    begun: list[str] = []

    async def first_hangs(name: str) -> None:
        begun.append(name)
        if name == "first":
            await forever(name)

    bench.steps = [[("rooms", first_hangs), ("devices", bench.note)]]
    bench.reads += [lambda: config_named("first"), lambda: config_named("second")]
    first = asyncio.create_task(bench.ask())
    await until(lambda: begun)
    assert await bench.ask() == "The configuration is in force: 2 peers, 1 grant."
    await first
    assert (begun, bench.done) == (["first", "second"], ["second"])


async def test_rights_are_in_force_although_the_threads_of_the_loop_are_all_taken(
    bench: Bench, hang: threading.Event
) -> None:
    taken = [asyncio.to_thread(hang.wait, 10) for _ in range(64)]
    waiting = asyncio.gather(*taken)
    bench.reads.append(lambda: config_named("new"))
    await bench.ask()
    assert bench.in_force == ["new"]
    hang.set()
    await waiting


async def test_what_was_asked_for_at_the_start_counts_before_the_first_call(bench: Bench) -> None:
    bench.reads.append(lambda: config_named("new"))
    asked = asyncio.Event()
    asked.set()
    await bench.reload.catch_up(asked)
    assert bench.in_force == ["new"]
    assert not asked.is_set()


# A file that is being written


def test_half_of_a_file_does_not_count_while_it_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "config.yaml"
    whole = text_of(GOOD)
    path.write_text(whole[:100])
    pieces = [whole[start : start + 50] for start in range(100, len(whole), 50)]
    now, texts = 0.0, list[str]()

    def write_meanwhile(seconds: float) -> None:
        nonlocal now
        now += seconds
        if pieces:
            with path.open("a") as file:
                file.write(pieces.pop(0))

    monkeypatch.setattr(settled, "time", SimpleNamespace(monotonic=lambda: now, sleep=write_meanwhile))

    def read(path: Path) -> Config:
        texts.append(path.read_text())
        return config_named("x")

    load_settled(path, read)
    assert texts == [whole]


def test_file_that_is_replaced_while_it_is_read_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("old")
    texts: list[str] = []

    def read(path: Path) -> Config:
        texts.append(path.read_text())
        if len(texts) == 1:
            (tmp_path / "new").write_text("new")
            (tmp_path / "new").rename(path)
            raise ConfigError("not whole")
        return config_named("x")

    load_settled(path, read)
    assert texts == ["old", "new"]


def test_file_that_never_rests_is_refused_within_seconds(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("")

    def read(path: Path) -> Config:
        with path.open("a") as file:
            file.write("x")
        return config_named("x")

    with pytest.raises(ConfigError, match="changes all the time"):
        load_settled(path, read, patience_s=0.3)


RESTART: dict[str, Any] = {
    "homeserver.address": "http://127.0.0.1:8009",
    "homeserver.domain": "example.com",
    "homeserver.proxy": "socks5://127.0.0.1:1080",
    "appservice.id": "another",
    "appservice.listen": "unix:/run/mxrtc/as.sock",
    "appservice.url": "http://127.0.0.1:29352",
    "appservice.bot": "bot",
    "appservice.peer_prefix": "r_",
    "appservice.sender_localpart": "mxrtcabc",
    "appservice.hs_token": "another-hs-token-for-the-tests",
    "appservice.as_token": "another-as-token-for-the-tests",
    "database": "sqlite:another.db",
    "audit.file": "another.jsonl",
    "audit.max_size": "2MiB",
    "audit.keep": 7,
    "control.socket": "another.sock",
    "metrics.listen": "127.0.0.1:29351",
    "logging.level": "debug",
    "encryption.enabled": "off",
    "encryption.key": "another key that is long enough for it",
    "encryption.receive": "transactions",
}
FOLLOW = {
    "appservice.listen": ["appservice.url"],  # which is given, as no homeserver reaches a socket
    "database": ["audit.file", "control", "encryption.key"],  # which lie beside it
}
TOLD = {"homeserver.domain", "encryption.receive", *(key for key in RESTART if key.startswith("appservice."))}


def test_every_key_of_what_is_told_once_is_in_the_table() -> None:
    wanted = {
        f"{section}.{key}"
        for section, model in (
            ("homeserver", schema.HomeserverSection),
            ("appservice", schema.AppserviceSection),
            ("audit", schema.AuditSection),
        )
        for key in keys_of(model)
        if not key.endswith("_file")
    }
    assert wanted - set(RESTART) == set()


@pytest.mark.parametrize("key", RESTART)
async def test_a_reload_names_the_key_that_needs_a_restart_and_what_the_homeserver_must_be_told(
    bench: Bench, key: str
) -> None:
    data = changed(*key.split("."), to=RESTART[key])
    if key == "appservice.listen":
        data["appservice"]["url"] = "http://127.0.0.1:1"
    if key == "database":
        data["database"] = "sqlite:/var/lib/another/place.db"
    if key == "homeserver.domain":
        data["homeserver"]["domain"] = "example.com"
    bench.reads.append(lambda: load(data))
    said = await bench.ask()
    keys = {"control" if each.startswith("control") else each: None for each in (key, *FOLLOW.get(key, []))}
    assert f" A change of {', '.join(keys)} takes effect after a restart only" in said
    told = [each for each in keys if each in TOLD and each != "appservice.listen"]
    assert (f"must be told of {', '.join(told)} as well" in said) == bool(told)
    assert ("must be told" in said) == bool(told)


async def test_a_reload_says_nothing_of_a_restart_where_none_is_needed(bench: Bench) -> None:
    bench.reads.append(lambda: config_named("another"))
    assert "restart" not in await bench.ask()
