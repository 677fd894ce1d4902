"""What all connections of the router's data path share."""

from __future__ import annotations

import asyncio

from berth.http_shell.link import Shared
from router.connection.ledger import Ledger


class Common(Shared):
    """One per process. `ledger` counts the bytes of bodies that are held."""

    def __init__(self, loop: asyncio.AbstractEventLoop, ledger: Ledger) -> None:
        super().__init__(loop)
        self.ledger = ledger
