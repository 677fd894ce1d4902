"""How an answer or a refusal reaches the client: as it is, from memory, or replaced by the model's default."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from berth.errors import BerthError, DeadlineExceeded, Internal, Unavailable
from berth.ids import VersionKey
from router.control.board import RouteBoard
from router.control.metrics import RouterMetrics
from router.core.paths import Operation
from router.path.answer import Answer
from router.path.answering.default import came_to_nothing, default_answer, default_reply, hurried
from router.path.answering.kept import AnswersKept
from router.path.meeting import Asking

log = structlog.get_logger(__name__)


class AnswerChoice:
    """One per process. What it knows of a request stands with the request: `default` and `digest`."""

    __slots__ = ("_board", "_kept", "_metrics", "_time")

    def __init__(
        self, board: RouteBoard, metrics: RouterMetrics, time: Callable[[], float], kept: AnswersKept | None = None
    ) -> None:
        self._board = board
        self._metrics = metrics
        self._time = time
        self._kept = kept

    @property
    def board(self) -> RouteBoard:
        return self._board

    def prepare(self, request: Asking) -> None:
        """Before it is admitted: leave time for a default answer, and see whether the answer may be kept."""
        if request.operation is Operation.INFER:
            request.default = default = self._default_of(request)
            if default:
                request.deadline = hurried(request.deadline, self._time())
        if self._kept is not None:
            request.digest = self._kept.digest_of(request)

    def default_of(self, operation: Operation, api_key: bytes | None, model: str) -> bytes:
        """The model's default answer, for when no replica answers; empty if it has none."""
        return default_answer(self._board, operation, api_key, model)

    def count_default(self) -> None:
        """A default answer was given."""
        self._metrics.defaults.inc()

    def remembered(self, request: Asking, key: VersionKey, now: float) -> Answer | None:
        """The kept answer to the same question, by the same version."""
        if self._kept is None:
            return None
        reply = self._kept.get(request, key, now)
        return None if reply is None else Answer.of(reply)

    def keep(self, request: Asking, key: VersionKey, answer: Answer, now: float) -> None:
        """A replica that holds `key` answered: keep it for others, if it may be."""
        if self._kept is not None:
            self._kept.keep(request, key, answer.as_reply(request.wire), now)

    def give(self, request: Asking, answer: Answer) -> None:
        """A replica's whole answer, or in its place the default one."""
        if request.default and came_to_nothing(request.wire, answer.status):
            self._give_default(request, "a replica's refusal")
        else:
            request.answered(answer)

    def refuse(self, request: Asking, error: BerthError) -> None:
        """No replica gave an answer."""
        if request.default and isinstance(error, DeadlineExceeded | Unavailable):
            self._give_default(request, error.detail)
        else:
            request.refused(error)

    def _default_of(self, request: Asking) -> bytes:
        try:
            # Remembered by the table, unlike what follows.
            return self._board.routes.resolve(
                request.api_key, request.model, request.version, request.reach
            ).default_answer
        except BerthError:
            return default_answer(self._board, request.operation, request.api_key, request.model)

    def _give_default(self, request: Asking, instead_of: str) -> None:
        log.debug("default answer", request_id=request.request_id.decode("latin-1"), instead_of=instead_of)
        self.count_default()
        try:
            reply = default_reply(request.wire, request.default)
        except Exception:
            # A named boundary: what an operator stored as an answer may not be one.
            log.exception("default answer cannot be given")
            request.refused(Internal("internal error"))
            return
        request.answered(Answer.of(reply))
