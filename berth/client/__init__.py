"""The Python SDK, `Berth` and `AsyncBerth`: speaks the control API and OIP v2, knows nothing of a server's inside.

Every operation is written once, as a generator that yields requests as values (`operations`). Two thin transports carry
them out, one blocking, one asynchronous. httpx stays behind `transport`.
"""

from berth.client.clients import AsyncBerth, Berth

__all__ = ["AsyncBerth", "Berth"]
