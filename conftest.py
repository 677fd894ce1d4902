"""What every test of the tree relies on."""

import asyncio

import hypothesis

# A time limit per example would fail tests on a busy machine, and says nothing of the code.
hypothesis.settings.register_profile("berth", deadline=None)
hypothesis.settings.load_profile("berth")


def pytest_configure() -> None:
    # Python 3.11's policy would make an event loop for whoever asks first, and nobody would close it.
    asyncio.set_event_loop(None)
