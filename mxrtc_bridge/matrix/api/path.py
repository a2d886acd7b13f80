"""Paths of the client-server API, written as they are read: ``Path.v3.rooms[room].send[event_type][txn_id]``."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote


class ApiPath:
    """The beginning of a path; parts in brackets come from outside and are percent-encoded."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattr__(self, part: str) -> ApiPath:
        return ApiPath(f"{self._path}/{part}")

    def __getitem__(self, part: str) -> ApiPath:
        # A part of dots alone would be a way up, however it came there (RFC 3986, 5.2.4).
        encoded = quote(part, safe="") if part.strip(".") else "%2E" * len(part)
        return ApiPath(f"{self._path}/{encoded}")

    def __str__(self) -> str:
        return self._path


Path: Final = ApiPath("_matrix/client")
