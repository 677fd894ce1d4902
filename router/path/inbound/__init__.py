"""The client's side: what was asked, on which wire, and how the answer or the refusal is written there.

Knows no replica and none of their wires.
"""
