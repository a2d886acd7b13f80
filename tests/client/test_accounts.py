"""Several accounts: folders of their own, and the one of before is the first of them as it lies there."""

from __future__ import annotations

import os
import stat
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from mxrtc_bridge.client import accounts as accounts_module
from mxrtc_bridge.client.accounts import FIRST, Accounts
from mxrtc_bridge.client.calls.device import device_key, is_verified
from mxrtc_bridge.client.exit_codes import ClientError, Exit
from mxrtc_bridge.client.state import Login, StateFolder
from mxrtc_bridge.core.ids import RoomId, UserId
from mxrtc_bridge.matrix.crypto.account import OwnAccount
from mxrtc_bridge.matrix.crypto.keys import pickle_key
from mxrtc_bridge.storage.crypto import CryptoStore
from mxrtc_bridge.storage.database import Database
from tests.other_user import public_directory

ALICE = UserId("@alice:example.test")
BUILD = UserId("@rtc_build:example.test")
LOGIN = Login("https://example.test", ALICE, "DEVICE", "secret-token")
OLD = Path(__file__).parent / "data" / "state_before_accounts.tar.xz"
"""Made by a version that had one account: a login, a call by a room, one by a device, and an identity accepted."""
DEVICE_KEY = "bn4Qu3wGmMPg7X0a/weDer77Pl6zEYjFzFJ8Xy4/wdI"
"""As the homeserver had it from that version."""
OLD_ROOM = RoomId("!w8VtO9Y6OmSC7kG7_K0efp21XtWuTYld2DHaRtEEt4g")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def accounts(root: Path) -> Accounts:
    return Accounts(StateFolder(root))


def log_in(accounts: Accounts, name: str | None, user: str = ALICE) -> None:
    accounts.folder(name).save_login(replace(LOGIN, user_id=UserId(user)))


def names(accounts: Accounts) -> list[str]:
    return [each.name for each in accounts.found()]


async def test_state_folder_of_before_is_the_first_account_with_device_identities_and_rooms(
    accounts: Accounts, root: Path
) -> None:
    root.mkdir(mode=0o700)
    with tarfile.open(OLD) as archive:
        archive.extractall(root, filter="data")
    before = {path.name: path.read_bytes() for path in root.iterdir()}
    log_in(accounts, "work", "@me:example.org")
    state = accounts.folder()
    login = state.load_login()
    assert (names(accounts), state.path) == ([FIRST, "work"], root)
    assert (login.user_id, login.device_id) == (ALICE, "EMTSCHSGTQ")
    assert state.load_room(ALICE, BUILD) == OLD_ROOM
    assert await is_verified(state, login, BUILD)
    with state.opened() as folder:
        key = pickle_key(device_key(folder, root / "crypto.key"))
    # Read, and nothing of it changed: who goes back to the version of before finds all of it.
    assert {name: (root / name).read_bytes() for name in before} == before
    async with await Database.open(f"sqlite:///{root / 'crypto.db'}") as database:
        record = await CryptoStore(database).of(ALICE).account()
    assert record is not None
    assert OwnAccount(ALICE, record, key).ed25519 == DEVICE_KEY


def test_each_account_has_a_folder_of_its_own_that_is_private(accounts: Accounts, root: Path) -> None:
    before = os.umask(0o022)
    try:
        log_in(accounts, "work", "@me:example.org")
    finally:
        os.umask(before)
    work = accounts.folder("work")
    work.save_room(ALICE, BUILD, OLD_ROOM)
    assert work.path == root / "accounts" / "work"
    assert accounts.folder(FIRST).load_room(ALICE, BUILD) is None
    for folder in (root, root / "accounts", work.path):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_without_a_choice_the_first_one_that_is_logged_in_is_used(accounts: Accounts) -> None:
    assert (names(accounts), accounts.default_name()) == ([], FIRST)
    log_in(accounts, "work")
    log_in(accounts, "home")
    assert (names(accounts), accounts.default_name()) == (["home", "work"], "home")
    log_in(accounts, None if accounts.default_name() == FIRST else FIRST)
    assert (names(accounts), accounts.default_name()) == ([FIRST, "home", "work"], FIRST)


def test_what_was_chosen_is_used_as_long_as_somebody_is_logged_in_there(accounts: Accounts) -> None:
    log_in(accounts, FIRST)
    log_in(accounts, "work", "@me:example.org")
    assert accounts.choose("@me:example.org") == "work"
    assert accounts.folder().load_login().user_id == "@me:example.org"
    accounts.folder("work").forget_login()
    assert accounts.default_name() == FIRST
    with pytest.raises(ClientError, match="nobody is logged in to the account 'work'") as caught:
        accounts.choose("work")
    assert caught.value.code is Exit.USAGE


def test_choice_that_is_made_meanwhile_does_not_move_a_command_that_runs(accounts: Accounts) -> None:
    log_in(accounts, FIRST)
    log_in(accounts, "work", "@me:example.org")
    state = accounts.folder()
    assert state.load_login().user_id == ALICE
    accounts.choose("work")
    assert state.load_login().user_id == ALICE


def test_account_is_found_by_its_user(accounts: Accounts) -> None:
    log_in(accounts, FIRST)
    log_in(accounts, "work", "@me:example.org")
    assert accounts.folder("@me:example.org").path == accounts.folder("work").path
    with pytest.raises(ClientError, match="' is not logged in here"):
        accounts.folder("@bob:example.org").load_login()
    log_in(accounts, "again")
    with pytest.raises(ClientError, match=f"'{ALICE}' is logged in to default, again"):
        accounts.folder(ALICE).load_login()


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "/etc", "A", "a b", "-x", "x-", ".x", "x.", "a" * 33, "ä", "a\0", "a\n"]
)
def test_name_that_could_lead_elsewhere_is_refused(accounts: Accounts, name: str) -> None:
    with pytest.raises(ClientError, match="cannot be the name of an account") as caught:
        accounts.folder(name).save_login(LOGIN)
    assert caught.value.code is Exit.USAGE


@pytest.mark.parametrize("name", ["a", "7", "work", "me@example.org".replace("@", "_"), "a" * 32, "x.y-z_0"])
def test_name_of_an_account_is_one_of_a_folder(accounts: Accounts, name: str) -> None:
    log_in(accounts, name)
    assert names(accounts) == [name]


def test_folders_that_are_no_accounts_are_not_listed(accounts: Accounts, root: Path) -> None:
    log_in(accounts, "work")
    for name in ("Work", ".x", "empty", FIRST):
        (root / "accounts" / name).mkdir()
    (root / "accounts" / FIRST / "login.json").touch()
    assert names(accounts) == ["work"]


def test_as_many_accounts_are_listed_as_anybody_has(accounts: Accounts, root: Path) -> None:
    log_in(accounts, "a")
    for number in range(accounts_module.MAX_ACCOUNTS + 5):
        (root / "accounts" / f"b{number:03}").mkdir()
        (root / "accounts" / f"b{number:03}" / "login.json").touch()
    assert len(names(accounts)) == accounts_module.MAX_ACCOUNTS


def test_account_that_is_logged_out_leaves_nothing(accounts: Accounts, root: Path) -> None:
    log_in(accounts, "work")
    work = accounts.folder("work")
    work.save_room(ALICE, BUILD, OLD_ROOM)
    work.run_folder()
    work.forget_login()
    assert list((root / "accounts").iterdir()) == []


def test_account_with_a_command_that_runs_keeps_its_folder(accounts: Accounts) -> None:
    log_in(accounts, "work")
    work = accounts.folder("work")
    (work.run_folder() / "7.sock").touch()
    work.forget_login()
    assert [path.name for path in work.path.iterdir()] == ["run"]


def test_damaged_choice_is_said_and_named_accounts_go_on(accounts: Accounts, root: Path) -> None:
    log_in(accounts, "work")
    (root / "accounts.json").write_text("{")
    with pytest.raises(ClientError, match=r"accounts\.json is damaged"):
        accounts.folder().load_login()
    assert accounts.folder("work").load_login() == LOGIN


@pytest.mark.parametrize("choice", ['{"default": 1}', '{"default": "../x"}', "{}"])
def test_choice_of_something_else_is_none(accounts: Accounts, root: Path, choice: str) -> None:
    log_in(accounts, "work")
    (root / "accounts.json").write_text(choice)
    assert accounts.default_name() == "work"


def test_accounts_in_a_folder_of_others_are_not_used() -> None:
    with public_directory(sticky=True) as public:
        accounts = Accounts(StateFolder(public / "state"))
        log_in(accounts, "work")
        (public / "state" / "accounts").chmod(0o777)
        with pytest.raises(ClientError, match="others can rename"):
            accounts.folder("work").load_login()
