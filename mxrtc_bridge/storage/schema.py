"""The tables, by version. A version that was released is never edited: a change is the next function.

All times are milliseconds of the wall clock. Statements keep to what SQLite (3.35) and PostgreSQL (12) share.
"""

from __future__ import annotations

import json

from mautrix.util.async_db import Connection, Scheme, UpgradeTable

OWNER = "mxrtc-bridge"
"""To whom a database belongs, as it is written in it."""
UPGRADES = UpgradeTable(version_table_name="mxrtc_version", database_name="mxrtc-bridge database")


async def _create_tables(connection: Connection, scheme: Scheme) -> None:
    # Both count upwards and never give a number twice, also not after the newest row was deleted: the order of arrival.
    sequence = "INTEGER PRIMARY KEY AUTOINCREMENT" if scheme == Scheme.SQLITE else "BIGSERIAL PRIMARY KEY"
    await connection.execute(
        f"""CREATE TABLE event (
            seq         {sequence},
            event_id    TEXT     NOT NULL UNIQUE,
            room_id     TEXT     NOT NULL,
            state       SMALLINT NOT NULL,
            reason      TEXT,
            payload     TEXT     NOT NULL,
            received_ms BIGINT   NOT NULL,
            settled_ms  BIGINT
        )"""
    )
    await connection.execute("CREATE INDEX event_waiting ON event (room_id, seq) WHERE state = 0")
    await connection.execute("CREATE INDEX event_settled ON event (state, seq) WHERE state <> 0")
    await connection.execute(
        """CREATE TABLE call (
            room_id    TEXT   NOT NULL,
            call_id    TEXT   NOT NULL,
            local_user TEXT   NOT NULL,
            remote_user TEXT  NOT NULL,
            party_id   TEXT,
            event_id   TEXT   NOT NULL UNIQUE,
            claimed_ms BIGINT NOT NULL,
            ended_ms   BIGINT,
            end_reason TEXT,
            PRIMARY KEY (room_id, call_id, local_user)
        )"""
    )
    await connection.execute("CREATE INDEX call_open ON call (claimed_ms) WHERE ended_ms IS NULL")
    await connection.execute("CREATE INDEX call_ended ON call (ended_ms) WHERE ended_ms IS NOT NULL")
    await connection.execute("CREATE TABLE certificate (user_id TEXT PRIMARY KEY, pem TEXT NOT NULL)")
    await connection.execute(
        """CREATE TABLE peer_room (
            peer           TEXT   NOT NULL,
            room_id        TEXT   NOT NULL,
            user_id        TEXT   NOT NULL,
            last_active_ms BIGINT NOT NULL,
            PRIMARY KEY (peer, room_id)
        )"""
    )
    await connection.execute("CREATE INDEX peer_room_active ON peer_room (last_active_ms)")
    await connection.execute("CREATE TABLE notice (user_id TEXT PRIMARY KEY, last_ms BIGINT NOT NULL)")
    await connection.execute("CREATE INDEX notice_last ON notice (last_ms)")


UPGRADES.register(_create_tables, description="first tables")


async def _create_requests(connection: Connection, scheme: Scheme) -> None:
    sequence = "INTEGER PRIMARY KEY AUTOINCREMENT" if scheme == Scheme.SQLITE else "BIGSERIAL PRIMARY KEY"
    await connection.execute(
        f"""CREATE TABLE request (
            number       {sequence},
            user_id      TEXT   NOT NULL,
            peer         TEXT   NOT NULL,
            service      TEXT   NOT NULL,
            for_s        BIGINT NOT NULL,
            because      TEXT   NOT NULL,
            room_id      TEXT   NOT NULL,
            asked_ms     BIGINT NOT NULL,
            state        TEXT   NOT NULL,
            decided_by   TEXT,
            decided_ms   BIGINT,
            notice_event TEXT
        )"""
    )
    # One open request of a user for a service: the database itself refuses the second.
    await connection.execute(
        "CREATE UNIQUE INDEX request_open ON request (user_id, peer, service) WHERE state = 'asked'"
    )
    await connection.execute("CREATE INDEX request_user ON request (user_id, number)")
    await connection.execute("CREATE INDEX request_notice ON request (notice_event) WHERE notice_event IS NOT NULL")
    await connection.execute("CREATE INDEX request_ended ON request (decided_ms) WHERE state <> 'asked'")


UPGRADES.register(_create_requests, description="requests for access")


async def _create_crypto_tables(connection: Connection, scheme: Scheme) -> None:  # noqa: ARG001 - the same for both
    # "owner" is the own user whose device it is; flags are integers because the databases differ in booleans.
    await connection.execute(
        """CREATE TABLE crypto_account (
            owner       TEXT     PRIMARY KEY,
            device_id   TEXT     NOT NULL,
            pickle      TEXT     NOT NULL,
            uploaded    SMALLINT NOT NULL,
            fallback_ms BIGINT   NOT NULL,
            sync_token  TEXT
        )"""
    )
    await connection.execute(
        """CREATE TABLE crypto_olm (
            owner      TEXT   NOT NULL,
            curve25519 TEXT   NOT NULL,
            session_id TEXT   NOT NULL,
            pickle     TEXT   NOT NULL,
            used_ms    BIGINT NOT NULL,
            PRIMARY KEY (owner, curve25519, session_id)
        )"""
    )
    await connection.execute(
        """CREATE TABLE crypto_inbound (
            owner       TEXT   NOT NULL,
            room_id     TEXT   NOT NULL,
            session_id  TEXT   NOT NULL,
            user_id     TEXT   NOT NULL,
            pickle      TEXT   NOT NULL,
            curve25519  TEXT   NOT NULL,
            ed25519     TEXT   NOT NULL,
            device_id   TEXT   NOT NULL,
            received_ms BIGINT NOT NULL,
            PRIMARY KEY (owner, room_id, session_id, user_id)
        )"""
    )
    await connection.execute("CREATE INDEX crypto_inbound_received ON crypto_inbound (received_ms)")
    await connection.execute(
        """CREATE TABLE crypto_outbound (
            owner      TEXT    NOT NULL,
            room_id    TEXT    NOT NULL,
            session_id TEXT    NOT NULL,
            pickle     TEXT    NOT NULL,
            created_ms BIGINT  NOT NULL,
            messages   INTEGER NOT NULL,
            shared     TEXT    NOT NULL,
            withheld   TEXT    NOT NULL,
            PRIMARY KEY (owner, room_id)
        )"""
    )
    await connection.execute(
        """CREATE TABLE crypto_index (
            owner      TEXT   NOT NULL,
            room_id    TEXT   NOT NULL,
            session_id TEXT   NOT NULL,
            position   BIGINT NOT NULL,
            event_id   TEXT   NOT NULL,
            used_ms    BIGINT NOT NULL,
            PRIMARY KEY (owner, room_id, session_id, position)
        )"""
    )
    await connection.execute("CREATE INDEX crypto_index_used ON crypto_index (used_ms)")
    await connection.execute(
        """CREATE TABLE crypto_user (
            owner           TEXT     NOT NULL,
            user_id         TEXT     NOT NULL,
            keys_json       TEXT     NOT NULL,
            queried_ms      BIGINT   NOT NULL,
            outdated        SMALLINT NOT NULL,
            pinned_master   TEXT,
            verified_master TEXT,
            PRIMARY KEY (owner, user_id)
        )"""
    )
    await connection.execute(
        """CREATE TABLE crypto_room (
            owner           TEXT    NOT NULL,
            room_id         TEXT    NOT NULL,
            rotate_messages INTEGER NOT NULL,
            rotate_ms       BIGINT  NOT NULL,
            PRIMARY KEY (owner, room_id)
        )"""
    )


UPGRADES.register(_create_crypto_tables, description="devices with encryption")


async def _create_grants(connection: Connection, scheme: Scheme) -> None:
    sequence = "INTEGER PRIMARY KEY AUTOINCREMENT" if scheme == Scheme.SQLITE else "BIGSERIAL PRIMARY KEY"
    await connection.execute(
        f"""CREATE TABLE given_grant (
            number     {sequence},
            subject    TEXT     NOT NULL,
            peer       TEXT     NOT NULL,
            service    TEXT     NOT NULL,
            giver      TEXT     NOT NULL,
            since_ms   BIGINT   NOT NULL,
            until_ms   BIGINT   NOT NULL,
            reason     TEXT     NOT NULL,
            once       SMALLINT NOT NULL,
            claimed_ms BIGINT,
            ended_ms   BIGINT,
            ended_how  TEXT,
            ended_by   TEXT
        )"""
    )
    await connection.execute("CREATE INDEX given_grant_live ON given_grant (until_ms) WHERE ended_ms IS NULL")
    await connection.execute("CREATE INDEX given_grant_ended ON given_grant (ended_ms) WHERE ended_ms IS NOT NULL")


UPGRADES.register(_create_grants, description="grants that people give")


async def _create_audit(connection: Connection) -> None:
    await connection.execute(
        """CREATE TABLE audit (
            number  BIGINT PRIMARY KEY,
            digest  TEXT   NOT NULL,
            at_ms   BIGINT NOT NULL,
            user_id TEXT,
            peer    TEXT,
            line    TEXT   NOT NULL
        )"""
    )
    await connection.execute("CREATE INDEX audit_user ON audit (user_id, number)")
    await connection.execute("CREATE INDEX audit_peer ON audit (peer, number)")
    await connection.execute("CREATE INDEX audit_time ON audit (at_ms)")


UPGRADES.register(_create_audit, description="audit")


async def _create_call_trace(connection: Connection) -> None:
    await connection.execute(
        """CREATE TABLE call_trace (
            event_id TEXT     PRIMARY KEY,
            room_id  TEXT     NOT NULL,
            sender   TEXT     NOT NULL,
            call_id  TEXT     NOT NULL,
            sent_ms  BIGINT   NOT NULL,
            is_over  SMALLINT NOT NULL
        )"""
    )
    await connection.execute("CREATE INDEX call_trace_call ON call_trace (room_id, call_id)")
    await connection.execute("CREATE INDEX call_trace_sent ON call_trace (sent_ms)")


UPGRADES.register(_create_call_trace, description="events that calls leave behind")


async def _create_policy_rule(connection: Connection) -> None:
    await connection.execute(
        """CREATE TABLE policy_rule (
            room_id    TEXT NOT NULL,
            event_type TEXT NOT NULL,
            state_key  TEXT NOT NULL,
            kind       TEXT NOT NULL,
            entity     TEXT NOT NULL,
            PRIMARY KEY (room_id, event_type, state_key)
        )"""
    )


UPGRADES.register(_create_policy_rule, description="rules of policy lists")


async def _add_lanes_of_events(connection: Connection) -> None:
    # Whose event it is, and in which order of its room it stands: of its sender, or of the changes of the room ('').
    await connection.execute("ALTER TABLE event ADD COLUMN sender TEXT NOT NULL DEFAULT ''")
    await connection.execute("ALTER TABLE event ADD COLUMN lane TEXT NOT NULL DEFAULT ''")
    changes = (
        "m.room.member", "m.room.encryption", "m.room.redaction",
        "m.policy.rule.user", "m.policy.rule.server", "m.policy.rule.room",
    )  # fmt: skip
    after = 0
    while rows := await connection.fetch(
        "SELECT seq, payload FROM event WHERE state = 0 AND seq > $1 ORDER BY seq LIMIT 1000", after
    ):
        after = rows[-1]["seq"]
        places: list[tuple[int, str, str]] = []
        for row in rows:
            try:
                event = json.loads(row["payload"])
                sender, kind = str(event["sender"]), event["type"]
            except (ValueError, TypeError, KeyError, RecursionError):
                continue  # Damaged: it is set aside when its turn comes.
            places.append((row["seq"], sender, "" if kind in changes else sender))
        await connection.executemany("UPDATE event SET sender = $2, lane = $3 WHERE seq = $1", places)
    await connection.execute("DROP INDEX event_waiting")
    await connection.execute("CREATE INDEX event_waiting ON event (room_id, lane, seq) WHERE state = 0")


UPGRADES.register(_add_lanes_of_events, description="lanes of events")


async def _add_shares_of_the_audit(connection: Connection) -> None:
    # Whose share a row counts against: "" for what admins and the bridge do, "+user" for who is let in, "-server" for
    # who is turned away. Rows of before count for their user.
    await connection.execute("ALTER TABLE audit ADD COLUMN owner TEXT NOT NULL DEFAULT ''")
    await connection.execute(
        "UPDATE audit SET owner = '+' || user_id WHERE user_id IS NOT NULL AND (line LIKE '%\"kind\":\"call\"%' "
        'OR line LIKE \'%"kind":"service"%\' OR line LIKE \'%"kind":"end"%\')'
    )
    await connection.execute("CREATE INDEX audit_owner ON audit (owner, number)")
    await connection.execute(
        "CREATE TABLE audit_key (id SMALLINT PRIMARY KEY, secret TEXT NOT NULL, since BIGINT NOT NULL)"
    )


UPGRADES.register(_add_shares_of_the_audit, description="shares and key of the audit")


async def _add_bounds_of_encryption(connection: Connection) -> None:
    # Whose session it is, as whoever fills the table gives first; and when a room was of use last.
    await connection.execute("ALTER TABLE crypto_olm ADD COLUMN user_id TEXT NOT NULL DEFAULT ''")
    await connection.execute("ALTER TABLE crypto_room ADD COLUMN used_ms BIGINT NOT NULL DEFAULT 0")


UPGRADES.register(_add_bounds_of_encryption, description="bounds of encryption")


async def _create_own_user(connection: Connection) -> None:
    await connection.execute(
        "CREATE TABLE own_user (user_id TEXT PRIMARY KEY, how TEXT NOT NULL, since_ms BIGINT NOT NULL)"
    )
    # What an earlier version has done is proof enough: a device, a certificate or a room of the user.
    await connection.execute(
        "INSERT INTO own_user (user_id, how, since_ms) SELECT user_id, 'before', 0 FROM "
        "(SELECT owner AS user_id FROM crypto_account UNION SELECT user_id FROM certificate "
        "UNION SELECT peer FROM peer_room) AS known"
    )
    # Without encryption it has registered all its users and noted none of them. The first start looks who they are.
    await connection.execute(
        "INSERT INTO own_user (user_id, how, since_ms) SELECT '*', 'before', 0 "
        "WHERE EXISTS (SELECT 1 FROM audit) AND NOT EXISTS (SELECT 1 FROM crypto_account)"
    )


UPGRADES.register(_create_own_user, description="users that are ours")


async def _create_counter(connection: Connection) -> None:
    await connection.execute("CREATE TABLE counter (name TEXT PRIMARY KEY, last BIGINT NOT NULL)")


UPGRADES.register(_create_counter, description="numbers that are never used again")


async def _make_grants_pending(connection: Connection) -> None:
    # The grants that are there were given when a row counted as soon as it stood there: none of them is pending.
    await connection.execute("ALTER TABLE given_grant ADD COLUMN pending SMALLINT NOT NULL DEFAULT 0")
    await connection.execute("ALTER TABLE given_grant ADD COLUMN grant_key TEXT")
    await connection.execute("ALTER TABLE given_grant ADD COLUMN request BIGINT")
    await connection.execute("CREATE UNIQUE INDEX given_grant_key ON given_grant (grant_key)")
    # Few of the lines of the audit are about grants, and a start reads those.
    await connection.execute('CREATE INDEX audit_grant ON audit (number) WHERE line LIKE \'%"kind":"grant%\'')


UPGRADES.register(_make_grants_pending, description="grants that are pending until they are written everywhere")


async def _create_opened_messages(connection: Connection) -> None:
    # Messages that were decrypted, which is possible once only, and are not dealt with yet. What they say is encrypted.
    await connection.execute(
        "CREATE TABLE crypto_opened (owner TEXT NOT NULL, name TEXT NOT NULL, user_id TEXT NOT NULL, "
        "sealed TEXT NOT NULL, opened_ms BIGINT NOT NULL, PRIMARY KEY (owner, name))"
    )


UPGRADES.register(_create_opened_messages, description="messages that are not dealt with")


async def _index_ages_of_events(connection: Connection) -> None:
    # What is too old is found by it, and not by trying each row.
    await connection.execute("CREATE INDEX event_age ON event (state, settled_ms) WHERE state <> 0")


UPGRADES.register(_index_ages_of_events, description="ages of events by an index")


async def _index_ages_of_keys(connection: Connection) -> None:
    # The same for sessions with devices, and for what is known of users.
    await connection.execute("CREATE INDEX crypto_olm_used ON crypto_olm (used_ms)")
    await connection.execute("CREATE INDEX crypto_user_queried ON crypto_user (queried_ms)")


UPGRADES.register(_index_ages_of_keys, description="ages of keys by indexes")


async def _create_greeting(connection: Connection) -> None:
    await connection.execute("CREATE TABLE greeting (room_id TEXT PRIMARY KEY, at_ms BIGINT NOT NULL)")


UPGRADES.register(_create_greeting, description="rooms in which a peer has greeted its user")
