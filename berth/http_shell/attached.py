"""A link as asyncio wants it. This module is never compiled: what asyncio looks for is a class of its own."""

from __future__ import annotations

import asyncio

from berth.http_shell.link import Link


class Attached(asyncio.BufferedProtocol):
    """Its methods are the link's own, so that nothing is called through here."""

    __slots__ = (
        "buffer_updated", "connection_lost", "connection_made", "eof_received", "get_buffer", "pause_writing",
        "resume_writing",
    )  # fmt: skip

    def __init__(self, link: Link) -> None:
        for name in Attached.__slots__:
            setattr(self, name, getattr(link, name))
