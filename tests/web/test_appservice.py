"""The endpoint over real HTTP on loopback: who gets in, what is taken, and what each refusal looks like."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, ClientTimeout
from mautrix.util.async_db import Connection

from mxrtc_bridge.config.values import TcpListen
from mxrtc_bridge.core.crypto.device_changes import DeviceListChanges
from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.api.room_event import RoomEvent
from mxrtc_bridge.matrix.inbox.inbox import Inbox
from mxrtc_bridge.metrics import Metrics
from mxrtc_bridge.storage.database import Database
from mxrtc_bridge.storage.events import InboxStore
from mxrtc_bridge.web.appservice import MAX_EARLY_BODY, MAX_IN_FLIGHT, AppserviceEndpoint
from mxrtc_bridge.web.server import Server

TOKEN = "hs-token-0123456789abcdef"
GOOD = {"Authorization": f"Bearer {TOKEN}"}
PEER = "@rtc_build:example.org"


@dataclass
class RecordingSink:
    """Takes down what it is given."""

    ready: bool = True
    error: Exception | None = None
    hold: asyncio.Event | None = None
    accepted: list[tuple[str, list[object]]] = field(default_factory=list)
    looked: list[object] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    def look(self, events: list[object]) -> None:
        self.looked += events

    async def accept(self, txn_id: str, events: list[object]) -> None:
        if self.hold is not None:
            await self.hold.wait()
        if self.error is not None:
            raise self.error
        self.accepted.append((txn_id, events))

    def knows_user(self, user_id: str) -> bool:
        self.asked.append(user_id)
        return user_id == PEER


@dataclass
class Site:
    sink: RecordingSink
    metrics: Metrics
    port: int
    http: ClientSession
    heard: list[DeviceListChanges]

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def put(self, body: bytes | Any, txn: str = "1", **headers: str) -> tuple[int, dict[str, Any]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        url = self.url(f"/_matrix/app/v1/transactions/{txn}")
        async with self.http.put(url, data=io.BytesIO(data), headers={**GOOD, **headers}) as response:
            return response.status, await response.json()

    async def raw(self, request: bytes, *, end: bool = False) -> bytes:
        """Send bytes as they are; returns all that comes until the server closes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(request)
            if end:
                writer.write_eof()
            return await asyncio.wait_for(reader.read(), 20)
        finally:
            writer.close()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)


@pytest.fixture
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A site; a test may give limits of the endpoint as the fixture's parameter."""
    sink, metrics = RecordingSink(), Metrics()
    heard: list[DeviceListChanges] = []
    endpoint = AppserviceEndpoint(
        sink, token=TOKEN, metrics=metrics, hear=heard.append, read_timeout_s=0.3, **getattr(request, "param", {})
    )
    async with (
        Server(endpoint.application(), TcpListen("127.0.0.1", 0), linger_s=0.1) as server,
        ClientSession(timeout=ClientTimeout(total=20)) as http,
    ):
        yield Site(sink, metrics, server.port, http, heard)


async def test_transaction_is_given_to_the_sink_whole_and_in_order(site: Site) -> None:
    events = [{"event_id": "$1"}, "odd", {"event_id": "$2", "content": {"a": [1, None]}}]
    assert await site.put({"events": events, "ephemeral": [{}], "de.sorunome.msc2409.to_device": []}) == (200, {})
    assert site.sink.accepted == [("1", events)]
    assert b'mxrtc_transactions_total{outcome="accepted"} 1.0' in site.metrics.render()


AUTH_VARIANTS: list[tuple[dict[str, str], str, str]] = [
    ({}, "", "M_MISSING_TOKEN"),
    ({}, "?access_token=", "M_MISSING_TOKEN"),
    ({}, f"?access_token={TOKEN}x", "M_UNKNOWN_TOKEN"),
    ({}, f"?access_token={TOKEN}&access_token={TOKEN}", "M_MISSING_TOKEN"),
    ({"Authorization": "Basic x"}, f"?access_token={TOKEN}", "M_MISSING_TOKEN"),
    ({"Authorization": TOKEN}, "", "M_MISSING_TOKEN"),
    ({"Authorization": f"Basic {TOKEN}"}, "", "M_MISSING_TOKEN"),
    ({"Authorization": "Bearer"}, "", "M_MISSING_TOKEN"),
    ({"Authorization": "Bearer wrong"}, "", "M_UNKNOWN_TOKEN"),
    ({"Authorization": "Bearer wrong"}, f"?access_token={TOKEN}", "M_UNKNOWN_TOKEN"),
    ({"Authorization": f"Bearer {TOKEN[:-1]}"}, "", "M_UNKNOWN_TOKEN"),
    ({"Authorization": f"Bearer {TOKEN}x"}, "", "M_UNKNOWN_TOKEN"),
    ({"X-Authorization": f"Bearer {TOKEN}"}, "", "M_MISSING_TOKEN"),
]


@pytest.mark.parametrize(("headers", "query", "errcode"), AUTH_VARIANTS)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("PUT", "/_matrix/app/v1/transactions/1"),
        ("PUT", "/transactions/1"),
        ("GET", "/users/@rtc_build:example.org"),
        ("GET", "/_matrix/app/v1/users/@rtc_build:example.org"),
        ("GET", "/_matrix/app/v1/rooms/%23a:example.org"),
        ("POST", "/_matrix/app/v1/ping"),
        ("GET", "/_matrix/app/v1/thirdparty/protocol/x"),
        ("GET", "/_matrix/mau/live/../../app/v1/users/@rtc_build:example.org"),
        ("GET", "/nowhere"),
    ],
)
async def test_without_the_token_nothing_is_told_or_done(
    site: Site, method: str, path: str, headers: dict[str, str], query: str, errcode: str
) -> None:
    data = b'{"events": [{}]}' if method != "GET" else None
    async with site.http.request(method, site.url(path) + query, headers=headers, data=data) as response:
        assert response.status == 401
        assert (await response.json())["errcode"] == errcode
        assert response.headers["WWW-Authenticate"] == "Bearer"
    assert site.sink.accepted == []
    assert site.sink.asked == []


@pytest.mark.parametrize("prefix", ["/_matrix/app/v1", ""])
async def test_token_in_the_query_alone_is_accepted_and_not_logged(
    site: Site, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    """All that homeservers sent before version 1.4 of the specification."""
    caplog.set_level(logging.DEBUG)
    path = f"{prefix}/transactions/1?access_token={TOKEN}"
    async with site.http.put(site.url(path), data=b'{"events": [{"event_id": "$1"}]}') as response:
        assert response.status == 200
    assert site.sink.accepted == [("1", [{"event_id": "$1"}])]
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("mxrtc_bridge")]
    assert ours
    assert not any(TOKEN[:10] in line for line in ours)


async def test_two_authorization_headers_are_refused(site: Site) -> None:
    request = (
        f"PUT /_matrix/app/v1/transactions/1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Authorization: Bearer wrong\r\nContent-Length: 14\r\nConnection: close\r\n\r\n" + '{"events": []}'
    )
    assert b" 401 " in (await site.raw(request.encode())).splitlines()[0]
    assert site.sink.accepted == []


async def test_wrong_token_is_answered_before_the_body_comes(site: Site) -> None:
    """The body is announced and never sent: whoever waits for it first would hang."""
    answer = await site.raw(
        b"PUT /_matrix/app/v1/transactions/1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer wrong\r\n"
        b"Content-Length: 60000000\r\n\r\n"
    )
    assert b" 401 " in answer.splitlines()[0]
    assert site.sink.accepted == []


async def test_log_never_holds_the_token_or_the_query(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    await site.put({"events": []})
    for headers, query, _ in AUTH_VARIANTS:
        async with site.http.get(site.url(f"/_matrix/app/v1/users/@x:y{query}"), headers=headers):
            pass
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("mxrtc_bridge")]
    assert ours, "the access log was looked at"
    assert not any(TOKEN[:10] in line or "access_token" in line or "127.0.0.1" in line for line in ours)
    warned = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert sum("compare hs_token" in record.getMessage() for record in warned) == 2, "one for each kind of mistake"


async def test_not_ready_is_503_and_nothing_is_taken(site: Site) -> None:
    site.sink.ready = False
    status, answer = await site.put({"events": [{}]})
    assert (status, "not ready" in answer["error"]) == (503, True)
    assert site.sink.accepted == []
    async with site.http.get(site.url("/_matrix/app/v1/users/%40rtc_build%3Aexample.org"), headers=GOOD) as response:
        assert response.status == 200, "user queries need no storage"
    async with site.http.post(site.url("/_matrix/app/v1/ping"), headers=GOOD, data=b"{}") as response:
        assert response.status == 200, "the ping is how we find out whether the homeserver reaches us"


MESSAGE = {"to_user_id": PEER, "to_device_id": "BUILD", "type": "m.room.encrypted", "content": {}}


async def test_news_of_devices_is_heard_also_when_the_events_beside_it_are_not_taken(site: Site) -> None:
    """The homeserver sends the events again, and may then say nothing of devices."""
    body = {"events": [{}], "de.sorunome.msc2409.to_device": [MESSAGE]}
    assert (await site.put(body))[0] == 200
    site.sink.error = StorageError("the disk is full")
    assert (await site.put(body))[0] == 503
    site.sink.error, site.sink.ready = None, False
    assert (await site.put(body))[0] == 503
    assert site.heard == [DeviceListChanges(frozenset({UserId(PEER)}))] * 3
    assert len(site.sink.accepted) == 1


async def test_a_transaction_without_events_is_taken_before_the_bridge_is_ready(site: Site) -> None:
    """After a refusal the homeserver would hold back everything for a while."""
    site.sink.ready = False
    assert (await site.put({"events": [], "to_device": [MESSAGE]}))[0] == 200
    assert (site.heard, site.sink.accepted) == ([DeviceListChanges(frozenset({UserId(PEER)}))], [])
    padded = b'{"events":[]' + b" " * MAX_EARLY_BODY + b"}"
    assert (await site.put(padded))[0] == 503
    site.sink.ready = True
    assert (await site.put(padded))[0] == 200


@pytest.mark.parametrize("trouble", ["none", "storage", "not ready"])
async def test_events_are_looked_at_whatever_becomes_of_the_transaction(site: Site, trouble: str) -> None:
    site.sink.ready = trouble != "not ready"
    site.sink.error = StorageError("the disk is full") if trouble == "storage" else None
    assert (await site.put({"events": [{"a": 1}, 5]}))[0] == (200 if trouble == "none" else 503)
    assert site.sink.looked == [{"a": 1}, 5]


async def test_failing_storage_is_503_and_a_defect_of_ours_500(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.sink.error = StorageError("the disk is full")
    assert (await site.put({"events": [{}]}))[0] == 503
    site.sink.error = KeyError("a=candidate:192.0.2.1")
    caplog.set_level(logging.INFO)
    assert await site.put({"events": [{}]}) == (500, {"errcode": "M_UNKNOWN", "error": "internal error"})
    assert "KeyError" in caplog.text
    assert "192.0.2.1" not in caplog.text
    site.sink.error = None
    assert (await site.put({"events": [{}]}))[0] == 200


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [(b"", 400, "M_NOT_JSON"), (b"[1]", 400, "M_BAD_JSON"), (b'{"events": 5}', 400, "M_BAD_JSON")],
)
async def test_body_that_is_no_transaction_is_refused(site: Site, body: bytes, status: int, errcode: str) -> None:
    answer = await site.put(body)
    assert (answer[0], answer[1]["errcode"]) == (status, errcode)
    assert site.sink.accepted == []
    assert b'mxrtc_transactions_total{outcome="refused"} 1.0' in site.metrics.render()


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity, gzip"])
async def test_compressed_body_is_refused_unread(site: Site, encoding: str) -> None:
    bomb = gzip.compress(b'{"events": [' + b" " * 10_000_000 + b"]}")
    status, _ = await site.put(bomb, **{"Content-Encoding": encoding})
    assert status == 415
    assert site.sink.accepted == []


async def test_encoding_identity_is_no_compression(site: Site) -> None:
    assert await site.put({"events": []}, **{"Content-Encoding": "identity"}) == (200, {})


@pytest.mark.parametrize("site", [{"max_body": 1000}], indirect=True)
async def test_body_of_the_limit_is_taken_and_a_byte_more_is_not(site: Site) -> None:
    exact = b'{"events": []}'.ljust(1000)
    assert (await site.put(exact))[0] == 200
    assert (await site.put(exact + b" "))[0] == 413

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, 1001, 100):
            yield (exact + b" ")[start : start + 100]

    url = site.url("/_matrix/app/v1/transactions/1")
    async with site.http.put(url, data=chunks(), headers=GOOD) as response:
        assert response.status == 413, "without a length, it is counted"
    assert len(site.sink.accepted) == 1


async def test_body_of_more_than_64_mib_is_refused_by_its_announced_length(site: Site) -> None:
    head = f"PUT {'/_matrix/app/v1/transactions/1'} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n"
    too_long = await site.raw((head + f"Content-Length: {64 * 1024 * 1024 + 1}\r\n\r\n").encode())
    assert b" 413 " in too_long.splitlines()[0]
    assert site.sink.accepted == []


async def test_transaction_above_one_mebibyte_is_taken(site: Site) -> None:
    """aiohttp's own limit is 1 MiB, and a homeserver whose transaction is refused never goes on."""
    events = [{"event_id": f"${number}", "content": {"body": "x" * 60_000}} for number in range(100)]
    assert (await site.put({"events": events}))[0] == 200
    assert site.sink.accepted == [("1", events)]


@pytest.mark.parametrize("sent", [b"", b'{"events": [', b'{"events": []'])
async def test_body_that_does_not_come_ends_in_408(site: Site, sent: bytes) -> None:
    head = f"PUT /_matrix/app/v1/transactions/1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n"
    answer = await site.raw(head.encode() + b"Content-Length: 14\r\n\r\n" + sent)
    assert b" 408 " in answer.splitlines()[0]
    assert site.sink.accepted == []


async def test_client_that_hangs_up_in_the_body_does_no_harm(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "aiohttp")
    head = f"PUT /_matrix/app/v1/transactions/1 HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\n"
    await site.raw(head.encode() + b'Content-Length: 100\r\n\r\n{"events"', end=True)
    await site.raw(head.encode() + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", end=True)
    assert (await site.put({"events": []}))[0] == 200
    assert len(site.sink.accepted) == 1
    assert [record for record in caplog.records if record.exc_info or record.levelno >= logging.ERROR] == []
    assert "127.0.0.1" not in caplog.text


async def test_transactions_beyond_the_limit_are_sent_away(site: Site) -> None:
    site.sink.hold = asyncio.Event()
    waiting = [asyncio.create_task(site.put({"events": []}, txn=str(number))) for number in range(MAX_IN_FLIGHT + 3)]
    refused = 0
    while refused < 3:
        done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        refused = len(done)
    site.sink.hold.set()
    statuses = sorted(status for status, _ in await asyncio.gather(*waiting))
    assert statuses == [200] * MAX_IN_FLIGHT + [503] * 3
    assert (await site.put({"events": []}))[0] == 200


async def test_the_same_transaction_many_times_at_once_is_stored_once_and_answered_each_time(site: Site) -> None:
    site.sink.hold = asyncio.Event()
    sixteen = [asyncio.create_task(site.put({"events": ["x"]}, txn="same")) for _ in range(16)]
    while len(site.sink.looked) < 16:
        await asyncio.sleep(0)
    # Another body by the same id is another transaction.
    other = asyncio.create_task(site.put({"events": ["y"]}, txn="same"))
    while len(site.sink.looked) < 17:
        await asyncio.sleep(0)
    site.sink.hold.set()
    assert [status for status, _ in await asyncio.gather(*sixteen, other)] == [200] * 17
    assert sorted(str(events) for _, events in site.sink.accepted) == ["['x']", "['y']"]


async def test_what_cannot_be_stored_is_refused_to_each_who_has_sent_it(site: Site) -> None:
    site.sink.hold, site.sink.error = asyncio.Event(), StorageError("the disk is full")
    several = [asyncio.create_task(site.put({"events": ["x"]}, txn="same")) for _ in range(5)]
    while len(site.sink.looked) < 5:
        await asyncio.sleep(0)
    site.sink.hold.set()
    assert [status for status, _ in await asyncio.gather(*several)] == [503] * 5
    site.sink.error = None
    assert (await site.put({"events": ["x"]}, txn="same"))[0] == 200


async def test_what_takes_away_is_seen_also_while_all_places_wait_for_the_database(site: Site) -> None:
    site.sink.hold = asyncio.Event()
    waiting = [asyncio.create_task(site.put({"events": [number]}, txn=str(number))) for number in range(MAX_IN_FLIGHT)]
    while len(site.sink.looked) < MAX_IN_FLIGHT:
        await asyncio.sleep(0)
    for number in range(3):
        assert (await site.put({"events": [f"end {number}"]}, txn=f"more{number}"))[0] == 503
    assert site.sink.looked[MAX_IN_FLIGHT:] == ["end 0", "end 1", "end 2"]
    site.sink.hold.set()
    assert [status for status, _ in await asyncio.gather(*waiting)] == [200] * MAX_IN_FLIGHT
    assert (await site.put({"events": []}))[0] == 200


@pytest.mark.parametrize(("length", "status"), [(1, 200), (255, 200), (256, 400)])
async def test_transaction_id_has_a_limit(site: Site, length: int, status: int) -> None:
    assert (await site.put({"events": []}, txn="t" * length))[0] == status


@pytest.mark.parametrize(
    ("path", "status", "errcode"),
    [
        ("/_matrix/app/v1/users/%40rtc_build%3Aexample.org", 200, None),
        ("/_matrix/app/v1/users/@rtc_build:example.org", 200, None),
        ("/_matrix/app/v1/users/@rtc_other:example.org", 404, "M_NOT_FOUND"),
        ("/_matrix/app/v1/users/nobody", 404, "M_NOT_FOUND"),
        ("/_matrix/app/v1/users/@" + "a" * 300 + ":example.org", 404, "M_NOT_FOUND"),
        ("/_matrix/app/v1/rooms/%23build%3Aexample.org", 404, "M_NOT_FOUND"),
        ("/_matrix/app/v1/thirdparty/protocol/irc", 404, "M_NOT_FOUND"),
        ("/_matrix/app/v1/thirdparty/user?a=b", 404, "M_NOT_FOUND"),
        ("/_matrix/app/v1/unknown", 404, "M_UNRECOGNIZED"),
        ("/users/%40rtc_build%3Aexample.org", 200, None),
        ("/users/@rtc_other:example.org", 404, "M_NOT_FOUND"),
        ("/rooms/%23build%3Aexample.org", 404, "M_NOT_FOUND"),
        ("/_matrix/app/unstable/thirdparty/protocol/irc", 404, "M_NOT_FOUND"),
        ("/_matrix/app/v2/users/@rtc_build:example.org", 404, "M_UNRECOGNIZED"),
        ("/transactions/1", 405, "M_UNRECOGNIZED"),
        ("/_matrix/app/v1/ping", 405, "M_UNRECOGNIZED"),
        ("/_matrix/app/v1/transactions/1", 405, "M_UNRECOGNIZED"),
    ],
)
async def test_queries_are_answered_with_json(site: Site, path: str, status: int, errcode: str | None) -> None:
    async with site.http.get(site.url(path), headers=GOOD) as response:
        answer = await response.json()
    assert (response.status, answer.get("errcode")) == (status, errcode)
    assert "aiohttp" not in response.headers["Server"]


async def test_health_needs_no_token_and_shows_readiness(site: Site) -> None:
    async def statuses() -> list[int]:
        found = []
        for name in ("live", "ready"):
            async with site.http.get(site.url(f"/_matrix/mau/{name}")) as response:
                found.append(response.status)
        return found

    assert await statuses() == [200, 200]
    site.sink.ready = False
    assert await statuses() == [200, 503]


async def test_header_that_is_too_long_is_refused(site: Site) -> None:
    answer = await site.raw(b"GET /_matrix/mau/live HTTP/1.1\r\nHost: a\r\nX-A: " + b"x" * 100_000 + b"\r\n\r\n")
    assert b" 400 " in answer.splitlines()[0]


async def test_real_inbox_stores_nothing_for_a_wrong_token_and_everything_once_for_the_right_one(
    tmp_path: Path,
) -> None:
    """All parts together: HTTP, inbox, SQLite; each transaction is sent five times at once."""
    handled: list[RoomEvent] = []

    async def handler(event: RoomEvent) -> None:
        handled.append(event)

    def events(start: int) -> list[dict[str, Any]]:
        return [
            {
                "event_id": f"${number}",
                "room_id": f"!{number % 2}:example.org",
                "type": "m.call.invite",
                "sender": "@alice:example.org",
                "origin_server_ts": 1,
                "content": {},
            }
            for number in range(start, start + 10)
        ]

    async def count(connection: Connection) -> int:
        return int(await connection.fetchval("SELECT COUNT(*) FROM event"))

    metrics = Metrics()
    async with await Database.open(f"sqlite:///{tmp_path}/bridge.db") as database:
        inbox = Inbox(
            InboxStore(database),
            handler,
            wall_ms=lambda: 1,
            knows_user=lambda user: user == PEER,
            metrics=metrics,
            own_server="example.org",
        )
        run = asyncio.create_task(inbox.run())
        endpoint = AppserviceEndpoint(inbox, token=TOKEN, metrics=metrics)
        async with (
            Server(endpoint.application(), TcpListen("127.0.0.1", 0), linger_s=0.1) as server,
            ClientSession() as http,
        ):

            async def put(txn: int, token: str) -> int:
                url = f"http://127.0.0.1:{server.port}/_matrix/app/v1/transactions/{txn}"
                body = {"events": [*events(txn * 10), {"poison": txn}, None]}
                async with http.put(url, json=body, headers={"Authorization": f"Bearer {token}"}) as response:
                    return response.status

            assert await put(0, TOKEN) == 503
            inbox.set_ready(True)
            assert await put(0, "wrong") == 401
            assert await database.transaction(count) == 0
            for txn in range(5):
                statuses = await asyncio.gather(*(put(txn, TOKEN) for _ in range(5)))
                assert set(statuses) <= {200, 503}
                assert 200 in statuses
            await inbox.idle()
        inbox.close()
        await run
        assert await database.transaction(count) == 50 + 5 + 1
    assert sorted(int(event.event_id[1:]) for event in handled) == list(range(50))
