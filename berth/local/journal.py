"""Where the supervisor's own log goes: a file beside those of its children, for the terminal belongs to the person."""

from __future__ import annotations

from pathlib import Path

import structlog


def log_to(path: Path) -> None:
    """Append this process's structured log to `path` from now on."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(default=str),
        ],
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        # Open as long as the process: it is the last to end.
        logger_factory=structlog.PrintLoggerFactory(path.open("a", buffering=1)),
    )
