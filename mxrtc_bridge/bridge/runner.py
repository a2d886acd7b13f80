"""Runs a bridge as a process: its database, its signals, and what the admin says at the start."""

from __future__ import annotations

import asyncio
import signal
from contextlib import closing

from mxrtc_bridge.bridge.bridge import Bridge
from mxrtc_bridge.bridge.config_mapping import profiles
from mxrtc_bridge.bridge.service_manager import ServiceManager
from mxrtc_bridge.config import Config
from mxrtc_bridge.core.errors import ConfigError
from mxrtc_bridge.matrix.virtual_users import Consent
from mxrtc_bridge.storage.tables import open_stores


async def run(config: Config, consent: Consent = Consent()) -> None:  # noqa: B008 - a value
    """Run the bridge until SIGTERM or SIGINT; SIGHUP reloads the configuration.

    Args:
        config: the configuration to start with.
        consent: what may be done to accounts and identities that are there.

    Raises:
        MxrtcError: it could not start, or cannot go on; the message says why and what to do.
    """
    ours = [profile.user_id for profile in profiles(config)]
    for user in sorted(consent.adopt.difference(ours)):
        raise ConfigError(f"--adopt {user}: by the configuration there is no such user; there are {', '.join(ours)}")
    stop, reload = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number, event in ((signal.SIGTERM, stop), (signal.SIGINT, stop), (signal.SIGHUP, reload)):
        loop.add_signal_handler(number, event.set)
    async with open_stores(config.database, sole=True) as stores:
        with closing(ServiceManager()) as manager:
            await Bridge(config, stores, consent, manager=manager).run(stop, reload)
