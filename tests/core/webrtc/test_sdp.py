"""The filter for descriptions: real ones pass, everything else is a DescriptionError with the right code."""

from __future__ import annotations

import time
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.core.errors import DescriptionError, StateError
from mxrtc_bridge.core.webrtc.address_policy import AddressPolicy
from mxrtc_bridge.core.webrtc.candidate import Candidate
from mxrtc_bridge.core.webrtc.sdp import (
    Description,
    DescriptionType,
    Fingerprint,
    Setup,
    format_description,
    parse_description,
)
from tests.core.webrtc.descriptions import (
    CHROMIUM_OFFER,
    FIREFOX_ANSWER,
    HEX,
    HEX_384,
    HEX_512,
    LEGACY_OFFER,
    LIBDATACHANNEL_OFFER,
    OFFERS,
    PION_OFFER,
    sdp,
)
from tests.core.webrtc.test_candidate import CANDIDATES, ICE_CHARS

OFFER, ANSWER = DescriptionType.OFFER, DescriptionType.ANSWER
POLICY = AddressPolicy()
SHA_256 = Fingerprint("sha-256", HEX)


def parse(text: str, kind: DescriptionType = OFFER) -> Description:
    return parse_description(text, kind, POLICY)


def refusal(text: str, kind: DescriptionType = OFFER) -> str:
    with pytest.raises(DescriptionError) as caught:
        parse(text, kind)
    return caught.value.code


def changed(old: str, new: str, text: str = CHROMIUM_OFFER) -> str:
    assert old in text
    return text.replace(old, new)


def without(prefix: str, text: str = CHROMIUM_OFFER) -> str:
    lines = text.split("\r\n")
    kept = [line for line in lines if not line.startswith(prefix)]
    assert len(kept) < len(lines)
    return "\r\n".join(kept)


def with_line(line: str, text: str = CHROMIUM_OFFER) -> str:
    return text + line + "\r\n"


def test_offer_of_chromium_becomes_a_description_without_its_tcp_and_mdns_candidates() -> None:
    srflx = Candidate("842163049", 1, 1677729535, ip_address("203.0.113.7"), 46154, "srflx", "0.0.0.0", 0)
    assert parse(CHROMIUM_OFFER) == Description(
        mid="0",
        ufrag="EsAw",
        password="bP+XJMM09aR8AiX1jdukzR6Y",
        ice_lite=False,
        fingerprints=(SHA_256,),
        setup=Setup.ACTPASS,
        sctp_port=5000,
        max_message_size=262144,
        candidates=(srflx,),
        end_of_candidates=False,
        dropped_candidates=2,
    )


def test_answer_of_firefox_takes_its_fingerprint_from_the_session_part() -> None:
    description = parse(FIREFOX_ANSWER, ANSWER)
    assert description.fingerprints == (SHA_256,)
    assert description.setup is Setup.ACTIVE
    assert description.max_message_size == 1073741823
    assert [str(each.address) for each in description.candidates] == ["198.51.100.9", "203.0.113.20"]
    assert description.end_of_candidates
    assert description.dropped_candidates == 1


def test_offer_of_libdatachannel_takes_ice_and_setup_from_the_session_part() -> None:
    description = parse(LIBDATACHANNEL_OFFER)
    assert (description.ufrag, description.setup) == ("hDpR", Setup.ACTPASS)


def test_offer_of_pion_loses_its_second_component_and_has_the_default_message_size() -> None:
    description = parse(PION_OFFER)
    assert (len(description.candidates), description.dropped_candidates) == (1, 1)
    assert description.max_message_size == 65536


def test_offer_of_aiortc_keeps_its_three_fingerprints() -> None:
    expected = (SHA_256, Fingerprint("sha-384", HEX_384), Fingerprint("sha-512", HEX_512))
    assert parse(OFFERS["aiortc"]).fingerprints == expected


def test_legacy_offer_names_its_sctp_port_in_the_media_line() -> None:
    description = parse(LEGACY_OFFER)
    assert (description.sctp_port, description.mid, description.fingerprints) == (5001, "data", (SHA_256,))


@pytest.mark.parametrize("name", OFFERS)
def test_offers_pass_with_bare_line_feeds_and_without_the_last_line_end(name: str) -> None:
    assert parse(OFFERS[name].replace("\r\n", "\n")) == parse(OFFERS[name])
    assert parse(OFFERS[name].rstrip()) == parse(OFFERS[name])


def test_attribute_of_the_section_counts_before_that_of_the_session() -> None:
    text = changed("t=0 0\r\n", f"t=0 0\r\na=ice-ufrag:session\r\na=fingerprint:sha-512 {HEX_512}\r\na=ice-lite\r\n")
    description = parse(text)
    assert (description.ufrag, description.fingerprints, description.ice_lite) == ("EsAw", (SHA_256,), True)


def test_attributes_in_the_wrong_part_mean_nothing() -> None:
    text = changed("t=0 0\r\n", "t=0 0\r\na=candidate:junk\r\na=sctp-port:9\r\na=mid:other\r\n")
    text = with_line("a=ice-lite", text)
    assert parse(text) == parse(CHROMIUM_OFFER)


def test_representation_of_a_description_does_not_show_the_password() -> None:
    assert "bP+XJMM09aR8AiX1jdukzR6Y" not in repr(parse(CHROMIUM_OFFER))


AUDIO = "m=audio 9 UDP/TLS/RTP/SAVPF 111"
DATA = "m=application 9 UDP/DTLS/SCTP webrtc-datachannel"
M_LINE = "m=application 46154 UDP/DTLS/SCTP webrtc-datachannel"
TWO_WORDS = "a=fingerprint:sha-256 "


@pytest.mark.parametrize(
    ("code", "text"),
    [
        ("bad_line", ""),
        ("bad_line", "\r\n\r\n"),
        ("bad_line", "v=1\r\n"),
        ("bad_line", " " + CHROMIUM_OFFER),
        ("bad_line", changed("s=-", "s")),
        ("bad_line", changed("s=-", "S=-")),
        ("bad_line", changed("s=-", "s=-\x00")),
        ("bad_line", changed("s=-", "s=a\rb")),
        ("no_data_section", "v=0"),
        ("no_data_section", without("m=")),
        ("media_refused", with_line(AUDIO)),
        ("media_refused", changed(M_LINE, "m=video 9 UDP/TLS/RTP/SAVPF 96")),
        ("media_refused", changed(M_LINE, "m=audio 0 UDP/TLS/RTP/SAVPF 0\r\n" + M_LINE)),
        ("media_refused", changed(M_LINE, "m=image 9 udptl t38")),
        ("media_refused", changed(M_LINE, "m=")),
        ("many_sections", with_line(DATA)),
        ("section_rejected", changed("m=application 46154", "m=application 0")),
        ("bad_section", changed("m=application 46154", "m=application 65536")),
        ("bad_section", changed("m=application 46154", "m=application -1")),
        ("bad_section", changed("m=application 46154", "m=application 9/2")),
        ("bad_section", changed(M_LINE, "m=application 9 UDP/TLS/RTP/SAVPF 111")),
        ("bad_section", changed(M_LINE, "m=application 9 UDP/BFCP *")),
        ("bad_section", changed(M_LINE, M_LINE + " extra")),
        ("bad_section", changed(M_LINE, "m=application 9 UDP/DTLS/SCTP 5000")),
        ("bad_section", changed(M_LINE, "m=application 9 DTLS/SCTP webrtc-datachannel")),
        ("bad_section", without("a=sctpmap", LEGACY_OFFER)),
        ("bad_section", changed("webrtc-datachannel", "t38", LEGACY_OFFER)),
        ("missing_attribute", without("a=ice-ufrag")),
        ("missing_attribute", without("a=ice-pwd")),
        ("bad_attribute", changed("a=ice-ufrag:EsAw", "a=ice-ufrag:abc")),
        ("bad_attribute", changed("a=ice-ufrag:EsAw", "a=ice-ufrag:" + "a" * 257)),
        ("bad_attribute", changed("a=ice-ufrag:EsAw", "a=ice-ufrag:EsA\u00e9")),
        ("bad_attribute", changed("a=ice-ufrag:EsAw", "a=ice-ufrag:Es:w")),
        ("bad_attribute", changed("bP+XJMM09aR8AiX1jdukzR6Y", "a" * 21)),
        ("bad_attribute", changed("bP+XJMM09aR8AiX1jdukzR6Y", "a" * 257)),
        ("bad_attribute", changed("a=setup:actpass", "a=setup:holdconn")),
        ("bad_attribute", changed("a=mid:0", "a=mid:")),
        ("bad_attribute", changed("a=mid:0", "a=mid:" + "m" * 65)),
        ("bad_attribute", changed("a=mid:0", "a=mid:a b")),
        ("bad_attribute", changed("a=sctp-port:5000", "a=sctp-port:0")),
        ("bad_attribute", changed("a=sctp-port:5000", "a=sctp-port:65536")),
        ("bad_attribute", changed("a=sctp-port:5000", "a=sctp-port:99999999999")),
        ("bad_attribute", changed("a=sctp-port:5000", "a=sctp-port:\u0665\u0660\u0660\u0660")),
        ("small_messages", changed("a=max-message-size:262144", "a=max-message-size:1")),
        ("small_messages", changed("a=max-message-size:262144", "a=max-message-size:16383")),
        ("bad_attribute", changed("a=max-message-size:262144", "a=max-message-size:-1")),
        ("bad_attribute", changed("a=max-message-size:262144", "a=max-message-size:" + "9" * 21)),
        ("bad_attribute", changed("5001", "0", LEGACY_OFFER)),
        ("conflicting_attribute", with_line("a=ice-ufrag:other")),
        ("conflicting_attribute", with_line("a=setup:active")),
        ("no_fingerprint", without("a=fingerprint")),
        ("no_fingerprint", changed("sha-256", "sha-999")),
        ("weak_fingerprint", changed(TWO_WORDS + HEX, "a=fingerprint:sha-1 " + HEX[:59])),
        ("bad_fingerprint", changed(TWO_WORDS + HEX, "a=fingerprint:sha-256")),
        ("bad_fingerprint", changed(HEX, HEX[:-3])),
        ("bad_fingerprint", changed(HEX, HEX + ":00")),
        ("bad_fingerprint", changed(HEX, HEX.replace(":", "-"))),
        ("bad_fingerprint", changed(HEX, "G" + HEX[1:])),
        ("bad_fingerprint", changed("sha-256", "sha-512")),
        ("conflicting_fingerprints", with_line(TWO_WORDS + HEX.replace("1F", "20"))),
    ],
)
def test_description_is_refused_with_the_code_of_its_fault(code: str, text: str) -> None:
    assert refusal(text) == code


def mixed_line_ends() -> str:
    ends = iter(["\n", "\r", "\r\n", "\r\r\n", " \t\r\n", "\n\n"] * 9)
    return "".join(line + next(ends) for line in CHROMIUM_OFFER.split("\r\n"))


def in_another_order() -> str:
    lines = CHROMIUM_OFFER.strip().split("\r\n")
    at = lines.index(M_LINE) + 1
    return sdp(*lines[:at], *sorted(lines[at:], key=lambda line: (not line.startswith("a=candidate"), line[::-1])))


HARMLESS = {
    "line feeds": changed("\r\n", "\n"),
    "carriage returns": changed("\r\n", "\r"),
    "doubled carriage returns": changed("\r\n", "\r\r\n"),
    "mixed line ends": mixed_line_ends(),
    "no last line end": CHROMIUM_OFFER.rstrip(),
    "many last line ends": CHROMIUM_OFFER + "\r\n" * 40,
    "blank line first": "\r\n" + CHROMIUM_OFFER,
    "blank line in the session part": changed("s=-\r\n", "s=-\r\n\r\n"),
    "blank line before the section": changed(M_LINE, "\r\n" + M_LINE),
    "blank line of spaces": changed("a=mid:0\r\n", "a=mid:0\r\n \t \r\n"),
    "space after every line": changed("\r\n", " \r\n"),
    "tab after every line": changed("\r\n", "\t\r\n"),
    "space after a colon": changed("a=mid:", "a=mid: ", changed("a=ice-ufrag:", "a=ice-ufrag: ")),
    "spaces in the media line": changed(M_LINE, M_LINE.replace(" ", "  ")),
    "small letters in the media line": changed("UDP/DTLS/SCTP", "udp/dtls/sctp"),
    "TCP in the media line": changed("UDP/DTLS/SCTP", "TCP/DTLS/SCTP"),
    "capitals in the role": changed("a=setup:actpass", "a=setup:ACTPASS"),
    "no origin": without("o="),
    "no name": without("s="),
    "no time": without("t="),
    "no connection": without("c="),
    "no group": without("a=group"),
    "no mid": without("a=mid"),
    "no SCTP port": without("a=sctp-port"),
    "no ICE options": without("a=extmap"),
    "two versions": changed("v=0\r\n", "v=0\r\nv=0\r\n"),
    "two names": changed("s=-\r\n", "s=-\r\ns=other\r\n"),
    "two connections": changed("c=IN IP4 203.0.113.7\r\n", "c=IN IP4 203.0.113.7\r\nc=IN IP6 ::1\r\n"),
    "two groups": with_line("a=group:BUNDLE 0"),
    "two roles that agree": with_line("a=setup:actpass"),
    "two mids that agree": with_line("a=mid:0"),
    "two passwords that agree": with_line("a=ice-pwd:bP+XJMM09aR8AiX1jdukzR6Y"),
    "twelve fingerprints that agree": CHROMIUM_OFFER + f"a=fingerprint:sha-256 {HEX}\r\n" * 12,
    "hex in small letters": changed(HEX, HEX.lower()),
    "other roles of the session": changed("t=0 0\r\n", "t=0 0\r\na=setup:active\r\n"),
    "name in UTF-8": changed("s=-", "s=caf\u00e9 \U0001f600"),
    "control characters in a name": changed("s=-", "s=\x1b[2J"),
    "every other type of line": changed("t=0 0\r\n", sdp("i=a", "u=b", "e=c", "p=d", "b=AS:3", "t=0 0", "r=1", "z=2")),
    "lines that nobody knows": changed("t=0 0\r\n", "t=0 0\r\nx=what\r\ny=\r\n"),
    "attributes that nobody knows": with_line("a=what\r\na=x-what:ever\r\na=:\r\na=\r\na=tls-id:" + "t" * 255),
    "attributes of other media": with_line("a=rtpmap:111 opus/48000/2\r\na=rtcp-mux\r\na=recvonly\r\na=bundle-only"),
    "a long line": with_line("a=x:" + "y" * 9000),
    "very many lines": CHROMIUM_OFFER + "a=x\r\n" * 2500,
    "another order": in_another_order(),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_harmless_variant_means_the_same(name: str) -> None:
    assert HARMLESS[name] != CHROMIUM_OFFER
    assert parse(HARMLESS[name]) == parse(CHROMIUM_OFFER)


def test_role_that_is_not_said_is_the_active_one() -> None:
    assert parse(without("a=setup")).setup is Setup.ACTIVE
    assert parse(without("a=setup", FIREFOX_ANSWER), ANSWER).setup is Setup.ACTIVE


def test_made_up_spaces_cost_no_time() -> None:
    """A pattern that begins anew at every space would take seconds."""
    began = time.process_time()
    assert parse(CHROMIUM_OFFER.replace("s=-", "s=" + " " * 14_000)) == parse(CHROMIUM_OFFER)
    assert time.process_time() - began < 0.2


def test_answer_must_choose_its_dtls_role() -> None:
    assert refusal(CHROMIUM_OFFER, ANSWER) == "bad_attribute"
    assert parse(changed("actpass", "passive"), ANSWER).setup is Setup.PASSIVE


def test_weak_and_unknown_fingerprints_are_ignored_beside_a_good_one() -> None:
    text = with_line("a=fingerprint:sha-1 " + HEX[:59], with_line("a=fingerprint:blake9 junk"))
    assert parse(text).fingerprints == (SHA_256,)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0", 2**30),
        ("16384", 16384),
        ("1073741823", 2**30 - 1),
        ("1073741824", 2**30),
        ("1073741825", 2**30),
        ("9" * 20, 2**30),
    ],
)
def test_max_message_size_is_bounded(written: str, meant: int) -> None:
    assert parse(changed("max-message-size:262144", f"max-message-size:{written}")).max_message_size == meant


def test_lengths_at_their_limits_are_accepted() -> None:
    text = changed("a=ice-ufrag:EsAw", "a=ice-ufrag:" + "u" * 256)
    text = changed("bP+XJMM09aR8AiX1jdukzR6Y", "p" * 256, text)
    text = changed("a=mid:0", "a=mid:" + "m" * 64, text)
    description = parse(text)
    assert [len(description.ufrag), len(description.password), len(description.mid)] == [256, 256, 64]


def test_description_may_have_16_kib_but_not_a_byte_more() -> None:
    filler = "a=x:" + "y" * 1018 + "\r\n"
    missing = 16384 - len(CHROMIUM_OFFER)
    text = CHROMIUM_OFFER + filler * (missing // len(filler))
    text += "a=x:" + "y" * (16384 - len(text) - 6) + "\r\n"
    assert len(text) == 16384
    assert parse(text) == parse(CHROMIUM_OFFER)
    assert refusal(text.replace("s=-", "s=--")) == "too_large"
    assert refusal(text.replace("s=-", "s=\u00e9")) == "too_large", "two bytes in UTF-8"


@pytest.mark.parametrize("kind", DescriptionType)
@pytest.mark.parametrize(
    "odd",
    [
        "1 1 udp 1 203.0.113.7",
        "1 1 udp 1 fe80::1%eth0 5000 typ host",
        "1 1 udp 2147483648 203.0.113.8 5000 typ host",
        "1 1 udp 1 203.0.113.8 70000 typ host",
        "1 1 udp 1 [2001:db8::1] 5000 typ host",
        "1 1 udp 1 203.0.113.8 5000 typ host generation",
        f"{'a' * 33} 1 udp 1 203.0.113.8 5000 typ host",
        "1 1 udp 1 203.0.113.8 5000 typ host x " + "y" * 600,
        "1 1 udp 1 203.0.113.8 5000 typ host x \u00e9",
        "",
    ],
)
def test_odd_candidate_of_a_description_costs_itself_only(kind: DescriptionType, odd: str) -> None:
    text = changed("a=setup:actpass", "a=setup:active")
    good, dropped = parse(text, kind).candidates, parse(text, kind).dropped_candidates
    for place in ("a=ice-ufrag", "a=candidate:842163049"):  # behind the good one, and before it
        description = parse(changed(place, f"a=candidate:{odd}\r\n{place}", text), kind)
        assert (description.candidates, description.dropped_candidates) == (good, dropped + 1)


def test_candidates_of_a_description_beyond_64_of_a_family_are_left_out() -> None:
    base = without("a=candidate")
    old = sdp(*(f"a=candidate:1 1 udp 1 203.0.113.{number} 50000 typ host" for number in range(65)))
    new = sdp(*(f"a=candidate:1 1 udp 1 2001:db8::{number:x} 50000 typ host" for number in range(1, 66)))
    description = parse(base + old + new)
    assert [each.address.version for each in description.candidates] == [4] * 64 + [6] * 64
    assert description.dropped_candidates == 2


def test_candidates_of_no_use_take_no_place_in_a_description() -> None:
    base = without("a=candidate")
    tcp = sdp(*(f"a=candidate:1 1 tcp 1 203.0.113.{number} 9 typ host tcptype active" for number in range(100)))
    private = sdp(*(f"a=candidate:1 1 udp 1 10.0.0.{number} 50000 typ host" for number in range(100)))
    good = "a=candidate:1 1 udp 1 203.0.113.7 50000 typ host\r\n"
    description = parse(base + tcp + private + good + good)
    assert (len(description.candidates), description.dropped_candidates) == (1, 201)


def test_policy_decides_about_candidates_of_a_description() -> None:
    text = with_line("a=candidate:1 1 udp 1 192.168.1.7 50000 typ host")
    assert parse(text).dropped_candidates == 3
    lenient = parse_description(text, OFFER, AddressPolicy(private=True))
    assert (lenient.dropped_candidates, len(lenient.candidates)) == (2, 2)


def test_error_texts_hold_neither_addresses_nor_passwords() -> None:
    texts = [changed("a=ice-ufrag:EsAw", "a=ice-ufrag:203.0.113.99"), changed("a=ice-pwd:", "a=ice-pwd:!")]
    for text in texts:
        with pytest.raises(DescriptionError) as caught:
            parse(text)
        assert "203.0.113" not in str(caught.value)
        assert "bP+XJ" not in str(caught.value)


def test_answer_is_not_written_without_a_dtls_role() -> None:
    with pytest.raises(StateError):
        format_description(parse(CHROMIUM_OFFER), ANSWER, session_id=1)


def test_written_description_is_complete_and_in_order() -> None:
    description = parse(OFFERS["libdatachannel"])
    assert format_description(description, OFFER, session_id=77) == sdp(
        "v=0",
        "o=- 77 1 IN IP4 127.0.0.1",
        "s=-",
        "t=0 0",
        "a=group:BUNDLE 0",
        "m=application 9 UDP/DTLS/SCTP webrtc-datachannel",
        "c=IN IP4 0.0.0.0",
        "a=mid:0",
        "a=sendrecv",
        "a=ice-ufrag:hDpR",
        "a=ice-pwd:xkQmVb2bvCzUpDL1mFqc2x",
        "a=ice-options:trickle",
        f"a=fingerprint:sha-256 {HEX}",
        "a=setup:actpass",
        "a=sctp-port:5000",
        "a=max-message-size:262144",
        "a=candidate:1 1 udp 2114977791 2001:db8::5 55555 typ host",
        "a=end-of-candidates",
    )


ALL_FINGERPRINTS = (SHA_256, Fingerprint("sha-384", HEX_384), Fingerprint("sha-512", HEX_512))
DESCRIPTIONS = st.builds(
    Description,
    mid=st.sampled_from(["0", "data", "a" * 64]),
    ufrag=st.text(ICE_CHARS, min_size=4, max_size=8) | st.just("u" * 256),
    password=st.text(ICE_CHARS, min_size=22, max_size=24) | st.just("p" * 256),
    ice_lite=st.booleans(),
    fingerprints=st.sampled_from([ALL_FINGERPRINTS[:1], ALL_FINGERPRINTS[1:], ALL_FINGERPRINTS]),
    setup=st.sampled_from([Setup.ACTIVE, Setup.PASSIVE]),
    sctp_port=st.sampled_from([1, 5000, 65535]),
    max_message_size=st.sampled_from([16384, 65536, 2**30 - 1, 2**30]),
    candidates=st.lists(CANDIDATES, max_size=64, unique=True).map(tuple),
    end_of_candidates=st.booleans(),
)


@given(DESCRIPTIONS, st.sampled_from(DescriptionType), st.integers(0, 2**63 - 1))
def test_description_survives_writing_and_reading(description: Description, kind: DescriptionType, number: int) -> None:
    text = format_description(description, kind, session_id=number)
    assert parse(text, kind) == description


def check_law(text: str) -> None:
    try:
        description = parse(text)
    except DescriptionError:
        return
    assert parse(format_description(description, OFFER, session_id=1)).ufrag == description.ufrag
    assert len(description.candidates) <= 128


@given(st.text(max_size=400))
def test_arbitrary_text_is_a_description_or_an_error(text: str) -> None:
    check_law(text)
    check_law("v=0\r\nm=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=" + text)


@given(st.data())
def test_a_mutated_description_is_a_description_or_an_error(data: st.DataObject) -> None:
    lines = data.draw(st.sampled_from([*OFFERS.values(), FIREFOX_ANSWER])).split("\r\n")
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(lines) - 1))
        line = lines[at]
        cut = data.draw(st.integers(0, len(line)))
        match data.draw(st.sampled_from(["delete", "repeat", "insert", "cut", "swap"])):
            case "delete" if len(lines) > 1:
                del lines[at]
            case "repeat":
                lines.insert(at, line)
            case "insert":
                lines[at] = line[:cut] + data.draw(st.text(max_size=8)) + line[cut:]
            case "cut":
                lines[at] = line[:cut]
            case _:
                lines[at], lines[0] = lines[0], lines[at]
    check_law("\r\n".join(lines))
