"""Makes registration.yaml.example."""

from __future__ import annotations

from mxrtc_bridge.config.config import AppserviceSettings
from mxrtc_bridge.config.example import DOMAIN, TOKEN
from mxrtc_bridge.config.registration import registration_text
from mxrtc_bridge.config.values import TcpListen
from mxrtc_bridge.core.ids import UserId


def example_registration() -> str:
    """The example of the registration that belongs to the example of the configuration."""
    appservice = AppserviceSettings(
        id="mxrtc",
        listen=TcpListen("127.0.0.1", 29350),
        url="http://127.0.0.1:29350",
        bot=UserId(f"@rtcbot:{DOMAIN}"),
        peer_prefix="rtc_",
        sender_localpart=None,
        hs_token=f"{TOKEN}-hs_token",
        as_token=f"{TOKEN}-as_token",
    )
    return registration_text(appservice, DOMAIN, "mxrtc4f0x0r5wq2mvnbt1k7h3")
