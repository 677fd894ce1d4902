"""What every test of the tree relies on."""

import asyncio


def pytest_configure() -> None:
    # Python 3.11's policy would make an event loop for whoever asks first, and nobody would close it.
    asyncio.set_event_loop(None)
