"""Which networks there are, and what works in them: the rows of ``docs/explanation/networks.md``.

The tests of a row are called ``test_row_NN_...``, and note how long a person waited for what.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """A network, and what works in it, in words for a person who has it."""

    number: int
    network: str
    works: str
    ordinary: bool = False
    """Whether each run tries it, and not only ``make test-long``."""


ROWS = (
    Row(
        1,
        "Both sides behind routers, and the homeserver names neither a TURN nor a STUN server",
        "nothing: exit code 5, and the sentence names the server that is missing",
        ordinary=True,
    ),
    Row(
        2,
        "The bridge's router forwards a range of UDP ports (`ice.advertise`, `port_range`), and there is no server; "
        "the client's router is any",
        "direct",
    ),
    Row(
        3,
        "Routers of all kinds on both sides, and a STUN or TURN server",
        "direct; relayed where one router has another port for each destination and the other one lets in only who it "
        "knows",
    ),
    Row(
        4,
        "The client's network lets no UDP out; the TURN server takes TCP as well",
        "relayed",
        ordinary=True,
    ),
    Row(
        5,
        "The client's network lets out nothing but TCP to port 443; the TURN server has TLS there, with a certificate "
        "of a private authority that the machine trusts (`SSL_CERT_FILE`)",
        "relayed, without any option",
        ordinary=True,
    ),
    Row(
        6,
        "A line with a round trip of 0.3 to 0.6 seconds, and TURN or STUN by UDP",
        "direct",
        ordinary=True,
    ),
    Row(
        7,
        "Such a line that lets no UDP out, or loses every twentieth packet, and TURN by TLS alone",
        "relayed",
    ),
    Row(
        8,
        "Strict routers on both sides, and a TURN server that is down, has another secret, or is full",
        "nothing: exit code 5; the sentence and `mxrtc-bridge check` name the server and its fault",
    ),
    Row(
        9,
        "A TURN server that keeps relays for a minute only, and is then killed and started again",
        "relayed without a gap; when it is killed streams are cut, and new ones work by themselves",
    ),
    Row(
        10,
        "A TURN server that takes connections and says nothing, and a good one behind it",
        "relayed",
    ),
    Row(
        11,
        "The TURN server has IPv6 and IPv4 addresses, and its IPv6 leads nowhere",
        "relayed",
        ordinary=True,
    ),
    Row(
        12,
        "The homeserver has IPv6 and IPv4 addresses, and its IPv6 leads nowhere",
        "direct",
    ),
    Row(
        13,
        "IPv6 alone on both sides; IPv6 alone on one and IPv4 alone on the other; private IPv6 beside IPv4",
        "direct; between the versions relayed, by a TURN server with both",
    ),
    Row(
        14,
        "Packets above 1400, 1280 or 1232 bytes vanish without a word; interfaces of 9000, 1420 or 1280 bytes",
        "direct or relayed, at full rate",
    ),
    Row(
        15,
        "A network whose packets have at most 1200, 1000 or 576 bytes",
        "direct",
        ordinary=True,
    ),
    Row(
        16,
        "The line gets narrower in the middle of a transfer",
        "the transfer goes on, whether routers divide what is too large or it vanishes without a word",
        ordinary=True,
    ),
    Row(
        17,
        "From wifi to mobile, to another address, or behind a router that has started again, while streams are open or "
        "a file is sent",
        "streams may be cut, and new ones work by themselves; `send` goes on",
    ),
    Row(
        18,
        "The line, or one direction of it, is cut for up to 25 seconds; one direction for longer",
        "no stream is cut, and what was said meanwhile arrives; beyond half a minute streams are cut, and new ones "
        "work by themselves",
        ordinary=True,
    ),
    Row(
        19,
        "A router that forgets UDP after 3 seconds, and nobody says anything for 45",
        "the session stays",
    ),
    Row(
        20,
        "The bridge's router starts again and knows of no connection any more",
        "streams go on; calls in the first seconds end with exit code 4",
    ),
    Row(
        21,
        "Three container bridges on each side, with the same addresses",
        "direct",
    ),
    Row(
        22,
        "Ten container bridges before the client's network card, a bridge with a public address, and no server",
        "direct",
        ordinary=True,
    ),
    Row(
        23,
        "The same private network on both sides; a VPN that takes the default route; a bridge with two network cards; "
        "a client in the bridge's network, whatever firewalls they have, or kept from it by the access point",
        "direct; relayed where the access point keeps them apart",
        ordinary=True,
    ),
    Row(
        24,
        "A firewall that lets in a range (`port_range`); a container or 1:1 NAT with mapped ports (`advertise`)",
        "direct; where `advertise` is missing nothing, and `mxrtc-bridge check` says so",
    ),
    Row(
        25,
        "All ports of the bridge's `port_range` are in use",
        "nothing: exit code 1, and the sentence says so",
        ordinary=True,
    ),
    Row(
        26,
        "A line that loses 5 %, lets a fifth be overtaken, repeats 30 %, has 100 ms of jitter, or 1 Mbit/s",
        "direct, and every byte is right",
    ),
    Row(
        27,
        "A line that loses a fifth in each direction",
        "direct, later than elsewhere; at most one command of sixty has to be repeated",
    ),
    Row(
        28,
        "A line of 1 Mbit/s before which 1 MB can queue, full with a transfer",
        "a terminal beside it stays usable",
    ),
    Row(
        29,
        "A captive portal answers in the homeserver's place while `mxrtc connect` calls anew",
        "`connect` says so and goes on after the login",
        ordinary=True,
    ),
    Row(
        30,
        "The resolver of names is away for a while",
        "streams go on, and `mxrtc connect` calls anew when it is back; a new command ends with 1 and says it",
    ),
    Row(
        31,
        "A TURN server that sends its users to another one (300 Try Alternate)",
        "relayed by the other one; where they send their users to each other nothing: exit code 5, and the sentence "
        "names the server and `error 300`",
    ),
)
