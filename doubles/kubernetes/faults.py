"""Faults by script: what the server is to do wrong, to which requests, how many times.

    faults.add(Fault("status", verb="list", resource="pods", code=503, retry_after_s=1, times=2))
    faults.add(Fault("reset", verb="watch", resource="pods", after_events=3))

Actions on any request: `status` (answer `code`), `conflict` (409 as if somebody else had written), `expired` (410),
`reset` (the connection ends by RST before an answer). On a watch: `expired` is an ERROR event in the
stream, `reset` and `expired` come after `after_events` events, `slow` delays each event by `delay_s`, `lose` swallows
the event after `after_events`, compacts history and ends in 410, `bookmarks` sends bookmarks but no events.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from doubles.kubernetes.status import ApiError

ACTIONS = frozenset({"status", "conflict", "expired", "reset", "slow", "lose", "bookmarks"})
_ON_WATCHES = frozenset({"expired", "reset", "slow", "lose", "bookmarks"})
_REASONS = {
    401: "Unauthorized",
    403: "Forbidden",
    404: "NotFound",
    409: "Conflict",
    410: "Expired",
    429: "TooManyRequests",
    500: "InternalError",
    503: "ServiceUnavailable",
    504: "Timeout",
}


@dataclass(frozen=True, slots=True)
class Fault:
    """`times` requests of `verb` on `resource` (plural; `*` is any) meet it; `times` 0: all until it is taken away."""

    action: str
    verb: str = "*"
    resource: str = "*"
    subresource: str = "*"
    namespace: str = "*"
    name: str = "*"
    user: str = "*"
    times: int = 1
    code: int = 503
    retry_after_s: int = 0
    after_events: int = 0
    delay_s: float = 0.0

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ValueError(f"{self.action!r} is no fault; there are {', '.join(sorted(ACTIONS))}")

    @property
    def on_watch(self) -> bool:
        """Whether a watch begins well and meets the fault in its stream."""
        return self.action in _ON_WATCHES

    def error(self) -> ApiError:
        """The refusal of a fault that answers."""
        code = {"conflict": 409, "expired": 410}.get(self.action, self.code)
        message = {
            409: "the object has been modified; please apply your changes to the latest version and try again",
            410: "too old resource version: scripted",
        }.get(code, "a scripted fault")
        details = {"retryAfterSeconds": self.retry_after_s} if self.retry_after_s else None
        return ApiError(code, _REASONS.get(code, "Unknown"), message, details)


class Faults:
    """The script. Faults are tried in the order in which they were added."""

    def __init__(self) -> None:
        self.pending: list[Fault] = []

    def __repr__(self) -> str:
        return f"<Faults {self.pending}>"

    def add(self, fault: Fault) -> None:
        self.pending.append(fault)

    def clear(self) -> None:
        self.pending.clear()

    def take(self, **request: str) -> Fault | None:
        """The fault that a request meets, if any: one of its times is then used up."""
        for position, fault in enumerate(self.pending):
            if all(getattr(fault, field) in ("*", value) for field, value in request.items()):
                if fault.times == 1:
                    del self.pending[position]
                elif fault.times > 1:
                    self.pending[position] = replace(fault, times=fault.times - 1)
                return fault
        return None
