"""Who asks for something, and from where: what every use case that writes is given, and every event tells."""

from __future__ import annotations

from typing import NamedTuple

from berth.states import Role


class Caller(NamedTuple):
    """Whoever presented a valid key. `tenant` is None for the platform's own."""

    key_id: str
    role: Role
    tenant: str | None


class Command(NamedTuple):
    """A request to change something. `address` is the client's as the controller sees it: the proxy's, if there is one.
    `address` and `request_id` are "" for what the controller does unasked."""

    caller: Caller
    address: str = ""
    request_id: str = ""

    @property
    def actor(self) -> str:
        """Who is named in events: a key's id, or the part of the controller that acts by itself."""
        return self.caller.key_id


def unasked(part: str) -> Command:
    """What a part of the controller does by itself."""
    return Command(Caller(part, Role.ADMIN, None))


ROLLOUT = unasked("controller")
AUTOSCALER = unasked("autoscaler")
POOLS_FILE = unasked("pools-file")
START = unasked("bootstrap")
"""The start of a controller, which makes the first key."""
