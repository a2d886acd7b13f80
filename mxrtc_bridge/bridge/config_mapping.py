"""Maps the configuration to the settings types of engine, rtc and matrix."""

from __future__ import annotations

import os

from mxrtc_bridge.config.config import Config
from mxrtc_bridge.config.proxies import ProxyChoice, choose_proxy
from mxrtc_bridge.core.call.limits import CallLimits
from mxrtc_bridge.engine.call_manager import CallSettings
from mxrtc_bridge.matrix.rooms.ports import PeerProfile
from mxrtc_bridge.rtc.settings import RtcSettings


def profiles(config: Config) -> list[PeerProfile]:
    """All virtual users; the bot is one of them, a peer without services that knows all the others."""
    bot = PeerProfile(config.appservice.bot, "RTC bridge")
    return [bot, *(PeerProfile(peer.user_id, peer.displayname) for peer in config.peers.values())]


def proxy_of(config: Config) -> ProxyChoice:
    """How the homeserver is reached.

    Raises:
        ConfigError: the environment names what is no proxy.
    """
    return choose_proxy(config.homeserver.address, os.environ, config.homeserver.proxy or "")


def call_settings(config: Config) -> CallSettings:
    """What the admin has set about calls."""
    limits = config.limits
    return CallSettings(
        limits=CallLimits(limits.calls_per_user, limits.calls_per_server, limits.calls_total),
        invites_per_minute=limits.invites_per_minute,
        invites_per_minute_of_server=limits.invites_per_minute_per_server,
        own_server=config.homeserver.domain,
        session_max_s=limits.session_max_s,
        addresses=config.ice.remote,
        setup_s=limits.setup_s,
    )


def rtc_settings(config: Config) -> RtcSettings:
    """How sessions find a path."""
    ice = config.ice
    return RtcSettings(policy=ice.policy, interfaces=ice.interfaces, advertise=ice.advertise, port_range=ice.port_range)
