"""The means to carry requests: one set per process, shared by all requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from router.control.board import RouteBoard
from router.core.race import Course
from router.path.answering.answering import AnswerChoice
from router.path.gate import Gate
from router.path.race.clocks import Clocks
from router.path.upstream.pools import Upstreams
from router.path.watchers.watcher import Follower, Watcher


class Means:
    """`watchers` observe requests. `followers` are those of them that follow each step."""

    __slots__ = (
        "answering", "board", "call_soon", "clocks", "course", "followers", "gate", "time", "upstreams", "watchers",
    )  # fmt: skip

    def __init__(
        self,
        board: RouteBoard,
        gate: Gate,
        upstreams: Upstreams,
        course: Course,
        answering: AnswerChoice,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        loop = asyncio.get_running_loop()
        self.time: Callable[[], float] = loop.time
        self.call_soon: Callable[..., object] = loop.call_soon
        self.board = board
        self.gate = gate
        self.upstreams = upstreams
        self.course = course
        self.answering = answering
        self.watchers = list(watchers)
        self.followers = [watcher for watcher in watchers if isinstance(watcher, Follower)]
        self.clocks = clocks = Clocks(loop)
        board.watch(lambda _: clocks.table_came())
