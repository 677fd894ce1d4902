"""`berth demo`: the main job on real data, with every promise checked; and the load generator it is checked with.

Uses the local stack and the SDK, and decides nothing. Whole-process tests and benchmarks send the same load.
"""
