"""The configuration in force: made before all that asks it, so that nothing has to be told of it later."""

from __future__ import annotations

from mxrtc_bridge.config.config import Config
from mxrtc_bridge.core.ids import UserId


class CurrentConfig:
    """The one place that says which configuration is in force; whoever needs it asks at each use.

    Args:
        config: the configuration that the bridge starts with.
    """

    __slots__ = ("_in_force",)

    def __init__(self, config: Config) -> None:
        self.put_in_force(config)

    @property
    def in_force(self) -> Config:
        """What the admin has written down, and the bridge goes by now."""
        return self._in_force

    def claims(self, user: UserId) -> bool:
        """Whether ``user`` lies in the namespace of the bridge, by the configuration in force."""
        return self._in_force.claims(user)

    def own_user(self, user: str) -> bool:
        """Whether ``user`` is the bot or a configured peer, by the configuration in force."""
        return self._in_force.own_user(user)

    def put_in_force(self, config: Config) -> None:
        """Replace the configuration by ``config``, which was checked; only a reload does that."""
        self._in_force = config
