"""The data path: sockets, framing shells, and the exchange that carries one request.

Owns connections to clients and to replicas, and every byte between them. Never decides where a request goes or whether
it may: `router.core` does, asked through `router.engine.exchange`. No task, future or timer is made for a request.
"""
