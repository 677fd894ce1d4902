"""HTTP/2 (RFC 9113) and its header compression (RFC 7541), without I/O.

`connection.py` is the state machine of both roles, on top of what comes (`body_in.py`) and what goes (`outbound.py`) of bodies;
nothing else changes a connection's state. The others are what it is made of: frames, header blocks and their meaning, streams, and the count of what a peer may burden us with.
"""
