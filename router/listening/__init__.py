"""The router's doors: ports, TLS towards clients, and which of several processes accepts the next connection.

Hands each connection to `router.path.inbound` and knows nothing of what comes over it.
"""
