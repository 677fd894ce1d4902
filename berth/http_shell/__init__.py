"""Asyncio around `berth.http`: moves bytes between transports and connections, and listens.

Owns what every server of ours does alike: telling HTTP/1.1 from HTTP/2, writing once per batch of events, back-pressure
from and to the transport, limits in time and number, closing in order. Never looks at what a request is about: that is
for the `on_events` that a component gives to each connection.

    async with listen("127.0.0.1:8000", accept, tls=context) as listener:     # accept(link) -> on_events
        ...
        await listener.drain(10.0)

`on_events(events)` is called with what a read brought, answers through `link.connection`, and must neither block nor
raise. What it sends is written once it returns. Whoever sends at any other time calls `link.flush_soon()`, which joins
everything sent in that turn of the loop into one write.
"""
