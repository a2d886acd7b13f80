"""Durable, ordered intake of room events."""

from __future__ import annotations

from mxrtc_bridge.matrix.room_event import RoomEvent

__all__ = ["RoomEvent"]
