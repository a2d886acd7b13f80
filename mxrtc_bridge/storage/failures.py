"""Whose fault it is what the library of a database raises: that of the database, or of what it was told.

Not listed is what belongs to the connection, to what runs beside it or to the server: that is "away", and tried again.
"""

from __future__ import annotations

import importlib
import sqlite3
import sys
from typing import NoReturn

from mxrtc_bridge.core.errors import RefusedStatementError, StorageError
from mxrtc_bridge.core.text.installing import install_command


class CommitError(Exception):
    """Whatever a COMMIT has raised; the cause is the error."""


def is_away(error: Exception) -> bool:
    """Whether the database, and not what it was told, is the cause: so the same may succeed later."""
    if isinstance(error, CommitError):
        return True
    if isinstance(error, _POSTGRES):
        state = getattr(error, "sqlstate", None) or ""
        of_statement = state[:2] in _STATEMENT_CLASSES | _DAMAGE_CLASSES
        return not of_statement or state in _AWAY_STATES or isinstance(error, _AWAY)
    if isinstance(error, _POSTGRES_CLIENT):
        # A value that cannot even be sent is the one kind that is ours.
        return not isinstance(error, ValueError)
    # SQLite has one class for locked, busy, disk full, I/O error and read-only.
    return isinstance(error, (sqlite3.OperationalError, OSError, TimeoutError))


def raise_for_statement(error: Exception) -> NoReturn:
    """Translate what a statement, or the work around it, has raised.

    Raises:
        StorageError: the database is damaged, or refuses this.
        Exception: it comes from the work itself.
    """
    mistakes = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError, sqlite3.NotSupportedError)
    state = (getattr(error, "sqlstate", None) or "") if isinstance(error, _POSTGRES) else ""
    if state[:2] in _DAMAGE_CLASSES or (isinstance(error, sqlite3.DatabaseError) and not isinstance(error, mistakes)):
        raise StorageError(f"the database is damaged: {brief(error)}") from error
    # What the libraries raise for values that they cannot pass on are no errors of theirs.
    if isinstance(error, (sqlite3.Error, *FOREIGN, UnicodeError, OverflowError)):
        # Without the text of the error: it repeats what somebody has sent.
        raise RefusedStatementError(f"the database does not take this: {type(error).__name__}") from error
    raise error


def without_asyncpg() -> StorageError:
    """Return what is said where the library for PostgreSQL is not installed (it is an extra)."""
    command = install_command("postgres", python=sys.executable)
    return StorageError(f"PostgreSQL needs the extra `postgres`; install it with: {command}")


def postgres_errors(*names: str) -> tuple[type[Exception], ...]:
    """The exception classes of asyncpg of these names; none when it is not installed (it is an extra)."""
    try:
        module = importlib.import_module("asyncpg")
    except ImportError:
        return ()
    return tuple(getattr(module, name) for name in names)


def brief(error: BaseException) -> str:
    """Its kind, and how its text begins."""
    return f"{type(error).__name__}: {str(error)[:200]}"


_POSTGRES = postgres_errors("PostgresError")
"""What PostgreSQL answers; the kind is in ``sqlstate`` (PostgreSQL, appendix A)."""
_POSTGRES_CLIENT = postgres_errors("InterfaceError", "InternalClientError")
"""What asyncpg raises by itself."""
FOREIGN = (*_POSTGRES, *_POSTGRES_CLIENT)
"""All of it."""
_STATEMENT_CLASSES = frozenset({"0A", "20", "21", "22", "23", "2B", "2F", "38", "39", "42", "44", "54", "P0"})
"""Classes that speak of one statement and its values. All others speak of the connection, of what runs beside it, or of
the server; also those that are not known here."""
_DAMAGE_CLASSES = frozenset({"58", "XX"})
_AWAY_STATES = frozenset({"42501"})
"""Rights of the login that were taken away may be given back."""
_AWAY = postgres_errors("InvalidCachedStatementError")
"""A statement that was prepared before the tables were changed, or before a fail-over."""
