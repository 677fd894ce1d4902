"""How many replicas a job needs, on two axes: what one replica sustains (learned), and how many of them it takes.

Owns the arithmetic and what it has learned. Never reads a clock, a store or a cluster: readings and the time come in,
a number with its reason comes out.
"""
