from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mxrtc_bridge.core.ids import ServiceName, UserId
from mxrtc_bridge.core.stream import control_channel, json_message, messages, silence
from mxrtc_bridge.core.stream import events as stream
from mxrtc_bridge.core.stream.control_channel import ControlMachine, ControlPhase
from mxrtc_bridge.core.stream.events import StreamRole
from tests.core.driven import Driven
from tests.long import examples

PEER = UserId("@rtc_build:example.org")
OTHER = UserId("@rtc_nas:example.org")
HELLO = '{"t":"hello","v":1,"caps":["tcp.v1.mxrtc"]}'
OUR_HELLO = stream.SendText('{"t":"hello","v":1,"caps":["ctl.v1.mxrtc","tcp.v1.mxrtc","raw.mxrtc"]}')
BYE_VIOLATION = stream.SendText('{"t":"bye","c":"violation","m":""}')
CLOSE_CHANNEL = stream.CloseChannel()


class DrivenControl(Driven):
    def __init__(self, *, greeted: bool = True, role: StreamRole = StreamRole.OPENER) -> None:
        super().__init__(ControlMachine(role))
        if greeted:
            self.feed(stream.DataChannelOpened())
            self.hear(HELLO)

    def wait(self, seconds: float) -> list[control_channel.ControlEffect]:
        """Let time pass, with a tick at every deadline on the way."""
        until = self.now + seconds
        effects: list[control_channel.ControlEffect] = []
        while (deadline := self.machine.next_deadline()) is not None and deadline <= until:
            self.now = max(self.now, deadline)
            effects += self.feed(stream.Tick())
        self.now = until
        return effects


def ping(number: int) -> stream.SendText:
    return stream.SendText(f'{{"t":"ping","n":{number}}}')


# Greeting


def test_both_say_hello_at_once_and_the_first_ping_follows() -> None:
    driven = DrivenControl(greeted=False)
    assert driven.machine.next_deadline() is None
    assert driven.feed(stream.DataChannelOpened()) == [OUR_HELLO]
    assert driven.machine.phase is ControlPhase.GREETING
    assert driven.hear(HELLO) == [control_channel.Greeted(1, ("tcp.v1.mxrtc",)), ping(1)]
    assert driven.machine.phase is ControlPhase.GREETED


def test_message_says_that_the_channel_is_open() -> None:
    driven = DrivenControl(greeted=False)
    assert driven.hear(HELLO)[0] == OUR_HELLO
    assert driven.feed(stream.DataChannelOpened()) == []


def test_newer_side_is_spoken_to_in_our_version() -> None:
    driven = DrivenControl(greeted=False)
    assert control_channel.Greeted(1, ()) in driven.hear('{"t":"hello","v":7,"caps":[]}')


def test_missing_hello_ends_after_ten_seconds() -> None:
    driven = DrivenControl(greeted=False)
    driven.feed(stream.DataChannelOpened())
    assert driven.wait(9.9) == []
    assert driven.wait(0.1) == [
        CLOSE_CHANNEL,
        control_channel.Dead("no_hello", "the other side did not say hello within 10 s"),
    ]
    assert driven.machine.next_deadline() is None


# Liveness


@pytest.mark.parametrize(("role", "quiet_s"), [(StreamRole.OPENER, 2), (StreamRole.ACCEPTOR, 3)])
def test_ping_goes_out_after_some_silence_and_is_measured(role: StreamRole, quiet_s: int) -> None:
    driven = DrivenControl(role=role)
    driven.now += 0.25
    assert driven.hear('{"t":"pong","n":1}') == [control_channel.PingAnswered(0.25)]
    assert driven.wait(quiet_s - 0.01) == []
    assert driven.feed(control_channel.TrafficSeen()) == []
    assert driven.wait(quiet_s - 0.01) == []
    assert driven.wait(0.01) == [ping(2)]
    assert driven.wait(quiet_s) == [ping(3)]


def test_one_question_is_enough_for_both_while_nothing_else_is_said() -> None:
    driven = DrivenControl(role=StreamRole.ACCEPTOR)
    for number in range(20):
        driven.wait(2.5)
        assert driven.hear(f'{{"t":"ping","n":{number}}}') == [stream.SendText(f'{{"t":"pong","n":{number}}}')]


def test_an_outage_is_no_death_and_a_longer_silence_is() -> None:
    driven = DrivenControl()
    waited = driven.wait(silence.DEAD_S - 0.1)
    assert waited == [ping(number) for number in range(2, 2 + len(waited))]
    assert driven.wait(0.2)[-2:] == [
        CLOSE_CHANNEL,
        control_channel.Dead("timeout", "nothing came from the other side for 40 s"),
    ]


@pytest.mark.parametrize(
    "sign",
    [
        control_channel.TrafficSeen(),
        stream.TextReceived('{"t":"pong","n":99}'),
        stream.TextReceived('{"t":"x-y"}'),
    ],
)
def test_any_sign_of_life_keeps_the_session(sign: control_channel.ControlEvent) -> None:
    driven = DrivenControl()
    for _ in range(10):
        assert not any(isinstance(effect, control_channel.Dead) for effect in driven.wait(silence.DEAD_S - 0.1))
        driven.feed(sign)
    assert driven.machine.phase is ControlPhase.GREETED


def test_pong_that_was_never_asked_for_measures_nothing() -> None:
    driven = DrivenControl()
    assert driven.hear('{"t":"pong","n":99}') == []
    assert driven.hear('{"t":"pong","n":1}') == [control_channel.PingAnswered(0.0)]
    assert driven.hear('{"t":"pong","n":1}') == []


def test_ping_is_answered_with_its_number() -> None:
    assert DrivenControl().hear('{"t":"ping","n":9007199254740991}') == [
        stream.SendText('{"t":"pong","n":9007199254740991}')
    ]


def test_ping_that_somebody_asks_for_goes_out_soon_but_not_in_a_flood() -> None:
    driven = DrivenControl()
    assert driven.feed(control_channel.AskPing()) == [], "one is on its way already"
    driven.hear('{"t":"pong","n":1}')
    assert driven.feed(control_channel.AskPing()) == [ping(2)], "the first does not wait for that of the greeting"
    driven.hear('{"t":"pong","n":2}')
    assert driven.feed(control_channel.AskPing()) == []
    assert driven.wait(0.5) == [ping(3)]
    driven.hear('{"t":"pong","n":3}')
    driven.now += 1
    assert driven.feed(control_channel.AskPing()) == [ping(4)]


# Lists


def test_list_is_asked_for_once_greeted_and_put_together() -> None:
    driven = DrivenControl(greeted=False)
    driven.feed(stream.DataChannelOpened())
    assert driven.feed(control_channel.AskList()) == []
    assert stream.SendText('{"t":"list","n":1}') in driven.hear(HELLO)
    assert driven.feed(control_channel.AskList()) == [], "the answer on its way serves both"
    for peer, service in ((PEER, "ssh"), (OTHER, "smb"), (PEER, "web")):
        assert driven.hear(f'{{"t":"peer","n":1,"peer":"{peer}","services":["{service}"]}}') == []
    assert driven.hear('{"t":"end","n":1}') == [
        control_channel.ListReceived(((PEER, (ServiceName("ssh"), ServiceName("web"))), (OTHER, (ServiceName("smb"),))))
    ]
    assert driven.feed(control_channel.AskList()) == [stream.SendText('{"t":"list","n":3}')]


def test_list_that_is_late_fails_and_no_other_is_sent_before_its_end() -> None:
    driven = DrivenControl()
    driven.feed(control_channel.AskList())
    driven.now += 9
    driven.feed(control_channel.TrafficSeen())
    assert driven.wait(1) == [control_channel.ServiceListFailed()]
    assert driven.feed(control_channel.AskList()) == [control_channel.ServiceListFailed()]
    assert driven.hear(f'{{"t":"peer","n":2,"peer":"{PEER}","services":["ssh"]}}') == []
    assert driven.hear('{"t":"end","n":2}') == []
    assert driven.feed(control_channel.AskList())[0] == stream.SendText('{"t":"list","n":3}')


def test_list_is_answered_in_messages_that_fit() -> None:
    driven = DrivenControl()
    assert driven.hear('{"t":"list","n":5}') == [control_channel.ListRequested(5)]
    long = tuple(ServiceName(f"{number:063d}") for number in range(70))
    longest_peer = UserId("@" + '"' * 200 + ":" + "s" * 53)
    effects = driven.feed(
        control_channel.ListAnswer(5, ((longest_peer, long), (OTHER, (ServiceName("web"),)), (PEER, ())))
    )
    texts = [effect.text for effect in effects if isinstance(effect, stream.SendText)]
    assert len(texts) == len(effects)
    assert all(len(text.encode()) <= json_message.MAX_CONTROL_BYTES for text in texts)
    said = [messages.CTL.decode(text) for text in texts]
    assert said == [
        messages.PeerServices(5, longest_peer, long[:32]),
        messages.PeerServices(5, longest_peer, long[32:64]),
        messages.PeerServices(5, longest_peer, long[64:]),
        messages.PeerServices(5, OTHER, (ServiceName("web"),)),
        messages.ListEnd(5),
    ]


def test_ends_of_rights_are_listed_in_messages_that_fit_and_put_together_again() -> None:
    driven, asking = DrivenControl(), DrivenControl()
    driven.hear('{"t":"list","n":2}')
    long = tuple(ServiceName(f"{number:063d}") for number in range(50))
    longest_peer = UserId("@" + '"' * 200 + ":" + "s" * 53)
    until = {(longest_peer, name): 2**53 - 1 for name in long} | {(PEER, ServiceName("ssh")): 5}
    entries = ((longest_peer, long), (PEER, (ServiceName("ssh"), ServiceName("web"))))
    kinds = {(longest_peer, name): messages.ServiceKind.STREAM for name in long}
    states = dict.fromkeys([(PEER, ServiceName("ssh")), *until], messages.ServiceState.UNKNOWN)
    states[PEER, ServiceName("web")] = messages.ServiceState.UP
    effects = driven.feed(control_channel.ListAnswer(2, entries, until, kinds, states))
    texts = [effect.text for effect in effects if isinstance(effect, stream.SendText)]
    assert all(len(text.encode()) <= json_message.MAX_CONTROL_BYTES for text in texts)
    asking.feed(control_channel.AskList())
    (received,) = [effect for text in texts for effect in asking.hear(text)]
    assert received == control_channel.ListReceived(
        entries, tuple((peer, name, ms) for (peer, name), ms in until.items()), kinds, states
    )


def test_states_are_asked_for_by_whoever_wants_them_and_forgotten_with_the_next_list() -> None:
    driven, asking = DrivenControl(), DrivenControl()
    ssh, web = (PEER, ServiceName("ssh")), (PEER, ServiceName("web"))
    entries = ((PEER, (ssh[1], web[1])),)
    heard: list[object] = []
    for number, wanted in ((2, True), (3, False)):
        (question,) = asking.feed(control_channel.AskList(states=wanted))
        assert isinstance(question, stream.SendText)
        assert driven.hear(question.text) == [control_channel.ListRequested(number, wanted)]
        states = {ssh: messages.ServiceState.DOWN} if wanted else {}
        for effect in driven.feed(control_channel.ListAnswer(number, entries, states=states)):
            assert isinstance(effect, stream.SendText)
            heard += asking.hear(effect.text)
    told = {ssh: messages.ServiceState.DOWN, web: messages.ServiceState.UNKNOWN}
    assert heard == [control_channel.ListReceived(entries, states=told), control_channel.ListReceived(entries)]


def test_kinds_are_told_where_all_of_a_part_are_known_and_forgotten_with_the_next_list() -> None:
    driven, asking = DrivenControl(), DrivenControl()
    names = tuple(ServiceName(f"{number:063d}") for number in range(40))
    longest_peer = UserId("@" + '"' * 200 + ":" + "s" * 53)
    kinds = {(longest_peer, name): messages.ServiceKind.STREAM for name in names[:39]}
    heard = []
    for number, known in ((2, kinds), (3, {})):
        asking.feed(control_channel.AskList())
        driven.hear(f'{{"t":"list","n":{number}}}')
        effects = driven.feed(control_channel.ListAnswer(number, ((longest_peer, names),), {}, known))
        texts = [effect.text for effect in effects if isinstance(effect, stream.SendText)]
        assert all(len(text.encode()) <= json_message.MAX_CONTROL_BYTES for text in texts)
        heard += [effect for text in texts for effect in asking.hear(text)]
    told = {(longest_peer, name): messages.ServiceKind.STREAM for name in names[:32]}
    assert heard == [
        control_channel.ListReceived(((longest_peer, names),), (), told),
        control_channel.ListReceived(((longest_peer, names),)),
    ]


@pytest.mark.parametrize("until", ["5", "[]", '{"ssh":"5"}', '{"ssh":-1}', '{"ssh":1.5}', '{"ssh":null}'])
def test_an_end_that_is_no_time_is_a_violation(until: str) -> None:
    asking = DrivenControl()
    asking.feed(control_channel.AskList())
    effects = asking.hear(f'{{"t":"peer","n":2,"peer":"{PEER}","services":["ssh"],"until":{until}}}')
    assert any(isinstance(effect, control_channel.Violated) for effect in effects)


def test_an_end_of_what_is_not_listed_means_nothing() -> None:
    asking = DrivenControl()
    asking.feed(control_channel.AskList())
    asking.hear(f'{{"t":"peer","n":2,"peer":"{PEER}","services":["ssh"],"until":{{"web":5,"\u202e":"x"}}}}')
    assert asking.hear('{"t":"end","n":2}') == [control_channel.ListReceived(((PEER, (ServiceName("ssh"),)),))]


def test_list_is_answered_once() -> None:
    driven = DrivenControl()
    driven.hear('{"t":"list","n":5}')
    assert driven.feed(control_channel.ListAnswer(4, ())) == []
    assert driven.feed(control_channel.ListAnswer(5, ())) == [stream.SendText('{"t":"end","n":5}')]
    assert driven.feed(control_channel.ListAnswer(5, ())) == []


# Farewell


def test_bye_of_the_other_side_ends_the_session() -> None:
    assert DrivenControl().hear('{"t":"bye","c":"shutdown","m":"restarting"}') == [
        CLOSE_CHANNEL,
        control_channel.ByeReceived("shutdown", "restarting"),
    ]


def test_bye_may_come_instead_of_hello() -> None:
    driven = DrivenControl(greeted=False)
    driven.feed(stream.DataChannelOpened())
    assert driven.hear('{"t":"bye","c":"limit","m":""}')[-1] == control_channel.ByeReceived("limit", "")


def test_our_farewell_is_said_and_ends_everything() -> None:
    driven = DrivenControl()
    assert driven.feed(control_channel.Farewell("done", "thank you")) == [
        stream.SendText('{"t":"bye","c":"done","m":"thank you"}'),
        CLOSE_CHANNEL,
    ]
    assert driven.machine.phase is ControlPhase.ENDED
    assert driven.feed(stream.DataChannelClosed()) == []


def test_farewell_before_the_channel_is_open_only_closes_it() -> None:
    assert DrivenControl(greeted=False).feed(control_channel.Farewell("done", "")) == [CLOSE_CHANNEL]


def test_channel_that_closes_without_bye_is_death() -> None:
    assert DrivenControl().feed(stream.DataChannelClosed()) == [
        control_channel.Dead("closed", "the other side closed the control channel")
    ]


LATE: list[control_channel.ControlEvent] = [
    stream.DataChannelOpened(),
    stream.TextReceived(HELLO),
    stream.TextReceived("garbage"),
    stream.BinaryReceived(b"late"),
    stream.DataChannelClosed(),
    control_channel.TrafficSeen(),
    control_channel.AskList(),
    control_channel.AskPing(),
    control_channel.ListAnswer(1, ()),
    control_channel.Farewell("done", ""),
    stream.Tick(),
]


@pytest.mark.parametrize("event", LATE, ids=repr)
def test_late_event_does_nothing(event: control_channel.ControlEvent) -> None:
    driven = DrivenControl()
    driven.feed(stream.DataChannelClosed())
    driven.now += 1000
    assert driven.feed(event) == []
    assert driven.machine.next_deadline() is None


# Violations


@pytest.mark.parametrize(
    ("greeted", "text", "code"),
    [
        (False, '{"t":"ping","n":1}', "out_of_turn"),
        (False, '{"t":"list","n":1}', "out_of_turn"),
        (True, HELLO, "out_of_turn"),
        (True, f'{{"t":"peer","n":1,"peer":"{PEER}","services":[]}}', "out_of_turn"),
        (True, '{"t":"end","n":1}', "out_of_turn"),
        (True, '{"t":"fin","o":1}', "unknown_message"),
        (True, "", "not_json"),
        (True, '{"t":"ping","n":-1}', "bad_field"),
    ],
)
def test_message_out_of_turn_is_a_violation(greeted: bool, text: str, code: str) -> None:
    driven = DrivenControl(greeted=greeted)
    if not greeted:
        driven.feed(stream.DataChannelOpened())
    effects = driven.hear(text)
    assert effects[:2] == [BYE_VIOLATION, CLOSE_CHANNEL]
    assert isinstance(effects[2], control_channel.Violated)
    assert effects[2].code == code
    assert len(effects) == 3


def test_payload_is_a_violation_and_an_empty_message_is_nothing() -> None:
    driven = DrivenControl()
    assert driven.feed(stream.BinaryReceived(b"")) == []
    assert isinstance(driven.feed(stream.BinaryReceived(b"x"))[-1], control_channel.Violated)


def test_second_list_before_the_answer_is_a_violation() -> None:
    driven = DrivenControl()
    driven.hear('{"t":"list","n":5}')
    assert isinstance(driven.hear('{"t":"list","n":6}')[-1], control_channel.Violated)


def test_flood_of_requests_is_a_violation_and_a_lasting_four_a_second_is_none() -> None:
    driven = DrivenControl()
    for _ in range(400):
        driven.now += 0.25
        assert len(driven.hear('{"t":"ping","n":1}')) <= 2
    for _ in range(31):
        driven.hear('{"t":"ping","n":1}')
    assert driven.machine.phase is ControlPhase.GREETED
    effects = driven.hear('{"t":"ping","n":1}')
    assert isinstance(effects[-1], control_channel.Violated)
    assert effects[-1].code == "rate"


def test_answer_without_end_is_a_violation() -> None:
    driven = DrivenControl()
    driven.feed(control_channel.AskList())
    for _ in range(control_channel.MAX_LIST_MESSAGES):
        assert driven.hear(f'{{"t":"peer","n":2,"peer":"{PEER}","services":["ssh"]}}') == []
    effects = driven.hear(f'{{"t":"peer","n":2,"peer":"{PEER}","services":["ssh"]}}')
    assert isinstance(effects[-1], control_channel.Violated)
    assert effects[-1].code == "too_long"


def test_table_has_a_row_for_every_phase() -> None:
    assert set(control_channel.MESSAGES) == set(ControlPhase)


ENDS = (control_channel.ByeReceived, control_channel.Violated, control_channel.Dead)
TEXTS = st.sampled_from(
    [
        HELLO,
        '{"t":"ping","n":1}',
        '{"t":"pong","n":1}',
        '{"t":"pong","n":2}',
        '{"t":"list","n":1}',
        f'{{"t":"peer","n":2,"peer":"{PEER}","services":["ssh"]}}',
        '{"t":"end","n":2}',
        '{"t":"bye","c":"done","m":""}',
        '{"t":"x-trial"}',
        "garbage",
    ]
)
EVENTS = st.one_of(
    TEXTS.map(stream.TextReceived),
    st.text(max_size=20).map(stream.TextReceived),
    st.binary(max_size=3).map(stream.BinaryReceived),
    st.sampled_from([event for event in LATE if not isinstance(event, stream.TextReceived)]),
)


@given(st.lists(st.tuples(EVENTS, st.sampled_from([0.0, 0.1, 2.0, silence.DEAD_S])), max_size=40))
@settings(max_examples=examples(300), deadline=None)
def test_any_other_side_ends_the_control_channel_at_most_once(
    steps: list[tuple[control_channel.ControlEvent, float]],
) -> None:
    """Whatever comes, nothing raises, every byte is consumed, and after the end nothing is sent."""
    driven = DrivenControl(greeted=False)
    came = ends = 0
    for event, wait in steps:
        driven.now += wait
        over = driven.machine.phase is ControlPhase.ENDED
        effects = driven.feed(event)
        assert not (over and effects)
        came += len(event.text.encode()) if isinstance(event, stream.TextReceived) else 0
        came += len(event.data) if isinstance(event, stream.BinaryReceived) else 0
        ends += sum(isinstance(effect, ENDS) for effect in effects)
        assert driven.consumed == came
        assert (driven.machine.next_deadline() is None) == (
            driven.machine.phase in {ControlPhase.OPENING, ControlPhase.ENDED}
        )
    assert ends <= 1


@given(
    delays=st.lists(st.sampled_from([0.0, 0.01, 0.5, 2.0, 5.9]), min_size=1, max_size=20),
    asks=st.lists(st.sampled_from(["ping", "list", "nothing"]), max_size=30),
)
@settings(max_examples=examples(100), deadline=None)
def test_two_honest_ends_never_lose_each_other_on_a_slow_line(delays: list[float], asks: list[str]) -> None:
    """Messages may take up to 5.9 s, in order: no death, no violation, every list is answered."""
    ends = {role: ControlMachine(role) for role in StreamRole}
    other = {StreamRole.OPENER: StreamRole.ACCEPTOR, StreamRole.ACCEPTOR: StreamRole.OPENER}
    lines: dict[StreamRole, deque[tuple[float, str]]] = {role: deque() for role in StreamRole}
    turn = lists_asked = lists_got = 0
    now = 0.0

    def feed(role: StreamRole, event: control_channel.ControlEvent) -> None:
        nonlocal turn, lists_got
        ends[role].handle(now, event)
        while (effect := ends[role].poll_effect()) is not None:
            assert not isinstance(effect, ENDS)
            match effect:
                case stream.SendText(text=text):
                    turn += 1
                    due = now + delays[turn % len(delays)]
                    line = lines[other[role]]
                    line.append((max(due, line[-1][0]) if line else due, text))
                case control_channel.ListRequested(number=number):
                    feed(role, control_channel.ListAnswer(number, ((PEER, (ServiceName("ssh"),)),)))
                case control_channel.ListReceived(entries=entries):
                    assert entries == ((PEER, (ServiceName("ssh"),)),)
                    lists_got += 1
                case control_channel.ServiceListFailed():
                    lists_got += 1

    for role in StreamRole:
        feed(role, stream.DataChannelOpened())
    todo = deque(asks)
    while now < 120:
        times = [line[0][0] for line in lines.values() if line]
        times += [deadline for end in ends.values() if (deadline := end.next_deadline()) is not None]
        now = max(now, min(times))
        for role in StreamRole:
            while lines[role] and lines[role][0][0] <= now:
                feed(role, stream.TextReceived(lines[role].popleft()[1]))
            if (deadline := ends[role].next_deadline()) is not None and deadline <= now:
                feed(role, stream.Tick())
        if todo:
            match todo.popleft():
                case "ping":
                    feed(StreamRole.OPENER, control_channel.AskPing())
                case "list":
                    lists_asked += 1
                    feed(StreamRole.OPENER, control_channel.AskList())
    assert all(end.phase is ControlPhase.GREETED for end in ends.values())
    assert (lists_got > 0) == (lists_asked > 0)
