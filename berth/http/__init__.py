"""HTTP/1.1 and HTTP/2 framing without I/O: bytes in, events out, bytes to write.

Owns the wire: parsing, header compression, flow control, limits, and what is refused because of RFC 9110, 9112, 9113
and 7541. Never owns a socket, a clock, a task or a decision about a request: a shell does, in four steps per batch.

    events = connection.receive(data)     # what the peer said; never raises for anything that a peer can send
    for event in events: ...              # answer through send_head, send_data, send_trailers, reset
    connection.consume(stream_id, size)   # body bytes the shell is done with: opens the peer's window again
    transport.write(connection.output())  # everything to be written, joined once

The four connections (server and client, HTTP/1.1 and HTTP/2) take the same calls and give the same events, so a proxy
need not know which it holds. On HTTP/1.1 a stream id counts the exchanges of the connection: 1, 2, 3, …

Back-pressure runs end to end. `send_data` returns how many bytes went into the output; the rest waits in the
connection, and `DataSent` tells when it went. A proxy calls `consume` on the source for exactly these bytes; so no
stream ever holds more than one receive window. When the transport is full the shell calls `pause()`, later `resume()`.

A send on a stream that is gone does nothing and counts as sent: its `StreamReset` is already among the events that the
shell has yet to read. A send that can never be right raises `LocalError`: the shell has a bug.

Not offered, on purpose: server push, upgrade, CONNECT, and priorities. They are refused or ignored as the RFCs allow.
"""
