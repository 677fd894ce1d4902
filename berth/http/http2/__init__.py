"""HTTP/2 (RFC 9113) and its header compression (RFC 7541), without I/O.

`connection.py` is the state machine of both roles, on top of what comes of bodies (`body_in.py`) and what goes
(`outbound.py`); nothing else changes a connection's state. The others are what these are made of: frames, header
blocks and their meaning, streams, and the count of what a peer may burden us with.
"""
