"""The client's side: reads requests from either wire, and writes answers and refusals on it.

Knows no replica and none of their wires.
"""
