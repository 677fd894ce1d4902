"""The synchronizer's decisions: pure, synchronous, told the time.

Events go in, instructions come out. Nothing here waits, logs, reads a clock or knows a transport.
"""
