"""Gives room that the database does not use any more back to the file system: SQLite by itself never does.

PostgreSQL sees to that itself. Every step is short, as nobody can write meanwhile.
"""

from __future__ import annotations

import logging
import shutil

from mxrtc_bridge.core.errors import StorageError
from mxrtc_bridge.engine.outside import in_new_thread
from mxrtc_bridge.storage.database import Database

log = logging.getLogger(__name__)

STEP_PAGES, STEPS = 512, 100
"""Pages (of 4 KiB, as a rule) that are given back at a time, and how often in an hour; as many stay for what comes."""


async def shrink(database: Database, *, step_pages: int = STEP_PAGES, steps: int = STEPS) -> int:
    """Give some of what is free back to the file system; returns how many pages.

    Raises:
        StorageError: the database refuses.
    """
    given = 0
    if database.sqlite_file is None:
        return given
    for _ in range(steps):
        before = await database.command("PRAGMA freelist_count")
        if before <= step_pages:
            break
        await database.command(f"PRAGMA incremental_vacuum({step_pages})", gives_number=False)
        freed = before - await database.command("PRAGMA freelist_count")
        if freed <= 0:
            break
        given += freed
    return given


async def reorganise(database: Database) -> None:
    """Have a file that an earlier version has made give room back as well; takes seconds for a large one, once.

    Not done where the disk has no room for another copy, which it needs for a moment, and put off where the database
    refuses: another program uses it, or there is no room for what SQLite keeps in a temporary directory.
    """
    try:
        await _reorganise(database)
    except StorageError as error:
        log.warning("! the database file stays as large as it is, and that is tried again at the next start: %s", error)


async def _reorganise(database: Database) -> None:
    file = database.sqlite_file
    if file is None or await database.command("PRAGMA auto_vacuum"):
        return
    size = await database.command("PRAGMA page_count") * await database.command("PRAGMA page_size")
    free = (await in_new_thread(shutil.disk_usage, file.absolute().parent)).free
    if free < 2 * size:
        log.warning(
            "! the database file stays as large as it is: to change that needs %d MiB for a moment", 2 * size >> 20
        )
        return
    log.info("the database file is written anew, once, so that it can become smaller")
    await database.command("PRAGMA auto_vacuum = INCREMENTAL; VACUUM", gives_number=False)
