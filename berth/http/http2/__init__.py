"""HTTP/2 (RFC 9113) and its header compression (RFC 7541), without I/O.

A connection (`connection.py`, in the roles of `server.py` and `client.py`) holds parts, each with a state of its own:
the streams and how they end (`streams.py`), our half of them and the peer's windows (`outbound.py`), the peer's half
(`body_in.py`) and the window that we grant (`credit.py`), header blocks (`blocks.py`), settings, pings, and the count
of what a peer may burden us with. A part changes another only through its methods, and knows those that it is given:
none knows the connection. What they are made of keeps no state or little: frames, streams, fields and their meaning.
"""
