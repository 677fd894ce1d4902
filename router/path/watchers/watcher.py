"""What may be told of requests under way. A watcher observes: it changes nothing and raises nothing.

Watchers are few and made once. Each keeps its own notes on requests.
"""

from __future__ import annotations

from berth.errors import BerthError
from router.core.attempts import Failure
from router.core.routes import Resolved
from router.path.meeting import Asking, Copy


class Watcher:
    """Told of rare events, and how each admitted request ended. A method that is not overridden does nothing."""

    __slots__ = ()

    def repeated(self, request: Asking) -> None:
        """A copy is sent because an earlier one brought no answer."""

    def passed_on(self, request: Asking, cell: str) -> None:
        """The request goes to the routers of another cell."""

    def failed(self, copy: Copy, failure: Failure, why: str) -> None:
        """A copy brought no answer."""

    def concluded(
        self, request: Asking, resolved: Resolved, replica: str, outcome: str, seconds: float, now: float
    ) -> None:
        """It is over, `seconds` after it was resolved; `outcome` is one of `router.core.tallies`.

        `replica`: who answered, or kept the request until it was given up; empty where nobody had it.
        """


class Follower(Watcher):
    """Told each step too."""

    __slots__ = ()

    def starts(self, request: Asking) -> None:
        """It has come, and is to be admitted."""

    def resolved(self, request: Asking, resolved: Resolved) -> None:
        """It is admitted, and known what is asked."""

    def sends(self, copy: Copy, attempt: str) -> None:
        """A copy is about to be sent: `first`, `retry` or `hedge`. A follower may add fields for the replica to
        `copy.fields`."""

    def ended(self, copy: Copy) -> None:
        """A copy has come to its `outcome`."""

    def refused(self, request: Asking, error: BerthError) -> None:
        """No replica gave an answer."""

    def over(self, request: Asking, outcome: str) -> None:
        """Nothing is under way any more."""
