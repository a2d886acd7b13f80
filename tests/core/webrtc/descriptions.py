"""Descriptions in the shapes that real implementations write, for the tests of the filter."""

from __future__ import annotations

HEX = ":".join(f"{value:02X}" for value in range(32))
HEX_384 = ":".join(f"{value:02X}" for value in range(48))
HEX_512 = ":".join(f"{value:02X}" for value in range(64))


def sdp(*lines: str) -> str:
    """Join lines as SDP does."""
    return "\r\n".join(lines) + "\r\n"


CHROMIUM_OFFER = sdp(
    "v=0",
    "o=- 5516302731987400912 2 IN IP4 127.0.0.1",
    "s=-",
    "t=0 0",
    "a=group:BUNDLE 0",
    "a=extmap-allow-mixed",
    "a=msid-semantic: WMS",
    "m=application 46154 UDP/DTLS/SCTP webrtc-datachannel",
    "c=IN IP4 203.0.113.7",
    "a=candidate:3105402581 1 udp 2113937151 5e7d0f7c-1a80-4f0e-8a62-0c5b3d1f7a11.local 46154 typ host "
    "generation 0 network-cost 999",
    "a=candidate:842163049 1 udp 1677729535 203.0.113.7 46154 typ srflx raddr 0.0.0.0 rport 0 "
    "generation 0 network-cost 999",
    "a=candidate:1052353102 1 tcp 1518280447 198.51.100.4 9 typ host tcptype active generation 0 network-id 1",
    "a=ice-ufrag:EsAw",
    "a=ice-pwd:bP+XJMM09aR8AiX1jdukzR6Y",
    "a=ice-options:trickle",
    f"a=fingerprint:sha-256 {HEX}",
    "a=setup:actpass",
    "a=mid:0",
    "a=sctp-port:5000",
    "a=max-message-size:262144",
)

FIREFOX_ANSWER = sdp(
    "v=0",
    "o=mozilla...THIS_IS_SDPARTA-99.0 4717338162470143211 0 IN IP4 0.0.0.0",
    "s=-",
    "t=0 0",
    "a=sendrecv",
    f"a=fingerprint:sha-256 {HEX}",
    "a=group:BUNDLE 0",
    "a=ice-options:trickle",
    "a=msid-semantic:WMS *",
    "m=application 50054 UDP/DTLS/SCTP webrtc-datachannel",
    "c=IN IP4 198.51.100.9",
    "a=candidate:0 1 UDP 2122252543 198.51.100.9 50054 typ host",
    "a=candidate:3 1 TCP 2105524479 198.51.100.9 9 typ host tcptype active",
    "a=candidate:1 1 UDP 1686052863 203.0.113.20 50054 typ srflx raddr 198.51.100.9 rport 50054",
    "a=sendrecv",
    "a=end-of-candidates",
    "a=ice-pwd:a33017ce6eae687d1afdae61c9f0db55",
    "a=ice-ufrag:f8acf035",
    "a=mid:0",
    "a=setup:active",
    "a=sctp-port:5000",
    "a=max-message-size:1073741823",
)

AIORTC_OFFER = sdp(
    "v=0",
    "o=- 4003177442 4003177442 IN IP4 0.0.0.0",
    "s=-",
    "t=0 0",
    "a=group:BUNDLE 0",
    "a=msid-semantic:WMS *",
    "m=application 38000 UDP/DTLS/SCTP webrtc-datachannel",
    "c=IN IP4 192.0.2.8",
    "a=mid:0",
    "a=sctp-port:5000",
    "a=max-message-size:262144",
    "a=candidate:f1b0c9b2b7d14f0a8e2f6f4a7d0e9c31 1 udp 2130706431 192.0.2.8 38000 typ host",
    "a=end-of-candidates",
    "a=ice-ufrag:dXbq",
    "a=ice-pwd:7GmQ0c7ZzW3wvVt1qTQbZV",
    f"a=fingerprint:sha-256 {HEX}",
    f"a=fingerprint:sha-384 {HEX_384}",
    f"a=fingerprint:sha-512 {HEX_512}",
    "a=setup:actpass",
)

LIBDATACHANNEL_OFFER = sdp(
    "v=0",
    "o=rtc 742103403 0 IN IP4 127.0.0.1",
    "s=-",
    "t=0 0",
    "a=group:BUNDLE 0",
    "a=group:LS 0",
    "a=msid-semantic:WMS *",
    "a=setup:actpass",
    "a=ice-ufrag:hDpR",
    "a=ice-pwd:xkQmVb2bvCzUpDL1mFqc2x",
    "a=ice-options:ice2,trickle",
    f"a=fingerprint:sha-256 {HEX}",
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
    "c=IN IP4 0.0.0.0",
    "a=mid:0",
    "a=sendrecv",
    "a=sctp-port:5000",
    "a=max-message-size:262144",
    "a=candidate:1 1 UDP 2114977791 2001:db8::5 55555 typ host",
    "a=end-of-candidates",
)

PION_OFFER = sdp(
    "v=0",
    "o=- 4215775240449105457 1700000000 IN IP4 0.0.0.0",
    "s=-",
    "t=0 0",
    f"a=fingerprint:sha-256 {HEX}",
    "a=extmap-allow-mixed",
    "a=group:BUNDLE data",
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
    "c=IN IP4 0.0.0.0",
    "a=setup:actpass",
    "a=mid:data",
    "a=sendrecv",
    "a=sctp-port:5000",
    "a=ice-ufrag:UxlQDEfPKTgRwjPz",
    "a=ice-pwd:TgWvhyEnNwQyYTOoLbOpYQuLEfVbVhjS",
    "a=candidate:3735928559 1 udp 2130706431 203.0.113.30 49999 typ host",
    "a=candidate:3735928559 2 udp 2130706431 203.0.113.30 49999 typ host",
    "a=end-of-candidates",
    "a=end-of-candidates",
)

LEGACY_OFFER = sdp(
    "v=0",
    "o=- 1 2 IN IP4 127.0.0.1",
    "s=-",
    "t=0 0",
    "a=group:BUNDLE data",
    "a=msid-semantic: WMS",
    "m=application 9 DTLS/SCTP 5001",
    "c=IN IP4 0.0.0.0",
    "b=AS:30",
    "a=ice-ufrag:Vqsx",
    "a=ice-pwd:aNwYgd8UM5kxXM2F4dSnPHxw",
    "a=ice-options:trickle",
    f"a=fingerprint:sha-256 {HEX.lower()}",
    "a=setup:actpass",
    "a=mid:data",
    "a=sctpmap:5001 webrtc-datachannel 1024",
)

OFFERS = {
    "chromium": CHROMIUM_OFFER,
    "aiortc": AIORTC_OFFER,
    "libdatachannel": LIBDATACHANNEL_OFFER,
    "pion": PION_OFFER,
    "legacy": LEGACY_OFFER,
}
