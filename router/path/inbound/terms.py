"""The terms on which clients are served: the limits, the parts that serve, and this process's own answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from berth.oip import metadata
from router.path.inbound.translated import Translator
from router.path.race.forward import Forwarder
from router.path.request_ids import RequestIds
from router.path.watchers.record import AnswerRecorder
from router.settings import RouterSettings


@dataclass(frozen=True, slots=True)
class InboundLimits:
    """Bytes and seconds; `router.settings` says why."""

    max_body_bytes: int
    body_timeout_s: float
    default_timeout_s: float
    max_timeout_s: float
    max_connections: int
    head_timeout_s: float
    idle_timeout_s: float
    keepalive_s: float

    @classmethod
    def of(cls, settings: RouterSettings) -> InboundLimits:
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})


class ClientTerms:
    """One per process. `tasks` owns the few requests that need a task: those that are translated. It is set before the
    first request."""

    def __init__(
        self, forwarder: Forwarder, translator: Translator, recorder: AnswerRecorder, limits: InboundLimits
    ) -> None:
        self.forwarder = forwarder
        self.translator = translator
        self.recorder = recorder
        self.limits = limits
        self.ids = RequestIds()
        self.tasks: asyncio.TaskGroup
        self.draining = False
        self.local_grpc: Final[dict[bytes, Callable[[], bytes]]] = {
            metadata.GRPC_METHODS + b"ServerLive": lambda: metadata.yes_message(True),
            metadata.GRPC_METHODS + b"ServerReady": lambda: metadata.yes_message(self.ready),
            metadata.GRPC_METHODS + b"ServerMetadata": lambda: metadata.server_metadata_message().SerializeToString(),
        }

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
        return self.forwarder.means.board.ready and not self.draining
