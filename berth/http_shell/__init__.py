"""Asyncio around `berth.http`: moves bytes between transports and connections, and listens.

Does what all our servers need: telling HTTP/1.1 from HTTP/2, writing once per turn of the loop, back-pressure from and
to the transport, limits in time and number, closing in order. Its `link.py` serves clients too. Never looks into a
request: the `Answerer` does, which a component gives to each connection.

    links = Links(Shared(loop), ShellLimits(), Http1Limits(), Http2Limits())
    async with listen("127.0.0.1:8000", links, accept, tls=context) as port:     # accept(link) -> Answerer
        links.start()
        ...
        port.close()
        await links.drain(10.0, 1.0)
    links.close()

`on_events(events)` is called with the events of one read. It answers through `link.http`, and must neither block nor
raise. What it sends is written when the turn of the loop is over. Whoever sends at any other time calls `link.mark()`.
"""
