"""What is kept for completion: bounded, of one login, and nothing where the file is not as we left it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mxrtc_bridge.client.known_services import (
    FILE,
    MAX_LISTINGS,
    MAX_NAME_CHARS,
    MAX_NAMES,
    MAX_SERVICES,
    MAX_WRITTEN,
    KnownServices,
    load_known,
    save_known,
)
from mxrtc_bridge.client.state import MAX_FILE_BYTES, Login, StateFolder
from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream.messages import ServiceKind

ALICE = UserId("@alice:example.org")
BUILD, NAS = UserId("@rtc_build:example.org"), UserId("@rtc_nas:example.org")
SSH, SHARE = ServiceName("ssh"), ServiceName("share")


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "state")


def test_what_was_seen_comes_back(state: StateFolder) -> None:
    known = KnownServices()
    known.see_services({BUILD: [SSH, SHARE], NAS: [SSH]}, {(BUILD, SHARE): ServiceKind.SHARE}, all_peers=True)
    known.see_files((BUILD, SHARE, "docs"), ["a.pdf", "old/"])
    save_known(state, ALICE, known)
    back = load_known(state, ALICE)
    assert back == known
    assert back.kinds == {(BUILD, SSH): None, (BUILD, SHARE): ServiceKind.SHARE, (NAS, SSH): None}
    assert back.peers == (BUILD, NAS)


def test_nothing_of_another_login_or_after_logging_out(state: StateFolder) -> None:
    known = KnownServices({(BUILD, SSH): None})
    save_known(state, ALICE, known)
    assert load_known(state, UserId("@bob:example.org")) == KnownServices()
    state.save_login(Login("https://example.org", ALICE, "DEVICE", "token"))
    state.forget_login()
    assert load_known(state, ALICE) == KnownServices()


def test_the_answer_of_one_peer_replaces_what_was_known_of_it_alone() -> None:
    known = KnownServices({(BUILD, SSH): None, (NAS, SSH): None})
    known.see_services({BUILD: [SHARE]}, {}, all_peers=False)
    assert set(known.kinds) == {(NAS, SSH), (BUILD, SHARE)}
    known.see_services({BUILD: [SSH]}, {}, all_peers=True)
    assert set(known.kinds) == {(BUILD, SSH)}


def test_it_is_bounded_whatever_is_seen_and_fits_into_the_file(state: StateFolder) -> None:
    known = KnownServices()
    peers = {UserId(f"@rtc_{'x' * 200}{number}:example.org"): [SSH] for number in range(MAX_SERVICES + 1)}
    for peer, names in peers.items():
        known.see_services({peer: names}, {}, all_peers=False)
    assert next(iter(known.kinds)) == (list(peers)[1], SSH)
    for number in range(MAX_LISTINGS + 1):
        known.see_files((BUILD, SHARE, f"d{number}"), [f"{name}" for name in range(MAX_NAMES // 2)])
    assert [path for _, _, path in known.listings] == [f"d{number}" for number in range(1, MAX_LISTINGS + 1)]
    known.see_files((BUILD, SHARE, ""), [f"{name}" for name in range(MAX_NAMES + 1)])
    assert len(known.listings[BUILD, SHARE, ""]) == MAX_NAMES
    known.see_files((BUILD, SHARE, ""), ["y" * (MAX_NAME_CHARS + 1), "", "y" * MAX_NAME_CHARS])
    assert known.listings[BUILD, SHARE, ""] == ("y" * MAX_NAME_CHARS,)


def test_listings_that_are_too_long_together_are_forgotten_the_oldest_first() -> None:
    known = KnownServices()
    names = [f"{number:0{MAX_NAME_CHARS}}" for number in range(MAX_NAMES)]
    assert len(names) * MAX_NAME_CHARS > MAX_WRITTEN > len(names) * MAX_NAME_CHARS / 2
    known.see_files((BUILD, SHARE, "large"), names)
    assert known.listings == {}
    known.see_files((BUILD, SHARE, "first"), names[: MAX_NAMES // 3])
    known.see_files((BUILD, SHARE, "second"), names[: MAX_NAMES // 3])
    known.see_files((BUILD, SHARE, "third"), ["a"])
    assert [path for _, _, path in known.listings] == ["second", "third"]


def test_the_largest_that_is_kept_is_read_again(state: StateFolder) -> None:
    known = KnownServices()
    service = ServiceName("s" * 63)
    for number in range(MAX_SERVICES):
        known.kinds[UserId(f"@rtc_{number:0230}:example.org"), service] = ServiceKind.STREAM
    for number in range(MAX_LISTINGS):
        known.see_files((BUILD, SHARE, f"{number}"), ["\N{GRINNING FACE}" * 40 for _ in range(8)])
    assert len(known.listings) == MAX_LISTINGS
    save_known(state, ALICE, known)
    assert (state.path / FILE).stat().st_size < MAX_FILE_BYTES
    assert load_known(state, ALICE) == known


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(services=JSON, files=JSON)
def test_anything_in_the_file_is_known_or_is_not(
    tmp_path_factory: pytest.TempPathFactory, services: object, files: object
) -> None:
    state = StateFolder(tmp_path_factory.mktemp("state") / "state")
    state.save_cache(FILE, {"user": ALICE, "services": services, "files": files})
    assert isinstance(load_known(state, ALICE), KnownServices)


@pytest.mark.parametrize(
    "data",
    [
        {"services": {"no peer": {"ssh": None}}}, {"services": {BUILD: {"NO": None}}}, {"services": 5, "files": [[1]]},
        {"files": [[BUILD, "share", "", [5]]]}, {"files": [[5, "share", "", []]]},
    ],
)  # fmt: skip
def test_what_is_wrong_is_taken_for_nothing(state: StateFolder, data: dict[str, object]) -> None:
    state.save_cache(FILE, {"user": ALICE, **data})
    assert load_known(state, ALICE) == KnownServices()
    (state.path / FILE).write_text(json.dumps(data)[:-1])
    assert load_known(state, ALICE) == KnownServices()
