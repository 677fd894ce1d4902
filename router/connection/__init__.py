"""A connection without a request: transports, joined writes, dialling, and the bytes that are held in memory.

Knows framing (`berth.http`) and no question that is asked over it.
"""
