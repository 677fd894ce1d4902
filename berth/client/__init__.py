"""The Python SDK, `Berth` and `AsyncBerth`: speaks the control API and OIP v2, knows nothing of a server's inside.

What is asked is written once, as generators that yield requests as values (`operations`); two thin transports carry
them out, one blocking, one asynchronous. httpx stays behind `transport`.
"""

from berth.client.clients import AsyncBerth, Berth

__all__ = ["AsyncBerth", "Berth"]
