"""Two calls that cross: the user's goes on, at both ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mxrtc_bridge.core.glare import GlareWinner, resolve_glare
from mxrtc_bridge.core.ids import CallId
from tests.core.call_messages import PEER, USER, invite

LESSER, GREATER = CallId("a-call"), CallId("b-call")


@pytest.mark.parametrize(("service_id", "user_id"), [(LESSER, GREATER), (GREATER, LESSER)])
@pytest.mark.parametrize("invitee", [None, PEER])
def test_both_ends_let_the_users_call_go_on(service_id: CallId, user_id: CallId, invitee: None) -> None:
    """The ids decide nothing, and neither does whether the client names an invitee (Element does not)."""
    of_service = replace(invite(invitee=USER), call_id=service_id)
    of_user = replace(invite(invitee=invitee), call_id=user_id)
    assert resolve_glare(of_service, of_user, local_is_service=True) is GlareWinner.THEIRS
    assert resolve_glare(of_user, of_service, local_is_service=False) is GlareWinner.OURS


def test_an_invite_that_takes_our_call_id_never_wins() -> None:
    assert resolve_glare(invite(), invite(), local_is_service=True) is GlareWinner.OURS
