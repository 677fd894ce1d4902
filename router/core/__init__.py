"""The router's decisions: where a request may go, whom to pick, when to send it again, whom to refuse.

Synchronous and told the time; no wire, no clock, no socket.
"""
