"""Which users are ours: registered, proven by an identity, or taken over on purpose; all others are left alone."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field

import pytest

from mxrtc_bridge.core.errors import ConfigError, HomeserverError, StorageError
from mxrtc_bridge.core.ids import UserId
from mxrtc_bridge.matrix.crypto.cross_signing import ShownIdentity
from mxrtc_bridge.matrix.virtual_users import (
    UNKNOWN_BEFORE,
    AdminConsent,
    UserRefusal,
    UsersRefusedError,
    VirtualUsers,
)

BOT, BUILD, LAB = (UserId(f"@{name}:example.org") for name in ("rtcbot", "rtc_build", "rtc_lab"))
ALL = [BOT, BUILD, LAB]
OURS, THEIRS = "our key", "their key"


class KilledError(BaseException):
    """The process has ended."""


@dataclass
class Outside:
    """The homeserver and the database; both outlive the bridge."""

    accounts: set[UserId] = field(default_factory=set)
    identities: dict[UserId, str] = field(default_factory=dict)
    rows: dict[UserId, str] = field(default_factory=dict)
    key: str | None = OURS
    key_place: str = "the key file"
    of_a_bridge: bool = False
    profiles_are_private: bool = False
    fails: Callable[[str, UserId], None] = lambda _step, _user: None
    told: list[tuple[UserId, str]] = field(default_factory=list)
    steps: list[tuple[str, UserId]] = field(default_factory=list)

    def _step(self, name: str, user: UserId) -> None:
        self.fails(name, user)
        self.steps.append((name, user))

    async def register_user(self, user: UserId) -> bool:
        self._step("register", user)
        is_new = user not in self.accounts
        self.accounts.add(user)
        self.fails("registered", user)
        return is_new

    async def displayname(self, user: UserId, as_user: UserId | None = None) -> str | None:
        assert as_user is None
        self._step("profile", user)
        if self.profiles_are_private:
            raise HomeserverError("private", 403, "M_FORBIDDEN")
        if user not in self.accounts:
            raise HomeserverError("not found", 404, "M_NOT_FOUND")
        return None

    async def all(self) -> Mapping[UserId, str]:
        return dict(self.rows)

    async def remember(self, user: UserId, how: str, _now_ms: int) -> None:
        self._step("remember", user)
        self.rows[user] = how

    async def forget(self, user: UserId) -> None:
        self._step("forget", user)
        self.rows.pop(user, None)

    async def load(self) -> None:
        pass

    def expected(self, user: UserId) -> str | None:
        del user
        return self.key

    async def shown(self, users: Collection[UserId]) -> Mapping[UserId, ShownIdentity]:
        found = {user: self.identities[user] for user in users if user in self.identities}
        return {user: ShownIdentity(master, self.of_a_bridge) for user, master in found.items()}

    async def start(self, *adopt: UserId, new_identity: bool = False, users: Collection[UserId] = ALL) -> VirtualUsers:
        """What a start does; identities are published afterwards, as devices do it."""
        made = self.made(*adopt, new_identity=new_identity)
        await made.load()
        await made.take(users)
        self.publish(made, users)
        return made

    def made(self, *adopt: UserId, new_identity: bool = False) -> VirtualUsers:
        return VirtualUsers(
            self,
            self,
            self,
            consent=AdminConsent(frozenset(adopt), new_identity),
            wall_ms=lambda: 0,
            taken_over=lambda user, what: self.told.append((user, what)),
        )

    def publish(self, made: VirtualUsers, users: Collection[UserId]) -> None:
        for user in filter(made.is_fit, users):
            if self.key is not None and self.identities.get(user, self.key) != self.key:
                assert made.may_replace_identity(user)
            if self.key is not None:
                self.identities[user] = self.key


async def test_users_are_registered_once_and_remembered() -> None:
    outside = Outside()
    first = await outside.start()
    assert outside.accounts == set(ALL)
    assert outside.rows == dict.fromkeys(ALL, "registered")
    assert all(map(first.is_fit, ALL))
    await outside.start()
    assert outside.rows == dict.fromkeys(ALL, "registered")
    assert outside.told == []


@pytest.mark.parametrize("key", [OURS, None])
@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("identity", [None, THEIRS])
async def test_an_account_that_nobody_of_us_has_made_is_left_alone(
    key: str | None, private: bool, identity: str | None
) -> None:
    outside = Outside({BUILD}, {BUILD: identity} if identity else {}, key=key, profiles_are_private=private)
    made = outside.made()
    await made.load()
    with pytest.raises(ConfigError, match=f"{BUILD} exists .*--adopt {BUILD}"):
        await made.take(ALL)
    assert [made.is_fit(user) for user in ALL] == [True, False, True]
    assert not made.is_ours(BUILD)
    assert BUILD not in outside.rows
    assert outside.identities.get(BUILD) == identity
    with pytest.raises(ConfigError):
        await outside.start()
    if not private:
        assert await made.refusals(ALL) == {BUILD: UserRefusal.STRANGER}


async def test_an_adopted_account_is_ours_from_then_on_and_its_identity_is_replaced_once() -> None:
    outside = Outside({BUILD}, {BUILD: THEIRS})
    await outside.start(BUILD)
    assert outside.identities[BUILD] == OURS
    assert [user for user, _ in outside.told] == [BUILD, BUILD]
    await outside.start()
    assert outside.rows[BUILD] == "adopted"
    outside.identities[BUILD] = THEIRS
    # The option that was left in a unit file does not stand for another question.
    with pytest.raises(ConfigError, match="--new-identity"):
        await outside.start(BUILD)


async def test_an_adoption_that_was_cut_short_goes_on_without_being_asked_for_again() -> None:
    outside = Outside({BUILD}, {BUILD: THEIRS})
    made = outside.made(BUILD)
    await made.load()
    await made.take(ALL)
    assert (await outside.start()).may_replace_identity(BUILD)
    assert outside.identities[BUILD] == OURS


async def test_another_identity_is_replaced_on_purpose_only() -> None:
    outside = Outside()
    await outside.start()
    outside.identities |= {BUILD: THEIRS, BOT: THEIRS}
    made = outside.made()
    await made.load()
    assert await made.refusals(ALL) == dict.fromkeys([BOT, BUILD], UserRefusal.OTHER_IDENTITY)
    with pytest.raises(ConfigError, match=f"{BUILD}, {BOT} shows another .*the key file .*--new-identity"):
        await made.take(ALL)
    # They are ours nevertheless, and those that show the right one show that the key is right.
    assert [(made.is_fit(user), made.shows_other(user)) for user in ALL] == [(True, True), (True, True), (True, False)]
    assert [made.nobody_serves(BOT, peers) for peers in ([BUILD, LAB], [BUILD])] == [False, True]
    assert not made.may_replace_identity(BUILD)
    assert outside.identities == {BOT: THEIRS, BUILD: THEIRS, LAB: OURS}
    await outside.start(new_identity=True)
    assert outside.identities == dict.fromkeys(ALL, OURS)
    await outside.start()


async def test_an_identity_that_is_right_again_is_found_by_the_next_look_and_no_failure_forgets_it_before() -> None:
    outside = Outside()
    await outside.start()
    outside.identities[BUILD] = THEIRS
    made = outside.made()
    await made.load()
    with pytest.raises(UsersRefusedError):
        await made.take(ALL)

    def fails(step: str, user: UserId) -> None:
        if (step, user) == ("register", BUILD):
            raise HomeserverError("no answer", 502)

    outside.fails = fails
    with pytest.raises(HomeserverError):
        await made.take(ALL)
    assert (made.is_fit(BUILD), made.shows_other(BUILD)) == (True, True), "its rooms would be left otherwise"
    outside.fails, outside.identities[BUILD] = lambda _step, _user: None, OURS
    await made.take(ALL)
    assert (made.is_fit(BUILD), made.shows_other(BUILD)) == (True, False)


@pytest.mark.parametrize("looks", ["take", "refusals"])
async def test_a_lost_key_is_another_identity_of_all_and_serves_nobody_also_where_a_peer_is_new(looks: str) -> None:
    outside = Outside()
    await outside.start(users=[BOT, BUILD])
    outside.key = "a new key"
    with pytest.raises(ConfigError, match="--new-identity"):
        await outside.start()
    made = outside.made()
    await made.load()
    if looks == "take":
        with pytest.raises(UsersRefusedError):
            await made.take(ALL)
    else:
        await made.refusals(ALL)
    assert made.nobody_serves(BOT, [BUILD, LAB]), "the new one would get an identity by the wrong key"


@pytest.mark.parametrize(("person", "nobody"), [(BOT, True), (BUILD, False)])
async def test_a_peer_with_a_persons_account_is_left_out_and_a_bot_with_one_ends_the_start(
    person: UserId, nobody: bool
) -> None:
    outside = Outside({person})
    made = outside.made()
    await made.load()
    with pytest.raises(UsersRefusedError):
        await made.take(ALL)
    assert made.nobody_serves(BOT, [BUILD, LAB]) is nobody
    assert made.why_unfit(person) == "exists, and was not made by this bridge"
    assert made.why_unfit(LAB) is None


async def test_users_of_a_bridge_that_knows_nothing_any_more_need_one_word_for_all() -> None:
    outside = Outside(of_a_bridge=True)
    await outside.start()
    outside.rows.clear()
    outside.key = "a new key"
    with pytest.raises(ConfigError, match="--new-identity"):
        await outside.start()
    made = outside.made()
    await made.load()
    assert await made.refusals(ALL) == dict.fromkeys(ALL, UserRefusal.OTHER_IDENTITY)
    assert outside.rows == {}
    await outside.start(new_identity=True)
    assert set(outside.identities.values()) == {"a new key"}
    await outside.start()
    assert outside.rows == dict.fromkeys(ALL, "adopted")


async def test_with_the_key_a_lost_database_is_no_reason_to_ask() -> None:
    outside = Outside()
    await outside.start()
    outside.rows.clear()
    await outside.start()
    assert outside.rows == dict.fromkeys(ALL, "identity")


async def test_without_encryption_a_lost_database_is_asked_about() -> None:
    outside = Outside(key=None)
    await outside.start()
    outside.rows.clear()
    with pytest.raises(ConfigError, match="--adopt"):
        await outside.start()
    await outside.start(*ALL)
    await outside.start()


async def test_what_a_version_before_has_registered_is_taken_once() -> None:
    outside = Outside(set(ALL), rows={UNKNOWN_BEFORE: "before"}, key=None)
    await outside.start()
    assert outside.rows == dict.fromkeys(ALL, "before")
    outside.accounts.add(UserId("@rtc_new:example.org"))
    with pytest.raises(ConfigError, match="@rtc_new"):
        await outside.start(users=[*ALL, UserId("@rtc_new:example.org")])


@pytest.mark.parametrize(
    ("step", "error", "is_kept"),
    [
        ("register", HomeserverError("no answer", 502), True),
        ("registered", HomeserverError("no answer", 0), True),
        ("register", HomeserverError("not in the namespace", 400, "M_EXCLUSIVE"), False),
    ],
)
async def test_what_a_version_before_has_registered_is_taken_once_also_when_one_fails(
    step: str, error: HomeserverError, is_kept: bool
) -> None:
    def fails(name: str, user: UserId) -> None:
        if (name, user) == (step, BUILD):
            raise error

    outside = Outside({BOT, BUILD}, rows={UNKNOWN_BEFORE: "before"}, key=None, fails=fails)
    with pytest.raises(HomeserverError):
        await outside.start(users=[BOT, BUILD])
    assert outside.rows == dict.fromkeys([BOT, BUILD] if is_kept else [BOT], "before")
    outside.fails = lambda _step, _user: None
    outside.accounts.add(LAB)  # which is a person
    made = outside.made()
    await made.load()
    with pytest.raises(ConfigError, match=f"{LAB} exists"):
        await made.take(ALL)
    assert [made.is_fit(user) for user in ALL] == [True, is_kept, False]


async def test_what_a_version_before_has_registered_is_taken_once_also_when_one_is_refused() -> None:
    outside = Outside({BOT, BUILD}, {BUILD: THEIRS}, rows={UNKNOWN_BEFORE: "before"})
    made = outside.made()
    await made.load()
    with pytest.raises(ConfigError, match=f"{BUILD} shows another"):
        await made.take([BOT, BUILD])
    outside.accounts.add(LAB)
    for each in (made, outside.made()):  # by a reload, and after a start
        await each.load()
        with pytest.raises(ConfigError, match=f"{LAB} exists.*\n{BUILD} shows another"):
            await each.take(ALL)
    assert UNKNOWN_BEFORE not in outside.rows


@pytest.mark.parametrize("step", ["remember", "forget"])
async def test_what_a_version_before_has_registered_is_not_lost_when_it_cannot_be_written_down(step: str) -> None:
    def fails(name: str, user: UserId) -> None:
        if name == step and user in (BUILD, UNKNOWN_BEFORE):
            raise StorageError("the disk is full")

    outside = Outside(set(ALL), rows={UNKNOWN_BEFORE: "before"}, key=None, fails=fails)
    with pytest.raises(StorageError):
        await outside.start()
    outside.fails = lambda _step, _user: None
    assert all(map((await outside.start()).is_fit, ALL))
    assert outside.rows == dict.fromkeys(ALL, "before")


async def test_an_adoption_without_encryption_does_not_wait_for_an_identity_to_replace() -> None:
    outside = Outside({BUILD}, key=None)
    made = await outside.start(BUILD)
    assert not made.may_replace_identity(BUILD)
    assert outside.rows[BUILD] == "adopted"
    outside.key = OURS  # Encryption is switched on, a year later.
    outside.identities[BUILD] = THEIRS
    with pytest.raises(ConfigError, match="--new-identity"):
        await outside.start()


async def test_an_adoption_of_a_version_before_that_went_without_encryption_ends_at_the_next_start() -> None:
    outside = Outside({BUILD}, rows={BUILD: "adopting"}, key=None)
    await outside.start()
    assert outside.rows[BUILD] == "adopted"


async def test_a_peer_that_comes_later_takes_nothing_away_from_the_others() -> None:
    outside = Outside({LAB})
    made = await outside.start(users=[BOT, BUILD])
    outside.identities[BUILD] = THEIRS  # which nobody has asked about while it is in use
    with pytest.raises(ConfigError, match=f"{LAB} exists"):
        await made.take(ALL)
    assert [made.is_fit(user) for user in ALL] == [True, True, False]
    with pytest.raises(ConfigError):
        await made.take(ALL)
    outside.accounts.discard(LAB)
    await made.take(ALL)
    assert made.is_fit(LAB)


async def test_a_failure_of_one_is_raised_when_the_others_are_done() -> None:
    def fails(step: str, user: UserId) -> None:
        if (step, user) == ("register", BUILD):
            raise HomeserverError("could not register: M_EXCLUSIVE", 400, "M_EXCLUSIVE")
        if (step, user) == ("remember", LAB):
            raise StorageError("the disk is full")

    outside = Outside(fails=fails)
    made = outside.made()
    await made.load()
    with pytest.raises((HomeserverError, StorageError)):
        await made.take(ALL)
    assert [made.is_fit(user) for user in ALL] == [True, False, False]
    outside.fails = lambda _step, _user: None
    await made.take(ALL)
    assert all(map(made.is_fit, ALL))


async def test_an_answer_about_a_profile_that_cannot_be_read_says_nothing() -> None:
    def fails(step: str, user: UserId) -> None:
        if (step, user) == ("profile", BUILD):
            raise HomeserverError("the answer is no object", 200)

    made = Outside({BUILD}, fails=fails).made()
    with pytest.raises(HomeserverError):
        await made.refusals(ALL)


@pytest.mark.parametrize("status", [400, 401, 403])
async def test_an_account_that_a_person_makes_after_ours_was_refused_is_left_alone(status: int) -> None:
    """As when the prefix was changed in the configuration alone, so that the names are not the bridge's yet."""
    outside = Outside()

    def fails(step: str, user: UserId) -> None:
        if (step, user) == ("register", BUILD):
            raise HomeserverError("not in the namespace", status, "M_EXCLUSIVE")

    outside.fails = fails
    with pytest.raises(HomeserverError):
        await outside.start()
    assert BUILD not in outside.rows
    outside.accounts.add(BUILD)
    outside.fails = lambda _step, _user: None
    with pytest.raises(ConfigError, match=f"{BUILD} exists"):
        await outside.start()
    assert BUILD not in outside.rows


async def test_an_account_of_which_it_is_not_known_whether_it_was_made_is_taken_at_the_next_start() -> None:
    outside = Outside()

    def fails(step: str, user: UserId) -> None:
        if (step, user) == ("registered", BUILD):
            raise HomeserverError("no answer", 502)

    outside.fails = fails
    with pytest.raises(HomeserverError):
        await outside.start()
    outside.fails = lambda _step, _user: None
    assert (await outside.start()).is_fit(BUILD)


async def test_an_account_that_a_wrong_server_does_not_know_is_not_taken_for_one_that_nobody_has() -> None:
    """A proxy may lead one request elsewhere; a bridge that is killed then must not own a person's account later."""
    outside = Outside({BUILD})

    def fails(step: str, user: UserId) -> None:
        if (step, user) == ("profile", BUILD):
            raise HomeserverError("unknown request", 404, "M_UNRECOGNIZED")
        if (step, user) == ("register", BUILD):
            raise KilledError

    outside.fails = fails
    with pytest.raises(KilledError):
        await outside.start(users=[BUILD])
    outside.fails = lambda _step, _user: None
    with pytest.raises(ConfigError, match=f"{BUILD} exists"):
        await outside.start(users=[BUILD])


async def test_wherever_a_start_is_killed_the_next_one_asks_nothing() -> None:
    """For each step of a first start: a kill before it, and one right behind the registration."""
    names = ("profile", "remember", "register", "registered")
    for name, at in itertools.product(names, range(1, 4)):
        count = 0

        def fails(step: str, _user: UserId, name: str = name, at: int = at) -> None:
            nonlocal count
            count += step == name
            if step == name and count == at:
                raise KilledError

        outside = Outside(fails=fails)
        with pytest.raises(KilledError):
            await outside.start(users=[BUILD, LAB, BOT])
        outside.fails = lambda _step, _user: None
        await outside.start()
        assert set(outside.rows.values()) == {"registered"}
