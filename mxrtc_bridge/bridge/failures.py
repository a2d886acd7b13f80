"""What becomes of failures in the work that the bridge does again and again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable

from mxrtc_bridge.core.errors import MxrtcError

log = logging.getLogger(__name__)


async def outlive(consequence: str, work: Awaitable[None]) -> None:
    """Do work whose failure must not end the bridge: it is tried again the next time it is due."""
    try:
        await work
    except MxrtcError as error:
        log.error("! %s: %s", consequence, error)
    except Exception:
        log.exception("! %s", consequence)
