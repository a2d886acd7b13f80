"""What becomes of failures in the work that the bridge does again and again."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from mxrtc_bridge.core.errors import MxrtcError

log = logging.getLogger(__name__)


async def outlive(consequence: str, work: Callable[[], Awaitable[None]]) -> bool:
    """Do work whose failure must not end the bridge, as it is tried again when it is due; False if it has failed."""
    try:
        await work()
    except MxrtcError as error:
        log.error("! %s: %s", consequence, error)
    except Exception:
        log.exception("! %s", consequence)
    else:
        return True
    return False
