"""HTTP/2 (RFC 9113) and its header compression (RFC 7541), without I/O.

`connection.py` is the state machine of both roles. It stands on what goes (`outbound.py`), what comes of bodies
(`body_in.py`), how streams and connections end (`life.py`) and what is said of the connection itself (`control.py`);
nothing else changes a connection's state. The others are what these are made of: frames, header blocks and their
meaning, streams, and the count of what a peer may burden us with.
"""
