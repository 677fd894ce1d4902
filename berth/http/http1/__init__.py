"""HTTP/1.1 (RFC 9112), without I/O.

`connection.py` is the state machine of both roles; `grammar.py` reads heads, `body.py` reads bodies, `encoding.py`
writes heads. What two parsers could read in two ways is refused, never repaired: requests are smuggled
through repairs.
"""
