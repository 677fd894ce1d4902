"""Turns what obstore raises into Berth's errors; the details go to the log, since they name buckets and hosts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog
from obstore.exceptions import BaseError

from berth.errors import NotFound, Unavailable

log = structlog.get_logger(__name__)


@contextmanager
def store_faults(name: str) -> Iterator[None]:
    """Only calls of obstore belong inside: any `FileNotFoundError` is taken to mean that `name` does not exist."""
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"there is no artifact {name.rpartition('/')[2]}") from None
    except (BaseError, OSError) as error:
        log.error("the object store fails", object=name, error=str(error))
        raise Unavailable("the artifact store cannot be used now", retry_after=5.0) from error
