"""The answer to ``/sync``, as far as a device is concerned: what came, and whether anything did."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Mapping
from typing import Any, TypeVar

from mxrtc_bridge.core.call.to_device import SIGNAL_TYPE
from mxrtc_bridge.core.crypto.sas_events import EVENT_TYPES as SAS_EVENT_TYPES
from mxrtc_bridge.core.errors import EventError, MxrtcError, RefusalCode
from mxrtc_bridge.core.ids import UserId, parse_user_id
from mxrtc_bridge.core.text.foreign_json import inside, list_inside
from mxrtc_bridge.engine.rate_limited_log import RateLimitedLog

log = logging.getLogger(__name__)
T = TypeVar("T")

OF_USE = frozenset({"m.room_key", "m.forwarded_room_key", "m.dummy", SIGNAL_TYPE, *SAS_EVENT_TYPES})
"""What encrypted messages are for here; a session of a device that nobody lists is saved once it has brought some."""


def envelope(item: object) -> tuple[str, UserId, Mapping[str, Any]]:
    """Read type, sender and content of one message.

    Raises:
        EventError: it is none.
    """
    if not isinstance(item, dict):
        raise EventError(RefusalCode.BAD_EVENT, "a message must be an object")
    event_type, content = item.get("type"), item.get("content")
    if not isinstance(event_type, str) or len(event_type) > 255 or not isinstance(content, dict):
        raise EventError(RefusalCode.BAD_EVENT, "a message must have a type and a content")
    return event_type, parse_user_id(item.get("sender")), content


def messages_in(answer: Mapping[str, Any]) -> list[object]:
    """The messages of an answer, unread."""
    return list_inside(answer, "to_device", "events")


def has_brought(answer: Mapping[str, Any]) -> bool:
    """Whether the answer holds messages or changes of devices."""
    return bool(messages_in(answer) or inside(answer, "device_lists", "changed"))


async def received(work: Awaitable[T], user: UserId, seldom: RateLimitedLog) -> T | None:
    """The result of receiving one message; None where a defect is met at it, which costs that message alone.

    The answer would come again, and so would the defect: the device would hear nothing any more.

    Raises:
        MxrtcError: what may pass, or concerns the whole answer.
    """
    try:
        return await work
    except MxrtcError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, it is of this message
        seldom.exception(user, "! a message to a device of %s is lost", user, error=error, to=log)
        return None
