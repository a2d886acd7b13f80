"""Makes the files beside this one: what a bridge of commit d3f536d has left when it was killed. See README.md.

Run with the Python and in the folder of a checkout of that commit; its own end-to-end world does the work.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
import tempfile
from contextlib import AsyncExitStack, closing
from pathlib import Path
from urllib.parse import quote

from aiohttp import ClientSession
from mxrtc_bridge.matrix.arrivals import read_arrival
from mxrtc_bridge.storage.stores import open_stores

from tests.e2e.pages import run_page
from tests.e2e.people import Person
from tests.e2e.test_control import admin
from tests.e2e.test_outages import exchange
from tests.e2e.world import DOMAIN, World, echo

ALICE, BOB, CAROL, DAVE = (f"@{name}:{DOMAIN}" for name in ("alice", "bob", "carol", "dave"))
BOT = f"@rtcbot:{DOMAIN}"
DENIED = 3


async def done(world: World, *words: str) -> None:
    code, out, err = await admin(world, *words)
    assert code == 0, (words, out, err)


async def live(folder: Path, target: Path) -> None:
    async with AsyncExitStack() as stack:
        world = await World.start(folder, stack)
        await world.serve("echo", echo, grantable_to=[ALICE, BOB, f"server:{DOMAIN}"])
        for name in ("lent", "third", "fourth"):
            await world.serve(name, echo, grantable_to=[f"server:{DOMAIN}"], connect_timeout="7s")
        for name in ("alice", "bob", "carol", "dave"):
            await world.add_user(name)
        http = await stack.enter_async_context(ClientSession())
        bob, carol = [await Person.log_in(world, name, http) for name in ("bob", "carol")]
        admins, team, banned = [await carol.gather(name, bob) for name in ("admins", "team", "list")]
        world.grants += [
            {"id": "team", "from": [f"room:{team}"], "to": ["build/echo"]},
            {"id": "all", "from": [f"server:{DOMAIN}"], "to": ["build/unused"]},
        ]
        world.settings.update(
            admins=[BOB],
            deny=["server:evil.test", "@mallory:example.com"],
            rooms={"admin": admins},
            policy_lists=[banned],
            limits={"calls_per_user": 3, "session_max": "2h"},
            audit={"max_size": "1MiB", "keep": 5},
            tests=[{"as": BOB, "may": ["build/unused"]}, {"as": "@eve:other.test", "may_not": ["build/echo"]}],
        )
        for room in (admins, team, banned):
            await carol.ask("POST", f"rooms/{quote(room)}/invite", {"user_id": BOT})
        bridge = await world.start_bridge()
        for room in (admins, team, banned):
            await carol.until_member(room, BOT)
        # Who is denied hears of it in the room of the call, once.
        world.signal = "room"
        code, _, said = await world.run_mxrtc("dave", "ping", "build", "-c", "1")
        assert code == 0, said
        rule = f"rooms/{quote(banned)}/state/m.policy.rule.user/dave"
        await carol.ask("PUT", rule, {"entity": DAVE, "recommendation": "m.ban", "reason": "spam"})
        await bridge.wait_for_line(r"the policy list .* has 1 rules", 20)
        assert (await world.run_mxrtc("dave", "ping", "build", "-c", "1"))[0] == DENIED

        # Grants that are in force and one that was taken back, of who sits at the machine and of an admin in a chat.
        await done(world, "grant", ALICE, "build/echo", "--for", "2h", "--because", "a test: it's <b>")
        await done(world, "grant", CAROL, "build/echo", "--for", "30m")
        await done(world, "revoke", CAROL)
        desk = await bob.direct(BOT)
        assert "may use" in await bob.told(desk, f"grant {ALICE} build/lent for 1h because the report is due")

        # Requests that were allowed, were denied, and wait.
        for service in ("build/lent", "build/third", "build/fourth"):
            code, _, said = await world.run_mxrtc("carol", "request", service, "--for", "1h", "--because", "it is due")
            assert code == 0, said
        await done(world, "allow", "1", "--once")
        await done(world, "deny", "2", "--because", "not now")

        # Calls that ended, by a room and by devices; then encryption in a chat with the bot.
        for signal in ("room", "device"):
            world.signal = signal
            code, _, said = await world.run_mxrtc("alice", "ping", "build", "-c", "1")
            assert code == 0, said
        world.homeserver.extra_config["encryption_enabled_by_default_for_room_type"] = "all"
        await world.homeserver.restart()
        talk = await run_page("encrypted.js", "encryptedChat", world, folder, sign=True, bot=BOT, bodies=["peers"])
        assert "failed" not in talk, talk
        del world.homeserver.extra_config["encryption_enabled_by_default_for_room_type"]
        await world.homeserver.restart()

        # Calls that are open when it is killed, by a room and by devices.
        for user, signal in (("alice", "device"), ("bob", "room")):
            world.signal = signal
            _, port = await world.connect(user, "build/echo", "-L", "0")
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            await exchange(reader, writer)
            stack.callback(writer.close)
        code, granted, err = await admin(world, "grants", "--json")
        assert code == 0, err
        bridge.kill()
        await bridge.wait(10)
        # An event for which there was an answer of 200, and no time to handle it.
        event = {
            "event_id": "$waiting", "room_id": team, "type": "m.room.message", "sender": BOB,
            "origin_server_ts": 1, "content": {"msgtype": "m.text", "body": "!rtc help"},
        }  # fmt: skip
        async with open_stores(f"sqlite:{folder / 'bridge.db'}") as stores:
            arrival = read_arrival(event, None)
            assert arrival is not None
            await stores.inbox.store([arrival], 0)
        keep(folder, target, granted)


def keep(folder: Path, target: Path, granted: str) -> None:
    with closing(sqlite3.connect(folder / "bridge.db")) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        counts = {name: database.execute(f"SELECT COUNT(*) FROM {name}").fetchone()[0] for name in tables}
        print(json.dumps(counts, indent=1))
        assert all(counts.values()), counts
        dump = "\n".join(database.iterdump()) + "\n"
    files = {
        "bridge.sql": dump,
        "grants.jsonl": granted,
        **{name: (folder / name).read_text() for name in ("audit.jsonl", "encryption.key", "registration.yaml")},
        "config.yaml": json.dumps(json.loads((folder / "config.yaml").read_text()), indent=1) + "\n",
    }
    for name, text in files.items():
        (target / name).write_text(text.replace(str(folder), "FOLDER"))
    print({name: len(text) for name, text in files.items()}, sorted(p.name for p in folder.iterdir()))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        asyncio.run(live(Path(made), Path(sys.argv[1])))
